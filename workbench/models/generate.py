"""Writing on, token by token: keys and values of what was read are kept, every activation is open to taps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.models.past import Past
from workbench.models.taps import Tap

if TYPE_CHECKING:
    from workbench.models.transformer import Transformer

Step = Callable[[int, int], bool | None]
"""``step(done, total)`` after every new token; True asks to stop."""


@torch.no_grad()
def generate(
    model: Transformer,
    tokens: str | Sequence[str] | Int[Tensor, "batch pos"],
    n: int = 20,
    *,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    taps: Mapping[str, Tap] | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
    stop_at: int | None = None,
    use_past: bool = True,
    step: Step | None = None,
) -> Int[Tensor, "batch pos_and_new"]:
    """The tokens with up to ``n`` new ones behind them.

    A tap sees the whole prompt in the first call and one new position in each later one; with ``use_past=False`` it
    sees the whole text every time. A tap that treats every position alike gives the same text either way.

    Args:
        model: a decoder.
        tokens: prompts, as texts or tokens; tokens of unlike length padded on the left, with an attention mask.
        n: new tokens at most.
        attention_mask: 1 for real tokens, 0 for padding on the left.
        taps: functions by activation name.
        temperature: 0 for the likeliest token each time; else tokens are drawn from ``softmax(logits / temperature)``.
        top_k: draw from the likeliest k only.
        seed: of the draws.
        stop_at: a token that ends a text (the tokenizer's end of text by default, -1 for none); the batch is done when
            all have it, and a text that ended is filled up with it.
        use_past: keep keys and values; False runs the whole text for every token.
        step: called after every token.

    Raises:
        ValueError: the model is no decoder, the text would exceed its context, or a setting makes no sense.
    """
    if not isinstance(tokens, Tensor):
        given = model.to_inputs(tokens, side="left")
        tokens, attention_mask = given["tokens"], given["attention_mask"]
    _check(model, tokens, attention_mask, n, temperature, top_k)
    end = getattr(model.tokenizer, "eos_token_id", None) if stop_at is None else (None if stop_at < 0 else stop_at)
    tokens = tokens.to(model.device)
    mask = None if attention_mask is None else attention_mask.to(model.device)
    generator = torch.Generator(model.device).manual_seed(seed)
    ended = torch.zeros(len(tokens), dtype=torch.bool, device=model.device)
    past = Past() if use_past and not model.needs_whole_text else None
    for done in range(n):
        read = tokens if past is None else tokens[:, len(past) :]
        last = torch.full((len(tokens),), read.shape[1] - 1, device=model.device)
        logits = model(read, taps, attention_mask=mask, past=past, logits_at=last)[:, 0]
        chosen = _choose(logits.float(), temperature, top_k, generator)
        if end is not None:
            chosen = torch.where(ended, end, chosen)
            ended |= chosen == end
        tokens = torch.cat((tokens, chosen[:, None]), 1)
        mask = None if mask is None else torch.cat((mask, mask.new_ones(len(mask), 1)), 1)
        if (step is not None and step(done + 1, n)) or bool(ended.all()):
            break
    return tokens


def _check(
    model: Transformer, tokens: Tensor, mask: Tensor | None, n: int, temperature: float, top_k: int | None
) -> None:
    cfg = model.cfg
    if tokens.ndim != 2:
        raise ValueError(f"Tokens are [batch, pos]; got {list(tokens.shape)}. Put one text into a batch: tokens[None].")
    if not cfg.causal or cfg.head == "none" or cfg.pooling != "none" or cfg.n_out != cfg.d_vocab:
        raise ValueError(f"{model.name} does not predict the next token; choose a decoder such as smollm2-135m.")
    if n < 1:
        raise ValueError(f"Ask for at least 1 new token, not {n}.")
    if tokens.shape[1] + n > cfg.n_ctx:
        raise ValueError(
            f"{tokens.shape[1]} tokens and {n} new ones are more than the {cfg.n_ctx} that {model.name} reads; "
            "shorten the prompt or ask for fewer."
        )
    pad = getattr(model.tokenizer, "pad_token_id", None)
    if mask is None and len(tokens) > 1 and pad is not None and bool((tokens[:, -1] == pad).any()):
        raise ValueError(
            "A text of the batch ends in padding, behind which nothing can be written; give the texts themselves, or "
            "pad them on the left with model.to_inputs(texts, side='left')."
        )
    if temperature < 0 or (top_k is not None and not 1 <= top_k <= cfg.d_vocab):
        raise ValueError("The temperature must be at least 0, and top_k between 1 and the size of the vocabulary.")
    if mask is not None and not bool((mask[:, -1] == 1).all()):
        raise ValueError("To write on, texts of unlike length must be padded on the left: the last token must be real.")


def _choose(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> Tensor:
    """One token of each row of logits [batch, d_vocab]."""
    if temperature == 0:
        return logits.argmax(-1)
    if top_k is not None:
        least = logits.topk(top_k, -1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    drawn = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
    return drawn[:, 0]
