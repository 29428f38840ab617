"""From a RASP program to a transformer, in the tradition of Tracr (Lindner et al. 2023, arXiv 2301.05062).

Every variable of the program has dimensions of its own in the residual stream. A selector and what it aggregates are an
attention head with near-hard softmax, a function of values is a few units of a ReLU MLP. A token in front of every
input, ``compiler_bos``, is what a head looks at where its selector selects nothing, and what widths are measured by.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from workbench.circuits.known.build import Builder, check_vocab
from workbench.circuits.known.compiled import Compiled, Draw
from workbench.circuits.known.edges import edges, say_what_varies
from workbench.circuits.known.expression import Value
from workbench.circuits.known.interpret import UndefinedFunctionError, evaluate
from workbench.circuits.known.layers import allocate
from workbench.circuits.known.nodes import Node
from workbench.circuits.known.sops import SOp
from workbench.circuits.known.weights import Size, assemble, place
from workbench.models import Transformer


def _check_size(nodes: Sequence[Node], size: Size, program: str, needed: Size) -> None:
    """Refuse a size that the program does not fit into.

    Raises:
        ValueError: naming the first node that has no place.
    """
    for node in nodes:
        last = max((variable.start + len(variable.labels) for variable in node.variables), default=0)
        if node.layer >= size.n_layers or node.head >= size.n_heads or last > size.d_model:
            raise ValueError(
                f"{node.out.name} has no place in {size}; {program} needs {needed}. Leave the size out, or choose a "
                "larger one."
            )


def compile_program(
    program: SOp,
    vocab: Sequence[Value] | set[Value] | frozenset[Value],
    max_len: int,
    causal: bool = False,
    *,
    name: str | None = None,
    draw: Draw | None = None,
    size: Size | None = None,
) -> Compiled:
    """A transformer that computes a RASP program.

    Args:
        program: the operator whose values the model gives.
        vocab: its tokens; a set is put in order.
        max_len: the longest input, without the token that the compiler puts in front.
        causal: no position looks at a later one.
        name: what the model is called; by default the program's name.
        draw: a random input from a source of random numbers, for programs that are not meant for every input; by
            default any tokens, ``max_len`` of them.
        size: layers, heads and width of the model; by default what the program needs.

    Returns:
        The model with its labels and edges.

    Raises:
        ValueError: the program cannot be compiled or does not fit into ``size``, or a function of it fails on a value
            that occurs; the message names the node. The vocabulary is empty, has a token twice or one that cannot be
            hashed.
    """
    if not isinstance(program, SOp):
        raise ValueError(f"{getattr(program, 'name', program)!r} is no sequence operator; only those can be compiled.")
    words = check_vocab(vocab)
    if max_len < 1:
        raise ValueError(f"{program.name}: the longest input must have at least one token; got max_len={max_len}.")
    make = draw or _any_input(words, max_len)
    check_functions(program, words, max_len, causal, make)
    builder = Builder(words, max_len)
    output = builder.node(program).out
    if not any(node.attends or node.has_mlp for node in builder.nodes):
        raise ValueError(f"{program.name} is what the embedding writes; a program must compute something of it.")
    constants = [node.out for node in builder.nodes if not node.inputs and not node.attends]
    sources = [builder.tokens.out, builder.indices.out, *constants]
    computed = [node for node in builder.nodes if node.out not in constants]
    n_layers = allocate(computed)
    labels = place([*sources, *(variable for node in computed for variable in node.variables)])
    needed = Size(n_layers, 1 + max((max(node.head, 0) for node in computed), default=0), len(labels))
    size = size or needed
    _check_size(computed, size, program.name, needed)
    labels += ["unused"] * (size.d_model - len(labels))
    sources[0].varies, sources[1].varies = "tokens" if len(words) > 1 else "never", "never"
    say_what_varies(builder.nodes, sources[0], max_len, causal)
    cfg, weights = assemble(computed, size, sources, output, causal)
    model = Transformer(cfg, weights, name=name or program.name)
    return Compiled(model, program, words, max_len, labels, edges(computed, output), output, make)


def check_functions(
    program: SOp, vocab: Sequence[Value], max_len: int, causal: bool, draw: Callable[[random.Random], list[Value]]
) -> None:
    """Interpret the program on inputs in which every token stands at every position, and on random ones.

    An input on which None is compared or texts are averaged is one that the program is not meant for.

    Raises:
        UndefinedFunctionError: a function fails on a value that occurs.
    """
    source, n = random.Random(0), len(vocab)
    turned = [[vocab[(i + shift) % n] for i in range(max_len)] for shift in range(min(n, 64))]
    drawn = [draw(source) for _ in range(64)]
    for xs in [*turned, *drawn, *(xs[: 1 + i % max_len] for i, xs in enumerate(drawn))]:
        try:
            evaluate(program, xs, causal)
        except UndefinedFunctionError:
            raise
        except ValueError:
            continue


def _any_input(vocab: list[Value], length: int) -> Draw:
    return lambda source: [source.choice(vocab) for _ in range(length)]
