"""Successor heads: hand-made ones, and the score of any head from whole matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tests import digits
from tests.attention import brute
from tests.attention.test_head_circuits import dense_ov
from workbench.attention.effective import effective
from workbench.attention.successor import SEQUENCES, OrdinalSequence, successors
from workbench.circuits.progress import Stopped
from workbench.models import ModelConfig, Transformer, fresh
from workbench.models.tokens import Tokens

DAYS = next(sequence for sequence in SEQUENCES if sequence.key == "days")
WORDS = ["<unk>", *DAYS.words, *(f" {day}" for day in DAYS.words), "A", "B", "C", "cat", " cat"]


def tokenizer(words: list[str]) -> Any:
    """Every string is one token, or unknown."""
    vocabulary = {word: at for at, word in enumerate(words)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>")), unk_token="<unk>"
    )


def made(**more: Any) -> Transformer:
    """A model whose stream is one number for each word; head 0 of layer 1 says the next day, head 1 the word itself."""
    n = len(WORDS)
    sizes: dict[str, Any] = {"n_layers": 2, "n_heads": 2, "n_key_value_heads": 2, "d_model": n, "d_head": n}
    plain: dict[str, Any] = {"norm": "none", "norm_eps": 1e-6, "act_fn": "relu", "gated_mlp": False, "tied": False}
    cfg = ModelConfig(
        family="zoo",
        d_mlp=n,
        d_vocab=n,
        n_ctx=8,
        positions="learned",
        attn_scale=1.0,
        attn_bias=False,
        out_bias=False,
        mlp_bias=False,
        **{**sizes, **plain, **more},
    )
    model = fresh(cfg, tokenizer=tokenizer(WORDS), name="made")
    eye = torch.eye(n)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embed.weight.copy_(eye)
        model.unembedding.weight.copy_(eye)
        for block in model.blocks:
            if block.mlp is not None:
                block.mlp.up.weight.copy_(eye)
                block.mlp.out.weight.copy_(eye)
        attn = model.blocks[1].attn
        attn.v.weight.copy_(torch.cat([eye, eye]))
        attn.o.weight.copy_(torch.cat([following(), eye], 1))
    return model


def following() -> Tensor:
    """[to, from]: each day's next."""
    shift = torch.zeros(len(WORDS), len(WORDS))
    for space in ("", " "):
        days = [WORDS.index(space + day) for day in DAYS.words]
        for at, day in enumerate(days):
            shift[days[(at + 1) % 7], day] = 1
    return shift


@pytest.mark.parametrize("attn_only", [True, False])
def test_a_head_that_says_the_next_day_is_a_successor_head(attn_only: bool) -> None:
    found = successors(made(attn_only=attn_only))
    assert found.counts == {"days": 14, "letters": 2}
    assert found.candidates == {False: 10, True: 7}
    assert float(found.by_sequence["days"][1, 0]) == 1
    assert float(found.by_sequence["letters"][1, 0]) == 0
    assert float(found.score[1, 0]) == pytest.approx(14 / 16)
    assert float(found.score[1, 1]) == 0
    assert found.own[1].tolist() == [0, 1]
    assert found.score[0].tolist() == [0, 0]  # what writes nothing raises all alike
    assert found.top(1)[0].name == "a1.h0"
    assert found.to_dict()["pairs"] == {"days": 14, "letters": 2}


def test_heads_read_what_the_first_mlp_wrote_and_those_of_the_first_layer_do_not() -> None:
    model = made()
    with torch.no_grad():
        # The MLP says the next day, so that a head behind it that copies says so too.
        assert model.blocks[0].mlp is not None
        model.blocks[0].mlp.out.weight.copy_(following())
        model.blocks[0].attn.v.weight.copy_(model.blocks[1].attn.v.weight)
        model.blocks[0].attn.o.weight.copy_(model.blocks[1].attn.o.weight)
    found = successors(model, sequences=[DAYS])
    assert found.score.tolist() == [[1, 0], [0, 1]]
    plain = successors(model, sequences=[DAYS], reads="embedding")
    assert plain.score.tolist() == [[1, 0], [1, 0]]


@pytest.mark.parametrize("kind", ["gpt2", "llama-grouped", "gemma2", "gpt-neox"])
def test_scores_of_random_models_are_those_of_whole_matrices(kind: str) -> None:
    _, model = brute.pair(kind)
    letters = [chr(65 + at) for at in range(12)]
    model.text = Tokens(tokenizer(["<unk>", *letters, "a", *(f" {x}" for x in letters[:5])]), 20, model.cfg.d_vocab)
    sequence = OrdinalSequence("letters", tuple(letters))
    found = successors(model, sequences=[sequence], reads="embedding")
    plain, spaced = list(range(1, 13)), list(range(14, 19))
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            whole = dense_ov(model, layer, head)
            hits = [
                members[int(whole[token, members].argmax())] == members[at + 1]
                for members in (plain, spaced)
                for at, token in enumerate(members[:-1])
            ]
            assert float(found.score[layer, head]) == pytest.approx(sum(hits) / 15)


@pytest.mark.parametrize("kind", ["gpt2", "llama-grouped", "gemma2", "gpt-neox", "qwen3"])
def test_effective_embeddings_are_the_models_own_runs_of_one_token(kind: str) -> None:
    _, model = brute.pair(kind)
    if model.pos_embed is not None:
        with torch.no_grad():
            model.pos_embed.weight.zero_()
    ids = torch.tensor([3, 9, 40])
    torch.testing.assert_close(effective(model, ids, "layer0"), model(ids[:, None], stop_at_layer=1)[:, 0])
    _, cache = model.run_with_cache(
        ids[:, None],
        ["blocks.0.hook_resid_pre", "blocks.0.hook_mlp_out"],
        taps={"blocks.0.hook_attn_out": lambda x: 0 * x},
    )
    torch.testing.assert_close(effective(model, ids, "embedding"), cache["blocks.0.hook_resid_pre"][:, 0])
    torch.testing.assert_close(effective(model, ids), cache["blocks.0.hook_mlp_out"][:, 0])


def test_unusable_input_is_one_sentence(model: Transformer) -> None:
    with pytest.raises(ValueError, match="logits of the same tokens"):
        successors(digits.vision())
    with pytest.raises(ValueError, match="without a tokenizer"):
        successors(brute.pair("gpt2")[1])
    with pytest.raises(ValueError, match="No two neighbours"):
        successors(made(), sequences=[OrdinalSequence("birds", ("heron", "osprey"))])
    with pytest.raises(ValueError, match="at least two words"):
        successors(made(), sequences=[OrdinalSequence("birds", ("heron",))])
    with pytest.raises(ValueError, match="there is no 'mlp1'"):
        successors(made(), reads="mlp1")  # type: ignore[arg-type]
    with pytest.raises(Stopped):
        successors(made(), progress=lambda at: False)
