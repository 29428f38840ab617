"""Patterns of one size from whole patterns; the map on patterns whose kinds are known."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from tests import digits
from tests.attention import brute
from workbench.attention import census_rows
from workbench.attention.autoencoder import encode
from workbench.attention.pattern_map import _clustered, _in_the_plane, pattern_map
from workbench.attention.pattern_shapes import Per, shapes_of
from workbench.circuits.progress import Stopped


def pooled(p: Tensor, side: int) -> Tensor:
    """Equal parts of a pattern [query, key]: sums over keys, means over queries, entry by entry."""
    n = len(p)
    out, rows = torch.zeros(side, side, dtype=torch.float64), torch.zeros(side, dtype=torch.float64)
    for i in range(n):
        rows[i * side // n] += 1
        for j in range(n):
            out[i * side // n, j * side // n] += p[i, j]
    return out / rows.clamp(min=1)[:, None]


@pytest.mark.parametrize("numbers", [2**22, 2 * 4 * 22 * 5])
def test_heads_are_cut_into_equal_parts(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census_rows.strips, "__defaults__", (numbers,))
    hf, model = brute.pair("llama-grouped")
    tokens = brute.given(model, batch=2, n=22)
    found = shapes_of(model, tokens, side=8)
    p = brute.patterns(hf, tokens)
    at = 0
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            expected = torch.stack([pooled(x, 8) for x in p[layer, head]]).mean(0)
            torch.testing.assert_close(found.patterns[at], expected, rtol=1e-5, atol=1e-7)
            assert found.names[at] == f"a{layer}.h{head}"
            at += 1
    torch.testing.assert_close(found.patterns.sum(-1), torch.ones(at, 8).double(), rtol=1e-6, atol=1e-6)
    assert float(found.patterns.triu(1).abs().max()) == 0  # causal stays causal


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_queries_of_a_text_are_weights_at_doubling_distances(kind: str) -> None:
    hf, model = brute.pair(kind)
    tokens = brute.given(model, batch=2, n=11)
    found = shapes_of(model, tokens, per="query")
    p = brute.patterns(hf, tokens).mean(2)
    bins = 5  # 0, 1, 2-3, 4-7, 8-15
    for at, name in enumerate(found.names):
        head, query = name.split("@q")
        layer, number = (int(part[1:]) for part in head.split("."))
        row: Tensor = p[layer, number, int(query)]
        expected = torch.zeros(bins if model.cfg.causal else 2 * bins - 1, dtype=torch.float64)
        for key in range(11):
            back = int(query) - key
            step = 0 if back == 0 else int(math.copysign(math.floor(math.log2(abs(back))) + 1, back))
            expected[step if model.cfg.causal else step + bins - 1] += row[key]
        torch.testing.assert_close(found.patterns[at, 0], expected, rtol=1e-5, atol=1e-7)


def test_queries_of_an_image_are_maps_on_its_grid() -> None:
    model = digits.vision(height=6, width=8, prefix=("cls", "reg0"))
    images = torch.rand(40, 1, 6, 8, generator=torch.Generator().manual_seed(0))  # more than run at once
    found = shapes_of(model, images)
    assert found.per == "query"
    assert found.examples == 40
    _, cache = model.run_with_cache(images)
    at = found.names.index("a2.h3@q7")
    expected = cache["pattern", 2][:, 3, 7, 2:].double().mean(0).reshape(3, 4)
    torch.testing.assert_close(found.patterns[at], expected, rtol=1e-5, atol=1e-7)
    heads = shapes_of(model, images, per="head")
    expected = torch.stack([pooled(x.double(), 12) for x in cache["pattern", 1][:, 2, 2:, 2:]]).mean(0)
    torch.testing.assert_close(heads.patterns[heads.names.index("a1.h2")], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("per", ["head", "query"])
def test_the_mean_is_that_of_every_examples_patterns(per: Per) -> None:
    _, decoder = brute.pair("gpt2")
    for model, inputs in (
        (digits.vision(), torch.rand(34, 1, 8, 8, generator=torch.Generator().manual_seed(0))),
        (decoder, brute.given(decoder, batch=34, n=9)),
    ):
        mean, each = shapes_of(model, inputs, per=per), shapes_of(model, inputs, per=per, each=True)
        assert each.example is not None
        assert each.names[-1] == f"{mean.names[-1]}#33"
        assert int(each.example[-1]) == 33
        torch.testing.assert_close(each.patterns.reshape(34, *mean.patterns.shape).mean(0), mean.patterns)
        alone = shapes_of(model, inputs[7:8], per=per).patterns
        torch.testing.assert_close(each.patterns[each.example == 7], alone, rtol=1e-4, atol=1e-6)


def test_examples_are_held_out_whole() -> None:
    patterns, _ = kinds(100)
    codes = encode(patterns, 2, 1, 0, group=torch.arange(100) % 20)
    assert codes.held_out == 20
    assert encode(patterns, 2, 1, 0, group=torch.arange(100) % 19).held_out == 0


def test_padding_changes_no_heads_pattern() -> None:
    _, model = brute.pair("llama-grouped")
    tokens = brute.given(model, batch=1, n=16)
    mask = torch.cat([torch.zeros(1, 5), torch.ones(1, 16)], 1).long()
    padded = torch.cat([torch.full((1, 5), 1), tokens], 1)
    alone = shapes_of(model, tokens, side=8).patterns
    torch.testing.assert_close(shapes_of(model, padded, attention_mask=mask, side=8).patterns, alone)
    with pytest.raises(ValueError, match="no common queries"):
        shapes_of(model, padded, per="query", attention_mask=mask)


def kinds(n: int = 60, side: int = 8) -> tuple[Tensor, Tensor]:
    """Three kinds of patterns with some noise, and which each is."""
    generator = torch.Generator().manual_seed(0)
    diagonal = torch.eye(side)
    first = torch.zeros(side, side)
    first[:, 0] = 1
    flat = torch.full((side, side), 1 / side)
    kind = torch.arange(n) % 3
    clean = torch.stack([diagonal, first, flat])[kind]
    return (clean + 0.02 * torch.randn(n, side, side, generator=generator)).double(), kind


def test_kinds_that_are_there_are_the_clusters_that_are_found() -> None:
    patterns, kind = kinds()
    codes = encode(patterns, 2, 300, 0)
    cluster, silhouette = _clustered(codes.codes, None, 0)
    assert max(silhouette, key=lambda k: silhouette[k]) == 3
    # Each kind is one cluster.
    assert len({(int(a), int(b)) for a, b in zip(kind, cluster, strict=True)}) == 3
    assert codes.held_out == 12
    # Two components are enough for three kinds; noise is all that is lost.
    assert codes.explained_pca > 0.99
    assert codes.explained > 0.95
    assert codes.losses[-1] < codes.losses[0]


def test_the_baseline_is_that_of_principal_components() -> None:
    patterns, _ = kinds(25)
    codes = encode(patterns, 3, 1, 5)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(5))
    test, train = patterns[order[:5]].flatten(1).numpy(), patterns[order[5:].sort().values].flatten(1).numpy()
    pca = PCA(3).fit(train)
    lost = ((pca.inverse_transform(pca.transform(test)) - test) ** 2).sum() / ((test - train.mean(0)) ** 2).sum()
    assert codes.explained_pca == pytest.approx(1 - lost)
    assert codes.explained < codes.explained_pca  # after one step


def test_a_map_is_the_same_for_the_same_seed_and_leaves_torchs_alone() -> None:
    _, model = brute.pair("llama-grouped", layers=2)
    tokens = brute.given(model, batch=2, n=20)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = pattern_map(model, tokens, steps=40, seed=3)
    assert torch.equal(torch.rand(3), expected)
    again = pattern_map(model, tokens, steps=40, seed=3)
    assert torch.equal(first.points, again.points)
    assert torch.equal(first.cluster, again.cluster)
    assert first.held_out == 0
    assert math.isnan(first.explained)
    assert first.to_dict()["explained"] is None
    n = len(first.names)
    assert n == model.cfg.n_layers * model.cfg.n_heads
    assert first.points.shape == (n, 2)
    assert first.shares.tolist() == sorted(first.shares.tolist(), reverse=True)
    for at in range(len(first.shares)):
        inside = first.cluster == at
        torch.testing.assert_close(first.means[at], first.patterns[inside].mean(0))
        assert float(first.shares[at]) == pytest.approx(int(inside.sum()) / n)
        assert sorted(first.members(at)) == sorted(
            name for name, here in zip(first.names, inside.tolist(), strict=True) if here
        )
    assert first.to_dict()["names"] == list(first.names)
    with pytest.raises(ValueError, match="no cluster 99"):
        first.members(99)


def test_more_numbers_are_brought_into_the_plane() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(30, 5, generator=generator, dtype=torch.float64)
    flat = _in_the_plane(codes, "pca", 0)
    by_sklearn = torch.as_tensor(PCA(2).fit_transform(codes.numpy()))
    torch.testing.assert_close(flat.abs(), by_sklearn.abs())
    assert _in_the_plane(codes, "tsne", 0).shape == (30, 2)
    _, model = brute.pair("gpt2")
    found = pattern_map(model, brute.given(model, n=9), per="query", width=3, plane="pca", clusters=4, steps=20)
    assert found.codes.shape[1] == 3
    assert len(found.shares) == 4
    assert list(found.silhouette) == [4]


def test_unusable_settings_are_one_sentence() -> None:
    _, model = brute.pair("gpt2")
    tokens = brute.given(model, n=9)
    for settings, sentence in (
        ({"width": 1}, "at least 2"),
        ({"plane": "umap"}, "'pca' or 'tsne'"),
        ({"per": "layer"}, "'head' or 'query'"),
        ({"clusters": 99}, "clusters lies between"),
    ):
        with pytest.raises(ValueError, match=sentence):
            pattern_map(model, tokens, **{"per": "query", **settings})  # type: ignore[arg-type]
    with pytest.raises(Stopped):
        pattern_map(model, tokens, per="query", progress=lambda p: "training" not in p.what)
    with pytest.raises(ValueError, match="There are 6 patterns; a map needs 8"):
        pattern_map(model, tokens)
    encoder = digits.encoder()
    for block in encoder.blocks:
        block.attn.q.weight.zero_()
        block.attn.q.bias.zero_()
    with pytest.raises(ValueError, match="All patterns are the same"):
        pattern_map(encoder, torch.arange(9)[None])
