"""InterpBench's files: written here in the published form, read without running any pickle."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import struct
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.models.test_transformer_lens import obvious, state_of
from workbench.circuits.activations import graph_of
from workbench.circuits.graph import Graph
from workbench.circuits.ground_truth import ground_truth
from workbench.circuits.known.examine import examine
from workbench.circuits.known.interpbench import InterpBenchCase, edge_names, interpbench_cases, load_interpbench
from workbench.circuits.known.pickles import ALLOWED, LARGEST, read_plain, read_tensors
from workbench.circuits.methods import discover

SIZES: dict[str, Any] = {"n_layers": 2, "n_heads": 4, "d_model": 12, "d_head": 3, "n_ctx": 10, "d_vocab": 10}
SIZES |= {"d_mlp": 48, "d_vocab_out": 5, "act_fn": "gelu", "normalization_type": None, "attention_dir": "causal"}
# The fields beside the sizes that such a configuration has, with the kinds of objects that are in it.
FIELDS: dict[str, Any] = SIZES | {
    "attn_only": False,
    "attn_scale": np.sqrt(3),
    "attn_types": None,
    "device": torch.device("cpu"),
    "dtype": torch.float32,
    "eps": 1e-5,
    "initializer_range": np.float64(0.146),
    "model_name": "custom",
    "n_params": np.int64(1920),
    "positional_embedding_type": "standard",
    "rotary_dim": None,
    "use_attn_scale": True,
    "use_hook_mlp_in": True,
    "use_local_attn": False,
}
# The circuit of case 3 as the benchmark prints it.
EDGES = [
    ("blocks.1.attn.hook_result[2]", "blocks.1.hook_resid_post"),
    *(("blocks.0.hook_mlp_out", f"blocks.1.hook_{part}_input[2]") for part in "qkv"),
    ("hook_embed", "blocks.0.hook_mlp_in"),
    *(("hook_pos_embed", f"blocks.1.hook_{part}_input[2]") for part in "qkv"),
    *((f"blocks.1.hook_{part}_input[2]", f"blocks.1.attn.hook_{part}[2]") for part in "qkv"),
]
TRUE = {"a1.h2->logits", "input->m0", *(f"{writer}->a1.h2<{part}>" for writer in ("m0", "input") for part in "qkv")}
GRAPH = Graph(2, 4)


def publish(folder: Path, config: Any = FIELDS, edges: Any = EDGES, **sizes: Any) -> Path:
    folder.mkdir(parents=True)
    torch.save(OrderedDict(state_of(SIZES | sizes)), folder / "ll_model.pth")
    (folder / "ll_model_cfg.pkl").write_bytes(pickle.dumps(config | sizes if isinstance(config, dict) else config))
    (folder / "edges.pkl").write_bytes(pickle.dumps(edges))
    (folder / "meta.json").write_text(json.dumps({"lr": 0.001, "epochs": 500}))
    return folder


def as_object(fields: dict[str, Any], module: str, monkeypatch: pytest.MonkeyPatch, protocol: int) -> bytes:
    """A pickled configuration object of TransformerLens, from a class that stands under its name for the moment."""
    name = "HookedTransformerConfig"
    kind = type(name, (), {"__module__": module})
    with monkeypatch.context() as moment:
        for i in range(1 + module.count(".")):
            place = ".".join(module.split(".")[: i + 1])
            stand_in: Any = types.ModuleType(place)
            stand_in.__path__ = []
            moment.setitem(sys.modules, place, stand_in)
        setattr(sys.modules[module], name, kind)
        one: Any = kind()
        one.__dict__.update(fields)
        return pickle.dumps(one, protocol)


def tokens(n: int = 3, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 10, (n, 9), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
def test_logits_are_those_of_the_obvious_forward_and_the_circuit_is_read(tmp_path: Path, direction: str) -> None:
    made = load_interpbench(publish(tmp_path / "3", attention_dir=direction))
    expected = obvious(state_of(SIZES), SIZES | {"attention_dir": direction}, tokens())
    torch.testing.assert_close(made.model(tokens()), expected, atol=1e-5, rtol=1e-5)
    assert (made.name, made.model.name, made.model.cfg.causal) == ("3", "interpbench-3", direction == "causal")
    assert made.meta == {"lr": 0.001, "epochs": 500}
    assert made.true_edges == TRUE == made.circuit.edges
    assert made.node_edges == {"a1.h2->logits", "input->m0", "m0->a1.h2", "input->a1.h2"}
    assert made.true_edges - made.length_edges == TRUE


def test_a_folded_layer_norm_and_other_names_of_the_files(tmp_path: Path) -> None:
    folder = publish(tmp_path / "ioi", normalization_type="LNPre", act_fn="gelu_new")
    for name, other in (("ll_model.pth", "ll_model_510.pth"), ("meta.json", "meta_510.json")):
        (folder / name).rename(folder / other)
    (folder / "ll_model_cfg.pkl").rename(folder / "ll_model_cfg_510.pkl")
    made = load_interpbench(tmp_path, "ioi")
    c = SIZES | {"normalization_type": "LNPre", "act_fn": "gelu_new"}
    torch.testing.assert_close(made.model(tokens()), obvious(state_of(c), c, tokens()), atol=1e-4, rtol=1e-4)
    assert made.meta["epochs"] == 500
    (folder / "meta_510.json").unlink()
    assert load_interpbench(folder).meta == {}
    (folder / "ll_model_100.pth").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds 2 files in the place of 'll_model\.pth'"):
        load_interpbench(folder)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("module", sorted({m for m, name in ALLOWED if name == "HookedTransformerConfig"}))
def test_a_configuration_object_is_its_fields_and_its_library_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, protocol: int
) -> None:
    folder = publish(tmp_path / "3")
    (folder / "ll_model_cfg.pkl").write_bytes(as_object(FIELDS, module, monkeypatch, protocol))
    monkeypatch.setitem(sys.modules, "transformer_lens", None)  # an import of it fails
    found = read_plain(folder / "ll_model_cfg.pkl")
    assert found == FIELDS | {"device": "cpu", "dtype": "torch.float32"}
    assert (type(found["attn_scale"]), type(found["n_params"])) == (float, int)
    torch.testing.assert_close(
        load_interpbench(folder).model(tokens()), obvious(state_of(SIZES), SIZES, tokens()), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_comes_back_as_the_unpickler_gives_it(tmp_path: Path, protocol: int) -> None:
    source = random.Random(0)
    words = ["blocks.0.hook_mlp_out", "", "ä", "x" * 300]

    def draw(depth: int) -> Any:
        scalars: list[Any] = [None, True, False, 3, -1, 70_000, 1 << 40, -(1 << 90), 0.5, float("inf"), *words]
        scalars += [b"bytes", bytes(300)]
        if depth == 0:
            return source.choice(scalars)
        members = [draw(depth - 1) for _ in range(source.randrange(5))]
        keys = [source.choice([None, 1, 2.5, "a", ("b", 1)]) for _ in members]
        made: list[Any] = [members, tuple(members), dict(zip(keys, members, strict=True)), set(keys), OrderedDict()]
        return source.choice([*made, [members, members]])

    for _ in range(300):
        data = draw(4)
        (tmp_path / "data.pkl").write_bytes(pickle.dumps(data, protocol))
        assert read_plain(tmp_path / "data.pkl") == data
    for kind in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?"):
        for order in "<>":
            data = [np.array(1, dtype=order + kind)[()], np.dtype(order + kind).type(1)]
            (tmp_path / "data.pkl").write_bytes(pickle.dumps(data, max(protocol, 3)))
            assert read_plain(tmp_path / "data.pkl") == [1, 1]
    frozen = {"members": frozenset({"a", "b"})}
    (tmp_path / "data.pkl").write_bytes(pickle.dumps(frozen, protocol))
    assert read_plain(tmp_path / "data.pkl") == frozen


class Calls:
    """Pickles as a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


class Shell:
    """Pickles as a list that is to be executed (``__reduce__`` with items and state)."""

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (), None, iter([Calls(os.system, ("touch was-run",))])


def operation(module: str, name: str, rest: bytes) -> bytes:
    """A pickle that imports a name by protocol 4 and goes on."""
    text = b"".join(b"\x8c" + struct.pack("B", len(part)) + part.encode() for part in (module, name))
    return b"\x80\x04" + text + b"\x93" + rest


EVIL: dict[str, tuple[bytes, str]] = {
    "system": (pickle.dumps(Calls(os.system, ("touch was-run",))), "posix.system|nt.system"),
    "eval": (pickle.dumps(Calls(eval, ("open('was-run', 'w')",))), "builtins.eval"),
    "exec": (pickle.dumps(Calls(exec, ("open('was-run', 'w')",)), 2), "__builtin__.exec"),
    "getattr": (pickle.dumps(Calls(getattr, ("", "join"))), "builtins.getattr"),
    "inside of an edge": (pickle.dumps([("a", Calls(os.mkdir, ("was-run",)))]), "posix.mkdir|nt.mkdir"),
    "subprocess": (pickle.dumps(Calls(subprocess.getoutput, ("touch was-run",))), "subprocess.getoutput"),
    "torch.load": (pickle.dumps(Calls(torch.load, ("x.pt",))), "torch.serialization.load"),
    "torch storage": (operation("torch.storage", "_load_from_bytes", b"C\x01x\x85R."), "torch.storage._load_from"),
    "dotted name": (operation("builtins", "set.__init__.__globals__", b"."), "builtins.set.__init__"),
    "dotted name in torch": (operation("torch", "device.__class__", b")R."), "torch.device.__class__"),
    "a submodule of what is allowed": (operation("torch.hub", "load", b")R."), "torch.hub.load"),
    "a neighbour of what is allowed": (operation("transformer_lens", "HookedTransformer", b")\x81."), "HookedTransf"),
    "a name that is not text": (b"\x80\x04K\x01K\x02\x93.", "import whose name is no text"),
    "protocol 0": (b"cos\nsystem\n(S'touch was-run'\ntR.", "os.system"),
    "protocol 1, the module's class": (b"(S'touch was-run'\nios\nsystem\n.", "opcode STRING|opcode INST"),
    "extension code": (b"\x80\x02\x82\x01.", "opcode EXT1"),
    "persistent id": (b"\x80\x02X\x01\x00\x00\x00aQ.", "opcode BINPERSID"),
    "object with arguments": (
        operation("transformer_lens", "HookedTransformerConfig", b"K\x01\x85\x81."),
        "no configu",
    ),
    "call of a class": (
        operation("transformer_lens", "HookedTransformerConfig", b")R."),
        "call of what is no function",
    ),
    "call of a number type": (operation("torch", "float32", b")R."), "call of what is no function"),
    "a class as data": (operation("transformer_lens", "HookedTransformerConfig", b"."), "class or function"),
    "a function in a list": (b"\x80\x04]" + operation("torch", "device", b"a.")[2:], "class or function"),
    "a state for a list": (b"\x80\x04]}b.", "no state|state that is not"),
    "a state of slots": (b"\x80\x04}N}\x86b.", "state that is not a dictionary"),
    "fields that are not text": (b"\x80\x04}}K\x01K\x02sb.", "state that is not a dictionary"),
    "members for a number": (b"\x80\x04K\x01K\x02a.", "members for a list"),
    "set of a number": (operation("builtins", "set", b"K\x05\x85R."), "set that is not made of a list"),
    "ordered dictionary of things": (operation("collections", "OrderedDict", b"K\x05\x85R."), "made of arguments"),
    "device of nothing": (operation("torch", "device", b")R."), "device that has no name"),
    "device of much": (operation("torch", "device", b"K\x01K\x01K\x01\x87R."), "device that has no name"),
    "device of very much": (operation("torch", "device", b"(" + b"K\x01" * 50 + b"tR."), "more than it takes"),
    "a set of two": (operation("builtins", "set", b"]]\x86R."), "other arguments than it takes"),
    "object number type": (operation("numpy", "dtype", b"\x8c\x02O8\x85R."), "numpy number type"),
    "number of another length": (
        pickle.dumps(np.float64(1)).replace(b"C\x08", b"C\x07", 1).replace(b"\xf0?", b"?", 1),
        "another length",
    ),
    "nothing": (b"", "pickle exhausted|exhausted before"),
    "text": (b"this is no pickle", "cut off or damaged"),
    "cut off": (pickle.dumps(EDGES)[:-40], "whole pickle"),
    "stack underrun": (b"\x80\x04a.", "whole pickle"),
    "mark at the end": (b"\x80\x04(.", "class or function"),
    "no mark": (b"\x80\x04K\x01t.", "whole pickle"),
    "unknown memo": (b"\x80\x04h\x07.", "whole pickle"),
    "two results": (b"\x80\x04K\x01K\x01.", "stack that is not empty"),
    "protocol 9": (b"\x80\x09N.", "protocol 9"),
    "list as key": (b"\x80\x04}]Ns.", "neither text nor a number"),
    "odd dictionary": (b"\x80\x04}(K\x01u.", "whole pickle"),
    "a great number": (b"\x80\x04\x8a\xff" + b"\x7f" * 255 + b".", "more than 128 bits"),
    # A memo that is an array would need 32 GiB for this index; deep nesting overflows the stack of who hashes it; a
    # list of lists of lists doubles each time that it is copied or printed.
    "memo bomb": (b"\x80\x04Nr\xff\xff\xff\xff.", ""),
    "deep key": (b"\x80\x04}(" + b"N\x85" + b"\x85" * 300_000 + b"Ns.", "whole pickle|neither text"),
    "doubling": (b"\x80\x04N" + b"".join(b"\x94h%c\x86" % i for i in range(200)) + b".", ""),
    "copies without end": (
        b"\x80\x04]("
        + b"N" * 100_000
        + b"e\x94"
        + operation("builtins", "set", b"\x940")[2:-1]
        + b"h\x01h\x00\x85R" * 100,
        "copies without end",
    ),
    "long tuple as key": (b"\x80\x04}(" + b"N" * 100_000 + b"tNs.", "neither text"),
}


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("file", ["edges.pkl", "ll_model_cfg.pkl"])
def test_nothing_in_a_pickle_is_run_and_a_sentence_says_what_was_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = publish(tmp_path / "3")
    data, said = EVIL[name]
    (folder / file).write_bytes(data)
    before = set(sys.modules)
    with pytest.raises(ValueError, match=re.escape(str(folder / file))) as caught:
        load_interpbench(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    assert any(part in message for part in said.split("|")), message
    assert not (tmp_path / "was-run").exists()
    assert set(sys.modules) == before


def test_what_comes_with_items_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "edges.pkl").write_bytes(pickle.dumps(Shell()))
    with pytest.raises(ValueError, match=r"imports 'builtins\.list'"):
        read_plain(tmp_path / "edges.pkl")


def test_large_missing_and_unreadable_pickles(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no file"):
        read_plain(tmp_path / "none.pkl")
    with pytest.raises(ValueError, match="could not be read"):
        read_plain(tmp_path)
    (tmp_path / "large.pkl").write_bytes(b"\x80\x04" + b"N" * LARGEST)
    with pytest.raises(ValueError, match="larger than 4 MiB"):
        read_plain(tmp_path / "large.pkl")


def test_weights_that_are_more_than_tensors_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = publish(tmp_path / "3")
    weights = folder / "ll_model.pth"
    whole = weights.read_bytes()
    module = torch.nn.Linear(2, 2)
    evils: list[Any] = [Calls(os.system, ("touch was-run",)), {"embed.W_E": Calls(os.mkdir, ("was-run",))}, module]
    for evil in evils:
        for new in (True, False):
            torch.save(evil, weights, _use_new_zipfile_serialization=new)
            with pytest.raises(ValueError, match=r"ll_model\.pth' is not a file of plain tensors"):
                load_interpbench(folder)
    with zipfile.ZipFile(weights, "w") as archive:  # what tells TorchScript's archives from others
        archive.writestr("archive/constants.pkl", b"")
    with pytest.raises(ValueError, match="is not a file of plain tensors"):
        load_interpbench(folder)
    for damaged in (whole[: len(whole) // 2], b"", b"no weights"):
        weights.write_bytes(damaged)
        with pytest.raises(ValueError, match="is not a file of plain tensors, is cut off"):
            load_interpbench(folder)
    for other in ([torch.zeros(1)], {1: torch.zeros(1)}, {"embed.W_E": 3}, {"a": torch.zeros(2, 2).to_sparse()}):
        torch.save(other, weights)
        with pytest.raises(ValueError, match="holds no state dict"):
            load_interpbench(folder)
    assert not (tmp_path / "was-run").exists()
    with pytest.raises(ValueError, match="There is no file"):
        read_tensors(folder / "none.pth")


def test_weights_that_unpack_to_more_than_they_may_are_not_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a", "w") as entry:
        for _ in range(1025):
            entry.write(bytes(1 << 20))
    assert (tmp_path / "bomb.pth").stat().st_size < 1 << 22
    with pytest.raises(ValueError, match="larger than 1 GiB"):
        read_tensors(tmp_path / "bomb.pth")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"d_mlp": 47}, r"mlp\.W_in' has the shape \[12, 48\]; the configuration says \[12, 47\]"),
        ({"d_vocab_out": 6}, "unembed"),
        ({"n_layers": 3}, r"missing: blocks\.2"),
        ({"n_layers": 10**9}, "n_layers=1000000000; it must lie between 1 and 100"),
        ({"d_model": -1}, "d_model=-1"),
        ({"d_model": None}, "no whole number 'd_model'"),
        ({"d_mlp": "many"}, "do not fit each other|not one of a TransformerLens model"),
        ({"act_fn": "relo"}, "did you mean 'relu'"),
        ({"act_fn": ["gelu"]}, "act_fn='list' is not supported"),
        ({"eps": {}}, "do not fit each other|not one of a TransformerLens model"),
        ({"use_local_attn": True}, "use_local_attn=True are not supported"),
    ],
)
def test_what_does_not_fit_is_one_sentence(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    folder = publish(tmp_path / "3")
    (folder / "ll_model_cfg.pkl").write_bytes(pickle.dumps(FIELDS | change))
    with pytest.raises(ValueError, match=said) as caught:
        load_interpbench(folder)
    assert str(folder) in str(caught.value)


def test_files_of_another_kind(tmp_path: Path) -> None:
    folder = publish(tmp_path / "3", config=[1])
    with pytest.raises(ValueError, match="holds no configuration"):
        load_interpbench(folder)
    (folder / "ll_model_cfg.pkl").write_bytes(pickle.dumps(FIELDS))
    for edges, said in (("ab", "no list of edges but a str"), ([("a", "b", "c")], "else than pairs"), ([], "no edges")):
        (folder / "edges.pkl").write_bytes(pickle.dumps(edges))
        with pytest.raises(ValueError, match=said):
            load_interpbench(folder)
    (folder / "edges.pkl").write_bytes(pickle.dumps({tuple(edge) for edge in EDGES}))
    assert load_interpbench(folder).true_edges == TRUE
    for meta in ("{", "[" * 100_000):
        (folder / "meta.json").write_text(meta)
        with pytest.raises(ValueError, match=r"meta\.json' is no JSON"):
            load_interpbench(folder)
    (folder / "meta.json").write_text("[1]")
    assert load_interpbench(folder).meta == {"meta": [1]}
    doubled: Any = None
    for _ in range(200):
        doubled = doubled, doubled
    (folder / "ll_model_cfg.pkl").write_bytes(pickle.dumps(FIELDS | {"act_fn": doubled}))
    with pytest.raises(ValueError, match="act_fn='tuple' is not supported"):
        load_interpbench(folder)
    (folder / "ll_model_cfg.pkl").write_bytes(pickle.dumps(FIELDS))
    (folder / "edges.pkl").unlink()
    with pytest.raises(ValueError, match=r"holds no 'edges\.pkl'"):
        load_interpbench(folder)


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("blocks.0.attn.hook_result[3]", "blocks.0.hook_mlp_in", {"a0.h3->m0"}),
        ("blocks.0.attn.hook_result[:, :, 3]", "blocks.0.mlp.hook_post", {"a0.h3->m0"}),
        ("blocks.0.attn.hook_result[:, :, 3, :]", "blocks.0.hook_mlp_out", {"a0.h3->m0"}),
        ("blocks.0.mlp.hook_post[:]", "blocks.1.mlp.hook_pre", {"m0->m1"}),
        ("blocks.0.hook_mlp_out", "blocks.1.hook_k_input[1]", {"m0->a1.h1<k>"}),
        ("blocks.0.hook_mlp_out", "blocks.1.attn.hook_v[1]", {"m0->a1.h1<v>"}),
        ("blocks.0.hook_mlp_out", "blocks.1.attn.hook_result[1]", {f"m0->a1.h1<{part}>" for part in "qkv"}),
        ("blocks.0.hook_mlp_out", "blocks.1.hook_q_input", {f"m0->a1.h{i}<q>" for i in range(4)}),
        ("blocks.0.attn.hook_result", "logits", {f"a0.h{i}->logits" for i in range(4)}),
        ("hook_embed", "blocks.0.hook_q_input[0]", {"input->a0.h0<q>"}),
        ("hook_pos_embed[None]", "output", {"input->logits"}),
        ("blocks.0.hook_resid_pre", "blocks.1.hook_resid_post", {"input->logits"}),
        ("blocks.0.hook_mlp_out", "blocks.0.hook_resid_post", {"m0->logits"}),
    ],
)
def test_every_form_of_an_edge(source: str, target: str, expected: set[str]) -> None:
    assert edge_names([(source, target)], GRAPH) == expected
    inside = [
        ("blocks.0.hook_mlp_in", "blocks.0.hook_mlp_out"),
        ("blocks.1.hook_q_input[2]", "blocks.1.attn.hook_q[2]"),
        ("blocks.1.attn.hook_k[2]", "blocks.1.attn.hook_result[2]"),
        ("hook_embed", "blocks.0.hook_resid_pre"),
        ("blocks.1.hook_resid_post", "unembed"),
    ]
    assert edge_names([*inside, (source, target)], GRAPH) == expected


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("blocks.0.hook_mlp_out", "blocks.2.hook_mlp_in", "layer that the model does not have; it has 2"),
        ("blocks.0.attn.hook_result[4]", "logits", "head that the model does not have; it has 4"),
        ("blocks.1.hook_mlp_out", "blocks.0.hook_mlp_in", "'m1' is not computed before 'm0'"),
        ("blocks.0.attn.hook_result[1]", "blocks.0.hook_q_input[1]", "is not computed before"),
        ("blocks.0.hook_mlp_in", "blocks.1.hook_mlp_in", "nothing is written"),
        ("blocks.0.hook_resid_post", "blocks.1.hook_mlp_in", "nothing is written"),
        ("blocks.0.hook_mlp_out", "hook_embed", "comes before all"),
        ("blocks.0.hook_mlp_out", "blocks.1.hook_resid_pre", "no hook that edges lead from or to"),
        ("blocks.0.hook_mlp_out[1]", "logits", "no hook"),
        ("hook_mlp_out", "logits", "no hook"),
        ("x" * 5000, "logits", "'xxxx.*' is no hook"),
        ("blocks.0.hook_mlp_out\n", "logits", "no hook"),
    ],
)
def test_what_is_no_edge_is_said(source: str, target: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        edge_names([(source, target)], GRAPH)
    assert len(str(caught.value)) < 300


def test_a_circuit_has_one_end() -> None:
    ends = [("blocks.0.hook_mlp_out", f"blocks.{layer}.hook_resid_post") for layer in (0, 1)]
    with pytest.raises(ValueError, match="ends at several places"):
        edge_names(ends, GRAPH)


def made_of(tmp_path: Path, **sizes: Any) -> InterpBenchCase:
    return load_interpbench(publish(tmp_path / "3", **sizes))


def test_a_task_has_the_answers_of_the_model_and_can_be_examined(tmp_path: Path) -> None:
    made = made_of(tmp_path)
    clean, corrupted = tokens(40, 1), tokens(40, 2)
    logits, others = (obvious(state_of(SIZES), SIZES, side)[:, 5] for side in (clean, corrupted))
    kept = logits.argmax(-1) != others.argmax(-1)
    task = made.task(clean, corrupted, at=5)
    assert 0 < len(task) == int(kept.sum()) < 40
    assert torch.equal(task.clean, clean[kept])
    assert torch.equal(task.corrupted, corrupted[kept])
    assert torch.equal(task.right[:, 0], logits.argmax(-1)[kept])
    assert torch.equal(task.wrong[:, 0], others.argmax(-1)[kept])
    assert task.check(made.model).accuracy == 1
    each = made.task(clean, corrupted, at=torch.full((40,), 5))
    assert each.spec == task.spec != made.task(clean, corrupted).spec
    found = examine(made.model, task, made.true_edges - made.length_edges, "eap")
    assert found.truth.n_true == len(TRUE)
    assert ground_truth(discover(made.model, task, "eap"), made.true_edges).auroc == found.truth.auroc
    assert made.circuit.graph == graph_of(made.model) == GRAPH


def test_the_task_of_a_model_with_one_output_is_its_number(tmp_path: Path) -> None:
    made = made_of(tmp_path, d_vocab_out=1)
    task = made.task(tokens(20, 1), tokens(20, 2))
    clean, corrupted = task.metric(made.model(task.clean)), task.metric(made.model(task.corrupted))
    assert (clean > corrupted).all()
    torch.testing.assert_close(clean.abs(), made.model(task.clean)[:, -1, 0].abs())


def test_inputs_that_make_no_task(tmp_path: Path) -> None:
    made = made_of(tmp_path)
    one = tokens(4)
    cases: list[tuple[Any, Any, Any, str]] = [
        (one, one, None, "same answer on both sides"),
        (one, one[:, :5], None, r"one shape; got \[4, 9\] and \[4, 5\]"),
        (one[0], one, None, r"token ids \[batch, pos\]"),
        (one, one.float(), None, r"token ids \[batch, pos\]"),
        (one, one + 10, None, "outside of 0 to 9"),
        (one.repeat(1, 2), one.repeat(1, 2), None, "have 18 tokens; interpbench-3 reads 10"),
        (one, one, 9, "between 0 and 8"),
        (one, one, torch.zeros(3, dtype=torch.long), "one for each of the 4 pairs"),
    ]
    for clean, corrupted, at, said in cases:
        with pytest.raises(ValueError, match=said):
            made.task(clean, corrupted, at=at)


def test_cases_are_found_by_name(tmp_path: Path) -> None:
    for name in ("11", "3", "ioi"):
        publish(tmp_path / name)
    assert interpbench_cases(tmp_path) == ["3", "11", "ioi"]
    assert load_interpbench(tmp_path, 11).name == load_interpbench(tmp_path / "11", "11").name == "11"
    for where, case, said in (
        (tmp_path, None, r"holds 3 cases \(3, 11, ioi\); say which, such as case='3'"),
        (tmp_path, "12", r"no case '12' in .* it holds 3, 11, ioi"),
        (tmp_path, "../3", "no name of a case"),
        (tmp_path, "*", "no name of a case"),
        (tmp_path / "3" / "none", "3", "There is no folder"),
    ):
        with pytest.raises(ValueError, match=said):
            load_interpbench(where, case)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no 'll_model\.pth'"):
        load_interpbench(tmp_path / "empty")
    with pytest.raises(ValueError, match="There is no folder"):
        interpbench_cases(tmp_path / "none")


def test_the_hub_is_asked_for_one_case_and_is_not_needed_for_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    publish(tmp_path / "3")
    asked: list[Any] = []

    def download(repository: str, **options: Any) -> str:
        asked.append((repository, options))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_interpbench(case="3", revision="abc").true_edges == TRUE
    assert asked == [("cybershiptrooper/InterpBench", {"revision": "abc", "allow_patterns": ["3/*"]})]
    load_interpbench(tmp_path, "3")
    assert len(asked) == 1
    with pytest.raises(ValueError, match="There is no case '4'"):
        load_interpbench("owner/name", "4")
    with pytest.raises(ValueError, match="Say which case"):
        load_interpbench()
    with pytest.raises(ValueError, match="none of a repository"):
        load_interpbench(tmp_path, "3", hub=True)


def test_without_a_connection_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"Case '3' could not be had .* check the connection, or give the folder") as e:
        load_interpbench(case="3")
    assert "\n" not in str(e.value)
