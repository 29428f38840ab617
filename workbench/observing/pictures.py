"""The figures of an observation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.attention import Dispersion
from workbench.attention.hops import HopProfile
from workbench.figures.all_heads import all_heads
from workbench.figures.curves import Line, curves
from workbench.figures.figure import Figure
from workbench.figures.overlay import Picture
from workbench.figures.patch_heads import patch_heads
from workbench.figures.svg import number, plural, show_token
from workbench.observing.maps import caption_of, measure_map, measure_names
from workbench.observing.records import Observation

_MAPS = ("entropy", "normalised_entropy", "sink_mass")
_BINS = 128  # most points of a line along positions
_BAND = (0.1, 0.9)
_BAND_WORDS = "The band holds the middle 80 % of heads."


def pictures(observation: Observation, picture: Picture | None = None) -> dict[str, Figure]:
    """The figures of an observation by name; ``picture`` is the image, where it was one.

    ``heads`` (every head's pattern, of short inputs), ``entropy``, ``normalised_entropy`` and ``sink_mass`` (maps),
    ``layers`` (entropy by layer beside its lower bound), ``position`` (entropy against position), ``context`` and
    ``largest_context`` (entropy and largest weight against the length of the context), ``sinks`` (where heads park),
    and ``kind_...``, a map for every kind of head that says something about this input.
    """
    found: dict[str, Figure] = {}
    if observation.patterns is not None:
        caption = caption_of(observation)
        found["heads"] = (
            heads_at_a_glance(observation)
            if picture is None
            else patch_heads(picture, observation.patterns, caption=caption)
        )
    known = measure_names(observation)
    found |= {key: measure_map(observation, key) for key in _MAPS if key in known}
    found["layers"] = entropy_by_layer(observation)
    if observation.statistics.tokens is not None:
        found["position"] = entropy_by_position(observation)
    if observation.dispersion is not None and len(observation.dispersion.lengths) > 1:
        found["context"] = entropy_by_context(observation.dispersion)
        found["largest_context"] = largest_by_context(observation.dispersion)
    if observation.sinks is not None and bool(observation.sinks.rate[0].isfinite().any()):
        found["sinks"] = sinks_by_position(observation)
    kinds = [key for key in observation.census.scores if key in known and not trivial(observation, key)]
    return found | {f"kind_{key}": measure_map(observation, key) for key in kinds}


def trivial(observation: Observation, key: str) -> bool:
    """Whether a kind of head says nothing of an input, as every head scores high: in a short text most keys are recent.

    ``key`` is one of :data:`workbench.attention.DETECTORS`.
    """
    return key in ("recent", "streaming") and observation.statistics.shape[-1] < 4 * observation.census.recent


def heads_at_a_glance(observation: Observation, *, mute_first: bool = False, selected: Sequence[str] = ()) -> Figure:
    """Every head's pattern of the first example.

    Raises:
        ValueError: the input was too long for them to be kept.
    """
    if observation.patterns is None:
        raise ValueError("The patterns of all heads are kept of short inputs only; give a shorter text.")
    n = observation.patterns.shape[-1]
    names = observation.tokens if observation.tokens is not None else [str(i) for i in range(n)]
    return all_heads(
        observation.patterns,
        names,
        caption=caption_of(observation),
        mute_first=mute_first,
        causal=observation.causal,
        selected=selected,
    )


def entropy_by_layer(observation: Observation) -> Figure:
    """Mean entropy of every layer, beside the lower bound of Zhai et al. where there is one."""
    bound, found = observation.bound, observation.statistics
    entropy = found.entropy if bound is None else bound.entropy
    depth = list(range(len(entropy)))
    seen = found.visible[found.visible > 1].double().log()
    ceiling = float(seen.mean()) if seen.numel() else 0.0
    lines = [
        _over_heads("mean of heads", depth, entropy.T),
        Line("log of the visible keys", depth, [ceiling] * len(depth), dashed=True),
    ]
    means = entropy.nanmean(-1)
    deepest = int(means.nan_to_num(torch.inf).argmin())
    title = f"Attention is sharpest in layer {deepest}: {number(float(means[deepest]))} of {number(ceiling)} nats"
    notes = [caption_of(observation), _BAND_WORDS]
    if bound is not None:
        lines += [
            Line("bound from each row's logits", depth, bound.by_rows.nanmean(-1).tolist(), dashed=True),
            Line("bound from weights", depth, bound.by_weights.nanmean(-1).tolist(), dashed=True),
        ]
        over = float((entropy - bound.by_rows).nanmean())
        title += f"; on average {number(over)} above its bound"
        notes.append(
            "Bounds: Zhai et al. 2023, theorem 3.1" + ("." if bound.theorem else ", widened for rotary or norms.")
        )
    return curves(lines, x_title="layer", y_title="entropy (nats)", title=title, caption=" ".join(notes))


def entropy_by_position(observation: Observation, heads: Sequence[str] = ()) -> Figure:
    """Entropy against the position of the query, with the log of the visible keys: what uniform attention has.

    Args:
        observation: what was observed.
        heads: names of heads with a line of their own, such as ``a9.h6``.

    Raises:
        ValueError: there is no such head.
    """
    found = observation.statistics
    entropy = found.by_position("entropy")
    visible = found.visible.double().masked_fill(found.visible == 0, torch.nan).log().nanmean((0, 1))
    width = -(-entropy.shape[-1] // _BINS)
    place, *binned = (_binned(x, width) for x in (torch.arange(entropy.shape[-1]).double(), visible, entropy))
    lines = [Line("log of the visible keys", place.tolist(), binned[0].tolist(), dashed=True)]
    lines.append(_over_heads("mean of heads", place.tolist(), binned[1].flatten(0, 1)))
    lines += _of_heads(observation.model, heads, place.tolist(), binned[1])
    end = int((~binned[1].isnan().all(1).all(0)).nonzero()[-1])
    mean, most = float(binned[1][:, :, end].nanmean()), float(binned[0][end])
    last = min((end + 1) * width, entropy.shape[-1]) - 1
    where = f"At position {last:,}" if width == 1 else f"At positions {end * width:,} to {last:,}"
    title = f"{where} the mean head has {number(mean)} of the {number(most)} nats of uniform attention"
    if not most:
        title = f"At position {last:,} every head sees one key"
    return curves(
        lines,
        x_title="position of the query",
        y_title="entropy (nats)",
        title=title,
        caption=f"{caption_of(observation)} {_BAND_WORDS}"
        + (f" Means over {width} positions each." if width > 1 else ""),
    )


def entropy_by_context(dispersion: Dispersion, heads: Sequence[str] = ()) -> Figure:
    """Entropy as the context grows, between log of the keys and the bound that the range of logits sets.

    Args:
        dispersion: what was found.
        heads: names of heads with a line of their own, such as ``a9.h6``.

    Raises:
        ValueError: there is no such head.
    """
    lengths = dispersion.lengths
    ceiling = torch.tensor(lengths).double().log().tolist()
    lines = [
        Line("log of the keys", lengths, ceiling, dashed=True),
        _over_heads("mean of heads", lengths, dispersion.entropy.flatten(1).T),
    ]
    lines += _of_heads(dispersion.model, heads, lengths, dispersion.entropy.permute(1, 2, 0))
    floor = dispersion.entropy_floor.flatten(1).nanmean(-1)
    if bool(floor.isfinite().any()):
        lines.append(Line("least that logits allow", lengths, floor.tolist(), dashed=True))
    mean = dispersion.entropy.flatten(1).nanmean(-1)
    title = f"Entropy of the mean head at {lengths[0]} tokens: {number(float(mean[0]))} nats"
    if len(lengths) > 1:
        slope = float(dispersion.slope().nanmean())
        title = f"Each doubling of the context adds {number(slope * 0.693147)} nats to the mean head; 0.693 if uniform"
    return curves(
        lines,
        x_title="length of the context (tokens)",
        y_title="entropy (nats)",
        log_x=True,
        title=title,
        caption=_context_caption(dispersion),
    )


def largest_by_context(dispersion: Dispersion, heads: Sequence[str] = ()) -> Figure:
    """The largest weight as the context grows, below the bound that the range of logits sets.

    Arguments and errors as :func:`entropy_by_context`.
    """
    lengths = dispersion.lengths
    lines = [_over_heads("mean of heads", lengths, dispersion.largest.flatten(1).T)]
    lines += _of_heads(dispersion.model, heads, lengths, dispersion.largest.permute(1, 2, 0))
    ceiling = dispersion.largest_ceiling.flatten(1).nanmean(-1)
    if bool(ceiling.isfinite().any()):
        lines.append(Line("most that logits allow", lengths, ceiling.tolist(), dashed=True))
    lines.append(Line("uniform", lengths, [1 / n for n in lengths], dashed=True))
    mean = dispersion.largest.flatten(1).nanmean(-1)
    title = (
        f"The largest weight goes from {number(float(mean[0]))} at {lengths[0]} tokens "
        f"to {number(float(mean[-1]))} at {lengths[-1]:,}"
    )
    return curves(
        lines,
        x_title="length of the context (tokens)",
        y_title="largest weight (share of attention)",
        log_x=True,
        title=title,
        caption=_context_caption(dispersion),
    )


def by_distance(profile: HopProfile, heads: Sequence[str] = ()) -> Figure:
    """Weight by distance from query to key, beside a head that gives every visible key the same.

    Args:
        profile: from :func:`workbench.attention.hop_profile`.
        heads: names of heads with a line of their own, such as ``a9.h6``.

    Raises:
        ValueError: there is no such head.
    """
    hops = profile.hops.tolist()
    unit = "tokens" if profile.metric == "tokens" else "patches"
    lines = [
        Line("uniform attention", hops, profile.uniform.mean(0).tolist(), dashed=True),
        _over_heads("mean of heads", hops, profile.strength.flatten(0, 1)),
        *_of_heads(profile.model, heads, hops, profile.strength),
    ]
    mean, even = float(profile.non_locality.mean()), float(profile.uniform_non_locality.mean())
    apart = float(profile.apart.mean())
    notes = [f"{profile.model}; {profile.rows:,} queries. {_BAND_WORDS}"]
    if apart > 0:
        notes.append(
            f"{number(100 * apart)} % of the weight lies on tokens before the patches, which have no distance."
        )
    return curves(
        lines,
        x_title=f"distance from query to key ({unit})",
        y_title="share of attention at that distance",
        title=f"The mean head looks {number(mean)} {unit} away; uniform attention would look {number(even)}",
        caption=" ".join(notes),
    )


def sinks_by_position(observation: Observation) -> Figure:
    """For how many heads each key is a sink.

    Raises:
        ValueError: no key was seen by enough queries.
    """
    sinks = observation.sinks
    if sinks is None:
        raise ValueError("Sinks were not looked for.")
    rate = (100 * sinks.rate[0]).tolist()
    heads = observation.statistics.shape[0] * observation.statistics.shape[1]
    own = [one for one in sinks.tokens if one.example == 0]

    def said(position: int) -> str:
        if observation.tokens is None:
            return f"position {position}"
        return f"“{show_token(observation.tokens[position])}” ({position})"

    title = f"No token is a sink of {number(100 * sinks.share)} % of heads"
    if own:
        first = own[0]
        title = (
            f"{plural(len(own), 'sink token')}: {said(first.position)} takes over {number(100 * sinks.eps)} % "
            f"of the weight in {round(first.share * heads)} of {heads} heads"
        )
    return curves(
        [Line("share of heads", list(range(len(rate))), rate)],
        x_title="position of the key",
        y_title="heads whose sink it is (%)",
        title=title,
        caption=f"{caption_of(observation)} A key is a head's sink where the queries that see it give it a mean weight "
        f"above {sinks.eps:g} (Gu et al. 2025). Keys seen by fewer than {sinks.seen} queries are left out.",
        marks=[(one.position, said(one.position)) for one in own[:6]],
    )


def _over_heads(name: str, x: Sequence[float], values: Tensor) -> Line:
    """Mean over heads [head, x] with the band of most of them."""
    low, high = (values.nanquantile(at, 0).tolist() for at in _BAND)
    return Line(name, list(x), values.nanmean(0).tolist(), low, high)


def _binned(values: Tensor, width: int) -> Tensor:
    """Means over ``width`` neighbours along the last axis; single queries differ too much to be read as a line."""
    return torch.stack([part.nanmean(-1) for part in torch.split(values, width, -1)], -1)


def _of_heads(model: str, heads: Sequence[str], x: Sequence[float], values: Tensor) -> list[Line]:
    """Lines of single heads, of values [layer, head, x].

    Raises:
        ValueError: there is no such head.
    """
    known = {f"a{layer}.h{head}": own for layer, row in enumerate(values) for head, own in enumerate(row)}
    if missing := [name for name in heads if name not in known]:
        raise ValueError(f"'{missing[0]}' is no head of {model}; write a9.h6.")
    return [Line(name, list(x), known[name].tolist()) for name in heads]


def _context_caption(dispersion: Dispersion) -> str:
    parts = [f"{dispersion.model}.", _BAND_WORDS]
    if dispersion.adaptive:
        parts.append("With adaptive temperature.")
    else:
        parts.append("Bounds: Velickovic et al. 2024, lemma 2.1, from the range of each row's logits.")
    return " ".join(parts)
