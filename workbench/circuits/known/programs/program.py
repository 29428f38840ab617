"""A discrete program as plain data: what each module reads, wants and writes, and what it says for each answer.

It is what a trained discrete transformer comes down to, and what the Python file and the data flow are made from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from workbench.circuits.known.programs.tasks import ProgramTask

TOKENS, POSITIONS, ONES, OUTPUT = "tokens", "positions", "ones", "output"
Part = Literal["query", "key", "value", "first", "second", "scores"]
Column = list[int]
"""A variable at every position of one input."""

Swap = Callable[[str, str, Column], Column]
"""``swap(source, reader, column) -> column``: what the reader sees in place of the variable that it reads."""

Reads = tuple[tuple[Part, str], ...]
"""What a module reads: what for, and the name of the variable."""


@dataclass(frozen=True)
class Head:
    """A head: at every position the value from where the key is what the query wants.

    Attributes:
        name: ``attn_layer_head``, or ``num_attn_layer_head`` for one that adds up.
        query, key, value: names of the variables that it reads.
        wanted: the key value that each query value looks for.
        counts: True where it adds up all matches and False where it copies the nearest.
    """

    name: str
    query: str
    key: str
    value: str
    wanted: tuple[int, ...]
    counts: bool


@dataclass(frozen=True)
class Lookup:
    """A table of two variables.

    Attributes:
        name: ``mlp_layer_number``, or ``num_mlp_layer_number`` for one that reads numerical variables.
        first, second: names of the variables that it reads.
        table: what it writes, by the value of the first and then of the second.
    """

    name: str
    first: str
    second: str
    table: tuple[tuple[int, ...], ...]


Module = Head | Lookup


@dataclass(frozen=True)
class Program:
    """A program and what it is for.

    Attributes:
        task: what it is for.
        modules: in the order of computation; those that nothing comes of too.
        scores: for each variable that is read at the end, what each of its values says for each class. The class with
            the largest sum is the answer, the first of several.
    """

    task: ProgramTask
    modules: tuple[Module, ...]
    scores: Mapping[str, tuple[tuple[int, ...], ...]]

    @cached_property
    def possible(self) -> dict[str, tuple[int, ...]]:
        """Values that each variable can have, whatever the input."""
        length = self.task.length
        found: dict[str, tuple[int, ...]] = {
            TOKENS: tuple(range(len(self.task.words))),
            POSITIONS: tuple(range(length)),
            ONES: (1,),
        }
        for module in self.modules:
            if isinstance(module, Lookup):
                pairs = ((a, b) for a in found[module.first] for b in found[module.second])
                if module.first == module.second:
                    pairs = ((a, a) for a in found[module.first])
                found[module.name] = tuple(sorted({module.table[a][b] for a, b in pairs}))
            elif module.counts:
                found[module.name] = tuple(range(length + 1)) if self.finds(module, found) else (0,)
            else:
                found[module.name] = found[module.value]
        return found

    def finds(self, head: Head, possible: Mapping[str, tuple[int, ...]] | None = None) -> bool:
        """Whether any key that the head looks for can be there."""
        values = possible or self.possible
        return any(head.wanted[value] in values[head.key] for value in values[head.query])

    @cached_property
    def reads(self) -> dict[str, Reads]:
        """What each module, and ``output``, reads and depends on, by what for.

        What cannot matter is left out: a query where the same key is wanted for each, a key where none that is wanted
        can be there, a variable that a table does not tell apart, and a variable with one possible value.
        """
        found: dict[str, Reads] = {}
        for module in self.modules:
            found[module.name] = self._of_head(module) if isinstance(module, Head) else self._of_lookup(module)
        output = [name for name, rows in self.scores.items() if len({rows[v] for v in self.possible[name]}) > 1]
        found[OUTPUT] = tuple(("scores", name) for name in output)
        return found

    def sources(self, reader: str) -> list[str]:
        """The variables that a module, or ``output``, depends on, in the order of computation."""
        names = {name for _, name in self.reads[reader]}
        return [name for name in self.variables if name in names]

    @property
    def variables(self) -> list[str]:
        """All variables in the order of computation."""
        return [TOKENS, POSITIONS, ONES, *(module.name for module in self.modules)]

    @cached_property
    def live(self) -> tuple[str, ...]:
        """The variables that the output depends on, in the order of computation."""
        found: set[str] = set()
        new = self.sources(OUTPUT)
        while new:
            found.update(new)
            modules = [name for name in new if name in self.reads]
            new = [source for name in modules for source in self.sources(name) if source not in found]
        return tuple(name for name in self.variables if name in found)

    def run(self, words: Sequence[str], swap: Swap | None = None) -> list[str]:
        """The answers, one for each word.

        Args:
            words: an input of the task, ``<s>`` first.
            swap: changes what readers see, for experiments.

        Raises:
            ValueError: the input is empty, too long, or has a word that the task does not know.
        """
        classes = range(len(self.task.classes))
        columns = self.columns(words, swap)
        answers = []
        for i in range(len(words)):
            total = [0 for _ in classes]
            for name, rows in self.scores.items():
                total = [total[c] + rows[columns[f"{OUTPUT} {name}"][i]][c] for c in classes]
            answers.append(self.task.classes[total.index(max(total))])
        return answers

    def columns(self, words: Sequence[str], swap: Swap | None = None) -> dict[str, Column]:
        """The value of each variable at each position, and under ``output NAME`` what the output reads of it.

        Raises:
            ValueError: as in :meth:`run`.
        """
        n = len(words)
        seen = self.task.encode([words])[0, :n].tolist()
        columns: dict[str, Column] = {TOKENS: seen, POSITIONS: list(range(n)), ONES: [1] * n}

        def read(source: str, reader: str) -> Column:
            return columns[source] if swap is None else swap(source, reader, columns[source])

        for module in self.modules:
            if isinstance(module, Lookup):
                pairs = zip(read(module.first, module.name), read(module.second, module.name), strict=True)
                columns[module.name] = [module.table[a][b] for a, b in pairs]
            else:
                seen, key, value = (read(name, module.name) for name in (module.query, module.key, module.value))
                columns[module.name] = self._attend(module, seen, key, value)
        return columns | {f"{OUTPUT} {name}": read(name, OUTPUT) for name in self.scores}

    def _attend(self, head: Head, query: Column, key: Column, value: Column) -> Column:
        out = []
        for i, asks in enumerate(query):
            seen = key[: i + 1] if self.task.causal else key
            found = [j for j, has in enumerate(seen) if has == head.wanted[asks]]
            if head.counts:
                out.append(min(self.task.length, sum(value[j] for j in found)))
            else:
                out.append(value[min(found, key=lambda j, i=i: (j == i, abs(j - i), j), default=0)])  # type: ignore[misc]
        return out

    def _of_head(self, head: Head) -> Reads:
        values = self.possible
        found: list[tuple[Part, str]] = []
        finds = self.finds(head)
        if finds and len({head.wanted[value] for value in values[head.query]}) > 1:
            found.append(("query", head.query))
        if finds and len(values[head.key]) > 1:
            found.append(("key", head.key))
        if len(values[head.value]) > 1 and (finds or not head.counts):
            found.append(("value", head.value))
        return tuple(found)

    def _of_lookup(self, lookup: Lookup) -> Reads:
        first, second, table = self.possible[lookup.first], self.possible[lookup.second], lookup.table
        if lookup.first == lookup.second:
            return (("first", lookup.first),) if len({table[a][a] for a in first}) > 1 else ()
        found: list[tuple[Part, str]] = []
        if any(len({table[a][b] for a in first}) > 1 for b in second):
            found.append(("first", lookup.first))
        if any(len({table[a][b] for b in second}) > 1 for a in first):
            found.append(("second", lookup.second))
        return tuple(found)
