"""A program as a Python file that needs nothing but Python, laid out as ``ruff format`` leaves it.

Whatever is longer than a line of 88 is broken with one item a line and a comma after the last: the formatter keeps that
at every line length.
"""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar

from workbench.circuits.known.programs.program import ONES, OUTPUT, POSITIONS, TOKENS, Head, Lookup, Program
from workbench.circuits.known.programs.tasks import ProgramTask

T = TypeVar("T")

_WIDTH = 88
_STEP = "    "

_ABOUT = """Learned from examples by a discrete transformer (Friedman, Wettig and Chen 2023, Learning Transformer
Programs) and written out by workbench. Every variable has a value at each position; what the answers do not depend on
is left out."""
_NEAREST = '''

def nearest(wanted: Column, keys: Column, values: Column) -> Column:
    """Copy the value of the nearest position that has the wanted key, else of the first.

    Of two positions that are as near, the one before; the position itself comes last.
    """
    copied = []
    for i, want in enumerate(wanted):
        seen = enumerate(keys[:SEEN])
        found = [(j == i, abs(j - i), j) for j, key in seen if key == want]
        copied.append(values[min(found)[-1] if found else 0])
    return copied
'''
_ADDED = '''

def added(wanted: Column, keys: Column, values: Column) -> Column:
    """Add up the values of all positions that have the wanted key, up to LENGTH."""
    sums = []
    for i, want in enumerate(wanted):
        seen = zip(keys[:SEEN], values[:SEEN], strict=True)
        sums.append(min(LENGTH, sum(value for key, value in seen if key == want)))
    return sums
'''
_PAIRED = '''

def paired(table: Table, rest: int, first: Column, second: Column) -> Column:
    """Look up pairs of values; those that the table leaves out give ``rest``."""
    pairs = zip(first, second, strict=True)
    return [table.get(a, {}).get(b, rest) for a, b in pairs]
'''
_END = """    answers = []
    for i in range(len(tokens)):
        rows = [BASE, *(SCORES[name][column[i]] for name, column in read.items())]
        totals = [sum(scores) for scores in zip(*rows, strict=True)]
        answers.append(CLASSES[totals.index(max(totals))])
    return answers


if __name__ == "__main__":
    sys.stdout.write(" ".join(run(sys.argv[1:])) + "\\n")
"""
_RUN = '''

def run(tokens: list[str]) -> list[str]:
    """Answer at every position of an input that starts with "<s>"."""
    if not 0 < len(tokens) <= LENGTH or not set(tokens) <= set(WORDS):
        raise ValueError(f"Give 1 to {LENGTH} words out of {' '.join(WORDS)}.")
'''


def emit(program: Program, accuracy: float | None = None) -> str:
    """The text of the file; ``run(tokens: list[str]) -> list[str]`` in it gives the answers.

    Modules that nothing depends on are left out.

    Args:
        program: what to write.
        accuracy: share of held-out answers that are right, for the first lines.
    """
    live = [module for module in program.modules if module.name in program.live]
    paired = any(isinstance(module, Lookup) and len(program.reads[module.name]) == 2 for module in live)
    text = [_top(program.task, accuracy), _constants(program, paired)]
    heads = [module for module in live if isinstance(module, Head) and program.finds(module)]
    for library, needed in ((_NEAREST, any(not h.counts for h in heads)), (_ADDED, any(h.counts for h in heads))):
        text.append(_seeing(library, program.task.causal) * needed)
    if paired:
        text.append(_PAIRED)
    for module in live:
        text.append(_head(program, module) if isinstance(module, Head) else _lookup(program, module))
    return "".join([*text, _scores(program), _run(program)])


def literal(program: Program, name: str, value: int) -> str:
    """A value of a variable as it stands in the file: a word in quotes, or a number."""
    while name not in (TOKENS, POSITIONS):
        module = next((module for module in program.modules if module.name == name), None)
        if not isinstance(module, Head) or module.counts:
            return str(value)
        name = module.value
    return json.dumps(program.task.words[value]) if name == TOKENS else str(value)


def _broken(start: str, items: Sequence[str], end: str, steps: int = 0) -> str:
    """``start item, item end`` in one line where that fits with a comma behind it, else one item a line."""
    indent = _STEP * steps
    line = f"{indent}{start}{', '.join(items)}{end}"
    if len(line) < _WIDTH:
        return line + "\n"
    inner = "".join(f"{indent}{_STEP}{item},\n" for item in items)
    return f"{indent}{start}\n{inner}{indent}{end}\n"


def _with_comma(text: str) -> str:
    return text.rstrip("\n") + ",\n"


def _top(task: ProgramTask, accuracy: float | None) -> str:
    said = task.description[0].lower() + task.description[1:]
    right = "" if accuracy is None else f" Right in {100 * accuracy:.2f} % of held-out answers."
    first = "\n".join(textwrap.wrap(f"{task.key}: {said}", _WIDTH - 3))
    about = "\n".join(textwrap.wrap(_ABOUT.replace("\n", " ") + right, _WIDTH - 1, break_on_hyphens=False))
    return f'"""{first}\n\n{about}\n"""\n\nimport sys\nfrom typing import Any\n\n'


def _constants(program: Program, paired: bool) -> str:
    task = program.task
    text = "Column = list[Any]\n" + "Table = dict[Any, dict[Any, int]]\n" * paired
    text += _broken("WORDS = (", [json.dumps(word) for word in task.words], ")")
    text += _broken("CLASSES = (", [json.dumps(name) for name in task.classes], ")")
    return f"{text}LENGTH = {task.length}\n"


def _scores(program: Program) -> str:
    """What is said at the end; a variable that always has the same value is part of what is said anyhow."""
    task = program.task
    base, tables = [0 for _ in task.classes], ""
    for name, rows in program.scores.items():
        values = program.possible[name]
        if ("scores", name) not in program.reads[OUTPUT]:
            base = [total + more for total, more in zip(base, rows[values[0]], strict=True)]
            continue
        lines = (_broken(f"{literal(program, name, v)}: (", [str(s) for s in rows[v]], ")", 2) for v in values)
        tables += f"{_STEP}{json.dumps(name)}: {{\n{''.join(map(_with_comma, lines))}{_STEP}}},\n"
    text = "\n\n# What each value of a variable says for each of CLASSES; the largest sum is the answer.\n"
    text += _broken("BASE = (", [str(score) for score in base], ")")
    shape = "SCORES: dict[str, dict[Any, tuple[int, ...]]] = "
    return text + (f"{shape}{{\n{tables}}}\n" if tables else f"{shape}{{}}\n")


def _seeing(library: str, causal: bool) -> str:
    """A helper in which a position sees itself and what is before, or everything."""
    if causal:
        return library.replace("[:SEEN]", "[: i + 1]")
    text = library.replace("[:SEEN]", "")
    return text if "- i" in text else text.replace("i, want in enumerate(wanted)", "want in wanted")


def _function(name: str, reads: Sequence[str], about: str, body: str) -> str:
    start = _broken(f"def {name}(", [f"{read}: Column" for read in reads], ") -> Column:")
    return f'\n\n{start}{_STEP}"""{about}"""\n{body}'


def arguments(program: Program, name: str) -> list[str]:
    """The variables that a module's function takes, each once."""
    module = next(module for module in program.modules if module.name == name)
    if isinstance(module, Lookup):
        return program.sources(name)
    query = [source for part, source in program.reads[name] if part == "query"]
    names = [*query, *([module.key] if program.finds(module) else []), module.value]
    return list(dict.fromkeys(names))


def _head(program: Program, head: Head) -> str:
    takes = arguments(program, head.name)
    if not program.finds(head):  # it is live, so it copies
        body = f"{_STEP}return [{head.value}[0]] * len({head.value})\n"
        return _function(head.name, takes, f"{head.value} of the first position.", body)
    body = _wanted(program, head)
    call = "added" if head.counts else "nearest"
    body += f"{_STEP}return {call}(asked, {head.key}, {head.value})\n"
    about = f"where {head.key} is what the table asks for."
    about = f"Sum of {head.value} {about}" if head.counts else f"{head.value}, nearest position {about}"
    return _function(head.name, takes, about, body)


def _wanted(program: Program, head: Head) -> str:
    """The lines that say which key is asked for at each position."""
    keys = set(program.possible[head.key])
    wanted = {
        value: literal(program, head.key, head.wanted[value]) if head.wanted[value] in keys else "None"
        for value in program.possible[head.query]
    }
    rest, often = Counter(wanted.values()).most_common(1)[0]
    if often == len(wanted):
        return f"{_STEP}asked = [{rest}] * len({head.key})\n"
    if all(literal(program, head.query, value) == want for value, want in wanted.items()):
        return f"{_STEP}asked = {head.query}\n"
    if often > 2:
        wanted = {value: want for value, want in wanted.items() if want != rest}
        get = "wanted.get(value)" if rest == "None" else f"wanted.get(value, {rest})"
    else:
        get = "wanted[value]"
    pairs = [f"{literal(program, head.query, value)}: {want}" for value, want in wanted.items()]
    return _broken("wanted = {", pairs, "}", 1) + f"{_STEP}asked = [{get} for value in {head.query}]\n"


def _lookup(program: Program, lookup: Lookup) -> str:
    takes = arguments(program, lookup.name)
    if len(takes) == 1:
        return _function(lookup.name, takes, f"A table of {takes[0]}.", _flat(program, lookup, takes[0]))
    table, firsts, seconds = lookup.table, program.possible[lookup.first], program.possible[lookup.second]
    rest = _most_common(table[a][b] for a in firsts for b in seconds)
    rows = ""
    for a in firsts:
        pairs = [f"{literal(program, lookup.second, b)}: {table[a][b]}" for b in seconds if table[a][b] != rest]
        if pairs:
            rows += _with_comma(_broken(f"{literal(program, lookup.first, a)}: {{", pairs, "}", 2))
    body = f"{_STEP}table: Table = {{\n{rows}{_STEP}}}\n"
    body += f"{_STEP}return paired(table, {rest}, {lookup.first}, {lookup.second})\n"
    return _function(lookup.name, takes, f"A table of {lookup.first} and {lookup.second}.", body)


def _flat(program: Program, lookup: Lookup, read: str) -> str:
    """The body of a lookup that depends on one variable."""
    firsts, seconds = program.possible[lookup.first], program.possible[lookup.second]
    if lookup.first == lookup.second:
        written = {a: lookup.table[a][a] for a in firsts}
    elif read == lookup.first:
        written = {a: lookup.table[a][seconds[0]] for a in firsts}
    else:
        written = {b: lookup.table[firsts[0]][b] for b in seconds}
    rest = _most_common(written.values())
    pairs = [f"{literal(program, read, value)}: {out}" for value, out in written.items() if out != rest]
    body = _broken("table = {", pairs, "}", 1)
    return body + f"{_STEP}return [table.get(value, {rest}) for value in {read}]\n"


def _most_common(values: Iterable[T]) -> T:
    return Counter(values).most_common(1)[0][0]


def _run(program: Program) -> str:
    read = program.sources(OUTPUT)
    live = [module.name for module in program.modules if module.name in program.live]
    used = {name for module in live for name in arguments(program, module)} | set(read)
    text = _RUN + f"{_STEP}positions = list(range(len(tokens)))\n" * (POSITIONS in used)
    text += f"{_STEP}ones = [1] * len(tokens)\n" * (ONES in used)
    inputs = {TOKENS, POSITIONS, ONES}
    column = {name: name if name in inputs else f"{name}_out" for name in program.variables}
    for name in program.variables:
        if name in used and name not in inputs and name not in live:  # it always has the same value
            always = literal(program, name, program.possible[name][0])
            text += f"{_STEP}{column[name]} = [{always}] * len(tokens)\n"
    for name in live:
        takes = [column[source] for source in arguments(program, name)]
        text += _broken(f"{column[name]} = {name}(", takes, ")", 1)
    items = "".join(f"{2 * _STEP}{json.dumps(name)}: {column[name]},\n" for name in read)
    inner = f"\n{items}{_STEP}" if items else ""
    return f"{text}{_STEP}read: dict[str, Column] = {{{inner}}}\n{_END}"
