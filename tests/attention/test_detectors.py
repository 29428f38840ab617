"""Detectors from whole patterns in float64, and on models whose heads are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests import digits
from tests.attention import brute
from workbench.attention import DETECTORS, census, census_rows, detectors
from workbench.circuits.known.registry import known_models
from workbench.circuits.progress import Stopped
from workbench.models import Transformer, load
from workbench.models.zoo import induction

KEYS = [detector.key for detector in DETECTORS]


def mean_where(p: Tensor, chosen: Any, asks: Any) -> Tensor:
    """Mean over queries i with asks(i) of the weight on the keys j with chosen(i, j); entry by entry."""
    n = p.shape[-1]
    total, rows = torch.zeros(p.shape[:2], dtype=torch.float64), 0
    for i in range(n):
        if asks(i):
            rows += p.shape[2]
            for j in range(n):
                if chosen(i, j):
                    total += p[:, :, :, i, j].sum(-1)
    return total / rows


def explained(p: Tensor, causal: bool, seen: Tensor) -> Tensor:
    """R squared of a regression of weights on one indicator for each distance."""
    n = p.shape[-1]
    found = torch.zeros(p.shape[:2], dtype=torch.float64)
    for layer in range(p.shape[0]):
        pairs = [(i, j) for i in range(n // 2 if causal else 0, n) for j in range(n) if seen[layer, i, j]]
        design = torch.zeros(len(pairs), 2 * n, dtype=torch.float64)
        for row, (i, j) in enumerate(pairs):
            design[row, i - j + n] = 1
        design = design.repeat(p.shape[2], 1)
        for head in range(p.shape[1]):
            y = torch.cat([torch.stack([x[i, j] for i, j in pairs]) for x in p[layer, head]])
            fit = design @ (torch.linalg.pinv(design) @ y)
            found[layer, head] = 1 - (y - fit).square().sum() / (y - y.mean()).square().sum()
    return found


# Grouped keys, windows, capped scores, norms of queries and keys, both ways.
@pytest.mark.parametrize("kind", ["gpt2", "llama-grouped", "qwen2-window", "gemma2", "qwen3", "bert"])
@pytest.mark.parametrize("numbers", [2**22, 200])
def test_scores_are_those_of_the_whole_pattern(kind: str, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census_rows.strips, "__defaults__", (numbers,))
    hf, model = brute.pair(kind)
    tokens = brute.given(model, batch=2, n=20)
    found = census(model, tokens, recent=4, repeat=8, batch=3, seed=5, weights=False)
    p, n, causal = brute.patterns(hf, tokens), 20, model.cfg.causal
    seen = torch.stack([brute.sight(model, layer, n) for layer in range(model.cfg.n_layers)])
    expected = {
        "previous": mean_where(p, lambda i, j: j == i - 1, lambda i: i >= 1),
        "first": mean_where(p, lambda i, j: j == 0, lambda i: i >= 1),
        "positional": explained(p, causal, seen),
    }
    if causal:
        expected["recent"] = mean_where(p, lambda i, j: i - 4 < j <= i, lambda i: i >= 4)
        expected["streaming"] = mean_where(p, lambda i, j: j == 0 or i - 4 < j <= i, lambda i: i > 4)
    series, length = detectors.repeated(model, 8, 3, 5)
    assert found.repeat == length
    q = brute.patterns(hf, series)
    second = series.shape[1] - length
    expected["duplicate"] = mean_where(q, lambda i, j: j == i - length, lambda i: i >= second)
    if causal:
        expected["induction"] = mean_where(q, lambda i, j: j == i - length + 1, lambda i: i >= second)
    for key, score in expected.items():
        torch.testing.assert_close(found.score(key), score, rtol=1e-5, atol=1e-6, msg=key)
    assert {key for key in KEYS if found.scores[key] is not None} == set(expected)


def test_a_series_has_no_token_twice_but_by_its_repeat(model: Transformer) -> None:
    tokens, length = detectors.repeated(model, 12, 3, 0)
    assert torch.equal(tokens[:, -length:], tokens[:, -2 * length : -length])
    assert all(len(set(row[-length:].tolist())) == length for row in tokens)
    assert not torch.equal(tokens, detectors.repeated(model, 12, 3, 1)[0])
    _, window = brute.pair("qwen2-window")
    assert window.cfg.windows is not None
    assert detectors.repeated(window, 64, 1, 0)[1] <= min(w for w in window.cfg.windows if w is not None)


def test_padding_changes_nothing() -> None:
    _, model = brute.pair("llama-grouped")
    tokens = brute.given(model, batch=1, n=14)
    alone = census(model, tokens, recent=3, repeat=6)
    for left in (True, False):
        padding, ones = torch.full((1, 5), 1), torch.ones(1, 14)
        parts, masks = (
            ([padding, tokens], [torch.zeros(1, 5), ones]) if left else ([tokens, padding], [ones, torch.zeros(1, 5)])
        )
        padded = census(model, torch.cat(parts, 1), attention_mask=torch.cat(masks, 1).long(), recent=3, repeat=6)
        for key in ("previous", "first", "recent", "streaming", "positional"):
            torch.testing.assert_close(padded.score(key), alone.score(key))


def test_delimiters_are_told_by_what_they_say(model: Transformer) -> None:
    text = "When Mary, and John. went\n to the store, John gave"
    tokens = model.to_tokens(text)
    marks = detectors.delimiters(model, tokens)
    assert marks is not None
    pieces = [model.tokenizer.decode([at]) for at in tokens[0].tolist()]
    expected = [not any(c.isalnum() for c in piece) and any(c in ",.\n" for c in piece) for piece in pieces]
    assert marks[0].tolist() == expected
    assert sum(expected) >= 3
    _, cache = model.run_with_cache(tokens, lambda name: name.endswith("hook_pattern"))
    found = census(model, text).score("delimiter")
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            excess = 0.0
            for i in range(1, len(pieces)):
                at = [j for j in range(1, i + 1) if expected[j]]
                excess += float(cache["pattern", layer][0, head, i, at].double().sum()) - len(at) / (i + 1)
            assert float(found[layer, head]) == pytest.approx(excess / (len(pieces) - 1), abs=1e-6)


def test_other_mechanisms_are_read_from_their_pattern(model: Transformer) -> None:
    sparse = model.with_attention("sparsemax")
    tokens = sparse.to_tokens("When Mary and John went to the store")
    _, cache = sparse.run_with_cache(tokens, lambda name: name.endswith("hook_pattern"))
    found = census(sparse, tokens)
    for layer in range(sparse.cfg.n_layers):
        expected = cache["pattern", layer][0].diagonal(-1, 1, 2).double().mean(-1)
        torch.testing.assert_close(found.score("previous")[layer], expected, rtol=1e-5, atol=1e-6)


def test_the_trained_models_heads_are_found() -> None:
    trained = load("induction-2l")
    known = induction.heads(trained)
    found = census(trained)
    for kind, key in (("induction", "induction_heads"), ("previous", "previous_token_heads")):
        listed = [[head.layer, head.head] for head in found.top(kind, len(known[key]))]
        assert known[key]
        assert sorted(listed) == sorted(known[key])
    assert found.top("induction", 1)[0].value > 0.4
    assert found.top("previous", 1)[0].layer == 0
    assert found.top("induction", 1)[0].layer == 1


def test_vision_has_its_class_token_only() -> None:
    vision = digits.vision()
    images = torch.rand(2, 1, 8, 8)
    _, cache = vision.run_with_cache(images, lambda name: name.endswith("hook_pattern"))
    found = census(vision, images)
    assert [key for key in KEYS if found.scores[key] is not None] == ["first"]
    expected = torch.stack([cache["pattern", at][:, :, 1:, 0].double().mean((0, 2)) for at in range(3)])
    torch.testing.assert_close(found.score("first"), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="reads images: give some"):
        census(vision)


def test_a_head_that_gives_all_the_same_has_no_variance_to_explain() -> None:
    encoder = digits.encoder()
    with torch.no_grad():
        encoder.blocks[0].attn.q.weight.zero_()
        encoder.blocks[0].attn.q.bias.zero_()
    found = census(encoder)
    assert found.score("positional")[0].isnan().all()
    assert not found.score("positional")[1].isnan().any()
    assert found.to_dict()["scores"]["positional"][0] == [None] * 4
    with pytest.raises(ValueError, match="looks both ways"):
        found.score("induction")


def test_unusable_input_is_one_sentence(model: Transformer) -> None:
    found = census(model)
    with pytest.raises(ValueError, match="did you mean 'induction'"):
        found.score("inductoin")
    with pytest.raises(ValueError, match="give a text for delimiters"):
        found.top("delimiter")
    with pytest.raises(ValueError, match="at least 1"):
        census(model, recent=0)
    with pytest.raises(ValueError, match="rows need not sum to 1"):
        census(model.with_attention("sigmoid"))
    with pytest.raises(Stopped):
        census(model, progress=lambda at: False)
    broken = model.with_attention("softmax")
    with torch.no_grad():
        kept = broken.blocks[1].attn.q.weight.clone()
        broken.blocks[1].attn.q.weight[0] = torch.inf
        try:
            with pytest.raises(ValueError, match="layer 1, head 0 are not finite"):
                census(broken)
        finally:
            broken.blocks[1].attn.q.weight.copy_(kept)


def test_heads_of_a_compiled_program_do_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    # Layer 0 fetches the token before, layer 1 looks where that is the present token.
    compiled = next(known for known in known_models() if known.key == "induction").load()
    series = compiled.encode([list("abcdabcd"), list("fbeafbea")])
    monkeypatch.setattr(detectors, "repeated", lambda *_: (series, 4))
    found = census(compiled.model)
    assert float(found.score("previous")[0, 0]) == pytest.approx(1)
    assert float(found.score("positional")[0, 0]) == pytest.approx(1)
    assert float(found.score("induction")[1, 0]) == pytest.approx(1)
    assert float(found.score("induction")[0, 0]) == pytest.approx(0, abs=1e-6)
    assert float(found.score("duplicate")[1, 0]) == pytest.approx(0, abs=1e-6)


@pytest.mark.real
def test_without_smollm2s_induction_heads_repeats_are_not_known(smol: Transformer) -> None:
    top = [(head.layer, head.head) for head in census(smol, weights=False).top("induction")]
    series, length = detectors.repeated(smol, 32, 4, 7)

    def loss(heads: list[tuple[int, int]]) -> float:
        def silence(layer: int) -> Any:
            chosen = torch.zeros(smol.cfg.n_heads, dtype=torch.bool)
            chosen[[head for at, head in heads if at == layer]] = True
            return lambda z: z.masked_fill(chosen[:, None], 0)

        taps = {f"blocks.{layer}.attn.hook_z": silence(layer) for layer, _ in heads}
        with torch.no_grad():
            logits = smol(series, taps)[:, -length:-1]
        return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), series[:, 1 - length :].flatten()))

    generator = torch.Generator().manual_seed(0)
    others = [
        (layer, head)
        for layer in sorted({layer for layer, _ in top})
        for head in range(smol.cfg.n_heads)
        if (layer, head) not in top
    ]
    random = [loss([others[at] for at in torch.randperm(len(others), generator=generator)[:5].tolist()]) for _ in "123"]
    assert loss(top) > max(random) + 1


def test_weights_tell_heads_that_copy_and_suppress_and_a_note_says_what_they_cannot() -> None:
    _, model = brute.pair("gpt2")
    size = model.cfg.d_head
    with torch.no_grad():
        attn = model.blocks[0].attn
        attn.v.weight[: 2 * size] = 0
        attn.o.weight[:, : 2 * size] = 0
        for head, sign in ((0, 1.0), (1, -1.0)):
            here = slice(head * size, (head + 1) * size)
            attn.v.weight[here, :size] = torch.eye(size, dtype=attn.v.weight.dtype)
            attn.o.weight[:size, here] = sign * torch.eye(size, dtype=attn.v.weight.dtype)
    found = census(model, torch.arange(12)[None])
    copies, lowers = found.score("copying")[0], found.score("copy_suppression")[0]
    assert copies[0] > copies[1]
    assert lowers[1] > lowers[0]
    assert found.scores["successor"] is None
    assert any("Not read from weights" in note for note in found.notes)
    without = census(model, torch.arange(12)[None], weights=False)
    assert without.scores["copying"] is None
    assert not any("weights" in note for note in without.notes)


def test_a_context_without_room_for_series_leaves_their_kinds_out_where_there_is_a_text() -> None:
    model = load("modular-addition")
    text = torch.tensor([[57, 88, 113]])
    found = census(model, text)
    assert found.scores["induction"] is None
    assert found.scores["duplicate"] is None
    assert found.repeat is None
    assert any("no room for a series" in note for note in found.notes)
    _, cache = model.run_with_cache(text, lambda name: name.endswith("hook_pattern"))
    pattern = torch.stack([cache["pattern", layer][0] for layer in range(model.cfg.n_layers)]).double()
    before = pattern.diagonal(-1, -2, -1).mean(-1)
    torch.testing.assert_close(found.score("previous").double(), before, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="no room for a series"):
        census(model)
