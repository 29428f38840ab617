"""The edges of a compiled model, from what each component reads and writes.

A head or an MLP *writes* the variables of the nodes that it computes; the embedding writes ``tokens`` and ``indices``.
A reader (a head's queries, keys or values, an MLP, the logits) *reads* a variable if its weights tell apart two values
that the variable may have. A variable *varies* if its value at some position differs between inputs. An edge is in the
circuit exactly if its writer writes a variable that varies and that its reader reads.

So two kinds of connection are no edges of the circuit, although there are weights: to a variable all of whose values
the reader treats alike (the queries of a head that looks at every "a", wherever it stands), and to what is the same on
every input (positions, ``one``, the mark of the first token), which no other input can change. The second kind is kept
apart: ablations that put in something else than another input's activation break it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from workbench.circuits.known.expression import Value
from workbench.circuits.known.interpret import evaluate
from workbench.circuits.known.nodes import Node
from workbench.circuits.known.sops import SOp
from workbench.circuits.known.variables import Variable, Varies


@dataclass(frozen=True)
class Edges:
    """Names of edges by what they carry.

    Attributes:
        of_tokens: at least one variable that depends on the tokens.
        of_length: no such one, but at least one that depends on the length of the input.
        fixed: only what is the same on every input.
    """

    of_tokens: frozenset[str]
    of_length: frozenset[str]
    fixed: frozenset[str]


def edges(nodes: Sequence[Node], output: Variable) -> Edges:
    """The edges of a compiled model over which something is read."""
    found: dict[Varies, set[str]] = {"tokens": set(), "length": set(), "never": set()}
    for reader, variable in _reads(nodes, output):
        found[variable.varies].add(f"{variable.writer}->{reader}")
    found["never"] |= {f"input->{reader}" for node in nodes for reader in _readers(node, *node.constants)}
    of_tokens = frozenset(found["tokens"])
    of_length = frozenset(found["length"]) - of_tokens
    return Edges(of_tokens, of_length, frozenset(found["never"]) - of_tokens - of_length)


def _reads(nodes: Sequence[Node], output: Variable) -> Iterator[tuple[str, Variable]]:
    for node in nodes:
        for part, variable in node.reads:
            for reader in _readers(node, part):
                yield reader, variable
    if len(output.cases) > 1:
        yield "logits", output


def _readers(node: Node, *parts: str) -> list[str]:
    return [f"m{node.layer}" if part == "mlp" else f"a{node.layer}.h{node.head}<{part}>" for part in parts]


def say_what_varies(nodes: Sequence[Node], words: Variable, max_len: int, causal: bool) -> None:
    """Say of every variable what it depends on.

    What reads tokens, directly or through others, depends on them. What does not depends on the position and perhaps
    on the length of the input: it does if some position has other values in longer inputs.

    Args:
        nodes: in the order of computation.
        words: the variable of the tokens.
        max_len: the longest input.
        causal: no query looks at a later key.
    """
    for node in nodes:
        own = set(map(id, node.variables))
        varies: Varies = "never"
        if any(variable.varies == "tokens" for _, variable in node.reads if id(variable) not in own):
            varies = "tokens"
        elif _depends_on_length(node.expr, words.values[0], max_len, causal):
            varies = "length"
        for variable in node.variables:
            variable.varies = varies


def _depends_on_length(expr: SOp, token: Value, max_len: int, causal: bool) -> bool:
    """Whether an operator that does not read tokens has, at some position, other values in longer inputs."""
    longest = evaluate(expr, [token] * max_len, causal)
    return any(evaluate(expr, [token] * n, causal) != longest[:n] for n in range(1, max_len))
