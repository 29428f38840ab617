"""InterpBench: models trained to have a circuit that is known, read from their published files.

Gupta, Arcuschin, Kwa and Garriga-Alonso 2024, *InterpBench: Semi-Synthetic Transformers for Evaluating Mechanistic
Interpretability Techniques*, arXiv 2407.14494; files under CC-BY-4.0. A folder for each case (``11``, ``ioi``) holds

- ``ll_model.pth``: the state dict of a TransformerLens model,
- ``ll_model_cfg.pkl``: its configuration, a pickled dictionary or configuration object,
- ``edges.pkl``: the circuit, a pickled list of pairs of hook names, ``blocks.0.hook_mlp_out`` to
  ``blocks.1.hook_q_input[2]``,
- ``meta.json``: how it was trained.

They are files from the web: no pickle is run, see :mod:`workbench.circuits.known.pickles`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.circuits.activations import graph_of
from workbench.circuits.graph import Circuit, Graph, node_of
from workbench.circuits.known.pickles import read_plain, read_tensors
from workbench.circuits.task import Task
from workbench.models import Transformer, from_transformer_lens
from workbench.models.tokens import shorten

REPOSITORY: Final = "cybershiptrooper/InterpBench"
_LARGEST_META: Final = 4 << 20
_SIZES: Final = {"n_layers": 100, "n_heads": 100, "d_model": 1 << 20, "d_head": 1 << 20, "n_ctx": 1 << 24}
_SAME: Final = 1e-6  # answers of a model with one output that are nearer than this are the same


@dataclass(frozen=True, eq=False)
class InterpBenchCase:
    """A model and the circuit that it was trained to have.

    Attributes:
        name: of the case, such as ``11``.
        model: the model; it reads token ids, for the files hold no vocabulary.
        true_edges: the circuit by our names, such as ``m0->a1.h2<q>``; see :func:`edge_names`.
        meta: how it was trained; empty where the files do not say.
        length_edges: none; the files do not tell them apart.
    """

    name: str
    model: Transformer
    true_edges: set[str]
    meta: dict[str, Any]
    length_edges: frozenset[str] = field(default=frozenset())

    @property
    def node_edges(self) -> set[str]:
        """``true_edges`` between heads and MLPs as wholes, ``m0->a1.h2``: what the training has enforced."""
        pairs = (edge.split("->") for edge in self.true_edges)
        return {f"{writer}->{node_of(reader)}" for writer, reader in pairs}

    @cached_property
    def circuit(self) -> Circuit:
        """``true_edges`` as a circuit of the model's graph."""
        return Circuit.from_edges(graph_of(self.model), self.true_edges)

    @torch.no_grad()
    def task(
        self,
        clean: Int[Tensor, "batch pos"],
        corrupted: Int[Tensor, "batch pos"],
        *,
        at: int | Int[Tensor, " batch"] | None = None,
    ) -> Task:
        """Pairs of inputs, with the model's own answers as the right and the wrong ones.

        The right answer is the likeliest one on the clean input, the wrong answer that on the corrupted one; pairs
        with the same answer are left out. The metric of a model with one output is that number, or minus it where it
        is greater on the corrupted input.

        Args:
            clean, corrupted: token ids, all of one length.
            at: position of the answers, from 0, one for all pairs or one for each; None for the last.

        Raises:
            ValueError: shapes that differ, ids or positions that the model does not have, or no pair with two answers.
        """
        clean, corrupted = self._tokens(clean, "clean"), self._tokens(corrupted, "corrupted")
        n, length = clean.shape
        if corrupted.shape != clean.shape:
            raise ValueError(
                f"Clean and corrupted inputs must have one shape; got {[n, length]} and {list(corrupted.shape)}."
            )
        where = torch.as_tensor(length - 1 if at is None else at)
        if where.is_floating_point() or where.ndim > 1 or (where.ndim and len(where) != n):
            raise ValueError(f"'at' must be one position or one for each of the {n} pairs.")
        where = where.long().cpu().expand(n)
        if not bool(((where >= 0) & (where < length)).all()):
            raise ValueError(f"'at' must lie between 0 and {length - 1}, the positions of the inputs.")
        one, other = (self._answers(tokens, where) for tokens in (clean, corrupted))
        if one.shape[-1] == 1:
            differ = (one - other)[:, 0].abs() > _SAME
            right = torch.where(one > other, 0, -1)
            wrong = -1 - right
        else:
            right, wrong = one.argmax(-1, keepdim=True), other.argmax(-1, keepdim=True)
            differ = (right != wrong)[:, 0]
        if not differ.any():
            raise ValueError(f"{self.model.name} gives the same answer on both sides of every pair; give other inputs.")
        clean, corrupted, where = clean[differ], corrupted[differ], where[differ]
        digest = hashlib.sha256(torch.stack((clean, corrupted)).numpy().tobytes() + where.numpy().tobytes())
        return Task(
            name=self.model.name,
            title=f"InterpBench, case {self.name}",
            clean=clean,
            corrupted=corrupted,
            lengths=torch.full((len(clean),), length),
            right=right[differ],
            wrong=wrong[differ],
            clean_text=[" ".join(map(str, row)) for row in clean.tolist()],
            corrupted_text=[" ".join(map(str, row)) for row in corrupted.tolist()],
            spec={"name": self.model.name, "n": len(clean), "pairs": digest.hexdigest()[:12]},
            at=where,
        )

    def _tokens(self, tokens: Tensor, side: str) -> Tensor:
        cfg = self.model.cfg
        if tokens.ndim != 2 or not tokens.numel() or tokens.is_floating_point() or tokens.dtype == torch.bool:
            raise ValueError(f"The {side} inputs must be token ids [batch, pos]; got {list(tokens.shape)}.")
        if tokens.shape[1] > cfg.n_ctx:
            raise ValueError(f"The {side} inputs have {tokens.shape[1]} tokens; {self.model.name} reads {cfg.n_ctx}.")
        if int(tokens.min()) < 0 or int(tokens.max()) >= cfg.d_vocab:
            raise ValueError(f"The {side} inputs have ids outside of 0 to {cfg.d_vocab - 1}, which the model reads.")
        return tokens.long().cpu()

    def _answers(self, tokens: Tensor, where: Tensor) -> Tensor:
        logits: Tensor = self.model(tokens.to(self.model.device), logits_at=where)
        return logits[:, 0].cpu()


def load_interpbench(
    where: str | Path = REPOSITORY,
    case: str | int | None = None,
    *,
    hub: bool | None = None,
    revision: str | None = None,
) -> InterpBenchCase:
    """A case of InterpBench.

    Args:
        where: the case's folder, a folder with one folder for each case, or a repository on the hub.
        case: name of the case; not needed where ``where`` is its folder.
        hub: whether ``where`` is on the hub; by default it is if there is no such folder.
        revision: branch, tag or commit on the hub.

    Raises:
        ValueError: no such folder or case, no connection, a file that is missing, damaged, larger than it may be or
            would run code, or a circuit that the model does not have; one sentence.
    """
    name = None if case is None else str(case)
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
        raise ValueError(f"'{shorten(name)}' is no name of a case; they are called such as '11' or 'ioi'.")
    folder = Path(where).expanduser()
    if hub or (hub is None and not folder.is_dir()):
        folder = _from_hub(str(where), name, revision)
    folder = _case_folder(folder, name)
    name = name or folder.resolve().name
    config = _config(_only(folder, "ll_model_cfg*.pkl"))
    state = read_tensors(_only(folder, "ll_model*.pth"))
    try:
        model = from_transformer_lens((state, config), name=f"interpbench-{name}")
    except ValueError as error:
        raise ValueError(f"The files in '{folder}' do not fit each other: {error}") from error
    except (TypeError, RuntimeError, OverflowError, MemoryError) as error:
        raise ValueError(f"The configuration in '{folder}' is not one of a TransformerLens model.") from error
    edges = _only(folder, "edges*.pkl")
    try:
        true_edges = edge_names(_pairs(read_plain(edges), edges), graph_of(model))
    except ValueError as error:
        said = str(error)
        raise ValueError(
            said if str(edges) in said else f"The circuit in '{edges}' is not understood: {said}"
        ) from error
    return InterpBenchCase(name, model, true_edges, _meta(folder))


def interpbench_cases(folder: str | Path) -> list[str]:
    """Names of the cases in a folder, numbers first.

    Raises:
        ValueError: there is no such folder.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"There is no folder '{folder}'.")
    found = {file.parent.name for file in folder.glob("*/ll_model*.pth")}
    return sorted(found, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))


def _from_hub(repository: str, case: str | None, revision: str | None) -> Path:
    """Where the files of a case lie after they were fetched, or had been before."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+", repository) or repository.startswith("."):
        raise ValueError(
            f"There is no folder '{shorten(repository)}', and the name is none of a repository on the hub."
        )
    if case is None:
        raise ValueError("Say which case to fetch from the hub, such as case='11'.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=[f"{case}/*"]))
    except Exception as error:
        reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")[:160]
        raise ValueError(
            f"Case '{case}' could not be had from '{repository}' on the hub ({type(error).__name__}: {reason}); check "
            "the connection, or give the folder of a copy."
        ) from error


def _case_folder(folder: Path, case: str | None) -> Path:
    if not folder.is_dir():
        raise ValueError(f"There is no folder '{folder}'.")
    is_case = any(folder.glob("ll_model*.pth"))
    if case is None and is_case:
        return folder
    if case is not None and (folder / case).is_dir():
        return folder / case
    if case is not None and is_case and folder.resolve().name == case:
        return folder
    known = interpbench_cases(folder)
    listed = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    if case is None and known:
        raise ValueError(f"'{folder}' holds {len(known)} cases ({listed}); say which, such as case='{known[0]}'.")
    if case is None:
        raise ValueError(f"'{folder}' holds no 'll_model.pth', nor does a folder in it; give an InterpBench folder.")
    raise ValueError(f"There is no case '{case}' in '{folder}'; it holds {listed or 'none'}.")


def _only(folder: Path, pattern: str) -> Path:
    """The file by its name without the star, or the only one that fits; earlier revisions put weights into names."""
    plain = folder / pattern.replace("*", "")
    if plain.is_file():
        return plain
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        said = "holds no" if not found else f"holds {len(found)} files in the place of"
        raise ValueError(f"The folder '{folder}' {said} '{plain.name}'; get the case again.")
    return found[0]


def _config(path: Path) -> dict[str, Any]:
    """Fields that are text or numbers; others go by their type's name, for they may be of any size."""
    fields = read_plain(path)
    if not isinstance(fields, dict) or not all(isinstance(name, str) for name in fields):
        raise ValueError(f"'{path}' holds no configuration, which is a dictionary of fields; get the case again.")
    for name, largest in _SIZES.items():
        value = fields.get(name)
        if isinstance(value, int) and not 1 <= value <= largest:
            raise ValueError(f"The configuration '{path}' says {name}={value}; it must lie between 1 and {largest:,}.")
    plain = str, int, float, type(None)
    return {name: x if isinstance(x, plain) else type(x).__name__ for name, x in fields.items()}


def _meta(folder: Path) -> dict[str, Any]:
    if not any(folder.glob("meta*.json")):
        return {}
    path = _only(folder, "meta*.json")
    if path.stat().st_size > _LARGEST_META:
        raise ValueError(f"The file '{path}' is larger than {_LARGEST_META >> 20} MiB; such a file is not read.")
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"The file '{path}' is no JSON ({type(error).__name__}); get the case again.") from error
    return meta if isinstance(meta, dict) else {"meta": meta}


def _pairs(found: Any, path: Path) -> list[tuple[str, str]]:
    if not isinstance(found, list | tuple | set):
        raise ValueError(f"'{path}' holds no list of edges but a {type(found).__name__}; get the case again.")
    pairs = []
    for pair in found:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(name, str) for name in pair):
            raise ValueError(f"'{path}' holds something else than pairs of hook names; get the case again.")
        pairs.append((pair[0], pair[1]))
    return pairs


_HOOK: Final = re.compile(
    r"(?:blocks\.(?P<layer>[0-9]{1,4})\.)?(?P<hook>[a-z_.]{1,40})"
    r"(?:\[(?::, ?:, ?)?(?P<head>[0-9]{1,4})(?:, ?:)?\]|\[(?::|None)\])?"
)
# What a hook inside a block belongs to, and for a head which of its inputs it is. Writers are those that add to the
# residual stream.
_WRITERS: Final = {"attn.hook_result": "head", "hook_mlp_out": "mlp", "mlp.hook_post": "mlp"}
_READERS: Final = {
    **{f"{place}_{part}{end}": part for part in "qkv" for place, end in (("hook", "_input"), ("attn.hook", ""))},
    "hook_mlp_in": "mlp",
    "mlp.hook_pre": "mlp",
}
_INPUT: Final = ("hook_embed", "hook_pos_embed", "embed", "pos_embed", "input")
_OUTPUT: Final = ("logits", "output", "unembed")


@dataclass(frozen=True)
class _Place:
    """What a hook name stands for: nodes of the graph, and which input of heads (all three where it says none)."""

    nodes: tuple[str, ...]
    parts: str = ""
    writes: bool = False

    @property
    def readers(self) -> list[str]:
        return [f"{node}<{part}>" for node in self.nodes for part in self.parts] if self.parts else list(self.nodes)


def edge_names(pairs: Iterable[tuple[str, str]], graph: Graph) -> set[str]:
    """The edges of a circuit that is written with hook names, by our names.

    ``blocks.0.attn.hook_result[2]`` is ``a0.h2``, ``blocks.0.hook_mlp_out`` and ``blocks.0.hook_mlp_in`` are ``m0``,
    ``blocks.1.hook_q_input[2]`` is ``a1.h2<q>``; ``hook_embed``, ``hook_pos_embed`` and ``blocks.0.hook_resid_pre``
    are ``input``, and ``blocks.1.hook_resid_post`` is ``logits``: of whatever layer, but the same in all pairs. Where a
    pair leads to a head and not to its queries, keys or values (``blocks.1.attn.hook_result[2]``), all three of its
    inputs are in the circuit; a hook of a head without a number stands for all heads of the layer. Pairs inside of a
    node, such as from ``hook_q_input[2]`` to ``attn.hook_q[2]``, are passed over.

    Args:
        pairs: from and to.
        graph: of the model.

    Raises:
        ValueError: a name that stands for no node, an edge that the graph does not have, or no edge at all.
    """
    found: set[str] = set()
    ends: set[str] = set()
    for source, target in dict.fromkeys(pairs):
        start, end = _place(source, graph), _place(target, graph)
        if end.nodes == ("logits",) and "hook_resid_post" in target:
            ends.add(target)
        if start.nodes == end.nodes and (not start.writes or start.nodes == ("input",)):
            continue
        if not start.writes:
            raise ValueError(f"nothing is written to the residual stream at '{shorten(source)}'.")
        if end.nodes == ("input",):
            raise ValueError(f"'{shorten(target)}' comes before all that could write to it.")
        for name in (f"{writer}->{reader}" for writer in start.nodes for reader in end.readers):
            graph.edge(name)
            found.add(name)
    if len(ends) > 1:
        raise ValueError(f"it ends at several places, {', '.join(sorted(ends))}.")
    if not found:
        raise ValueError("it has no edges.")
    return found


def _place(name: str, graph: Graph) -> _Place:
    match = _HOOK.fullmatch(name)
    if match is not None:
        hook, layer, head = match["hook"], match["layer"], match["head"]
        if layer is None and head is None and hook in _INPUT:
            return _Place(("input",), writes=True)
        if layer is None and head is None and hook in _OUTPUT:
            return _Place(("logits",))
        if layer is not None and int(layer) >= graph.n_layers:
            raise ValueError(f"'{name}' is in a layer that the model does not have; it has {graph.n_layers}.")
        if head is not None and int(head) >= graph.n_heads:
            raise ValueError(f"'{name}' is a head that the model does not have; it has {graph.n_heads} in a layer.")
        kind = _WRITERS.get(hook) or _READERS.get(hook)
        if layer is not None and head is None:
            if hook == "hook_resid_pre" and int(layer) == 0:
                return _Place(("input",), writes=True)
            if hook == "hook_resid_post":
                return _Place(("logits",))
            if kind == "mlp":
                return _Place((f"m{int(layer)}",), writes=hook in _WRITERS)
        if layer is not None and kind not in (None, "mlp"):
            heads = range(graph.n_heads) if head is None else [int(head)]
            nodes = tuple(f"a{int(layer)}.h{i}" for i in heads)
            return _Place(nodes, "qkv" if kind == "head" else str(kind), writes=hook in _WRITERS)
    raise ValueError(f"'{shorten(name)}' is no hook that edges lead from or to.")
