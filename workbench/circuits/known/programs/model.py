"""The discrete transformer of Friedman, Wettig and Chen (2023, Learning Transformer Programs).

The residual stream is a list of variables, and every module adds one. Categorical variables are one-hot; numerical
ones are whole numbers from 0 to the input's length. A head reads one variable each as query, key and value and has a
predicate that names one key value for every query value. A categorical head copies the value of the nearest position
that matches, a numerical head adds up the values of all that do. A lookup reads two variables of one kind and writes a
categorical one.

What is discrete is drawn from Gumbel-softmax distributions in training and is the most likely choice otherwise.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.circuits.known.programs.tasks import ProgramTask

_HIDDEN = 64
_NEVER = 1e-20  # a score of 0 before its logarithm is taken
# Predicates begin nearer to "the same value" than to any other; from noise alone five seeds of five missed induction.
_LEAN = 1.5


def one_hot_of_largest(scores: Float[Tensor, "*shape n"]) -> Float[Tensor, "*shape n"]:
    """One at the largest score of the last axis, the first of several, and zero elsewhere."""
    return torch.zeros_like(scores).scatter_(-1, scores.argmax(-1, keepdim=True), 1.0)


def gumbel_softmax(scores: Float[Tensor, "*shape n"], temperature: float) -> Float[Tensor, "*shape n"]:
    """A sample near a one-hot vector, the nearer the lower the temperature (Jang et al. 2017)."""
    noise = -torch.empty_like(scores).exponential_().log()
    return ((scores + noise) / temperature).softmax(-1)


def tents(numbers: Float[Tensor, "*shape"], most: int) -> Float[Tensor, "*shape values"]:
    """One-hot vectors of whole numbers from 0 to ``most``; between two whole numbers the straight mixture of theirs."""
    return (1 - (numbers[..., None] - torch.arange(most + 1)).abs()).clamp(min=0)


def nearness(length: int) -> Float[Tensor, "query key"]:
    """How a head chooses among several matches, in [-1, 0]: near before far, left before right, itself last."""
    query, key = torch.arange(length)[:, None], torch.arange(length)[None]
    rank = 2.0 * (query - key).abs() - (key < query).float()
    return -rank.masked_fill(query == key, 2.0 * length) / (2 * length)


class Choice(nn.Module):
    """Choices among ``n`` things: scores of a distribution, drawn from in training.

    Attributes:
        scores: [*shape, n], logarithms of probabilities but for a constant.
    """

    def __init__(self, *shape: int):
        super().__init__()
        self.scores = nn.Parameter(torch.randn(shape) / shape[-1] ** 0.5)

    def forward(self, temperature: float | None) -> Float[Tensor, "*shape n"]:
        """A sample at this temperature; with None the most likely choice, one-hot."""
        if temperature is None:
            return one_hot_of_largest(self.scores)
        return gumbel_softmax(self.scores, temperature)


class Lookups(nn.Module):
    """Several lookups that read two variables each: a hidden layer, whose output is made one-hot.

    Args:
        count: how many lookups.
        n_variables: how many variables they choose from.
        values: how many values those have.
        cardinality: how many values they write.
    """

    def __init__(self, count: int, n_variables: int, values: int, cardinality: int):
        super().__init__()
        self.reads = Choice(count, 2, n_variables)
        self.W_in = nn.Parameter(torch.randn(count, 2 * values, _HIDDEN) / _HIDDEN**0.5)
        self.b_in = nn.Parameter(torch.zeros(count, 1, _HIDDEN))
        self.W_out = nn.Parameter(torch.randn(count, _HIDDEN, cardinality) / cardinality**0.5)
        self.b_out = nn.Parameter(torch.zeros(count, 1, cardinality))

    def scores(
        self, first: Float[Tensor, "count n v"], second: Float[Tensor, "count n v"]
    ) -> Float[Tensor, "count n c"]:
        """What each lookup thinks of each value it could write, for pairs of values that it reads."""
        hidden = torch.baddbmm(self.b_in, torch.cat((first, second), -1), self.W_in).relu()
        return torch.baddbmm(self.b_out, hidden, self.W_out)

    def forward(
        self, variables: Float[Tensor, "vars batch pos v"], temperature: float | None
    ) -> Float[Tensor, "count batch pos c"]:
        """One new categorical variable for each lookup."""
        chosen = mixed(self.reads(temperature), variables)
        scores = self.scores(chosen[:, 0].flatten(1, 2), chosen[:, 1].flatten(1, 2))
        out = one_hot_of_largest(scores) if temperature is None else gumbel_softmax(scores.log_softmax(-1), temperature)
        return out.view(*out.shape[:1], *variables.shape[1:3], -1)


def mixed(weights: Float[Tensor, "*reads vars"], variables: Float[Tensor, "vars *rest"]) -> Tensor:
    """What reads with these weights see: [*reads, *rest]. One product, however many reads there are."""
    flat = weights.flatten(0, -2) @ variables.flatten(1)
    return flat.view(*weights.shape[:-1], *variables.shape[1:])


class Layer(nn.Module):
    """Heads of both kinds, then lookups of both kinds.

    Args:
        task: has the sizes.
        n_variables: categorical variables that the heads can read.
        n_numbers: numerical variables that they can read.
    """

    def __init__(self, task: ProgramTask, n_variables: int, n_numbers: int):
        super().__init__()
        sizes, values = task.sizes, task.cardinality
        self.n_heads, self.most = sizes.heads, task.length
        self.reads = Choice(sizes.heads + sizes.counts, 2, n_variables)
        self.values = Choice(sizes.heads, n_variables)
        self.predicates = Choice(sizes.heads + sizes.counts, values, values)
        with torch.no_grad():
            self.predicates.scores.add_(_LEAN * torch.eye(values))
        self.numbers = Choice(sizes.counts, n_numbers) if sizes.counts else None
        after = n_variables + sizes.heads
        self.mlps = Lookups(sizes.mlps, after, values, values) if sizes.mlps else None
        counted = n_numbers + sizes.counts
        self.number_mlps = Lookups(sizes.number_mlps, counted, self.most + 1, values) if sizes.number_mlps else None

    def matches(
        self, variables: Tensor, seen: Tensor, temperature: float | None
    ) -> Float[Tensor, "head batch query key"]:
        """How well each key fits each query, in [0, 1]; 0 where it is not seen."""
        asked = mixed(self.reads(temperature), variables)
        heads, _, batch, length, values = asked.shape
        wanted = asked[:, 0].flatten(1, 2) @ self.predicates(temperature)
        fits = wanted.view(heads * batch, length, values) @ asked[:, 1].reshape(heads * batch, length, values).mT
        seen_fits: Tensor = fits.view(heads, batch, length, length) * seen
        return seen_fits

    def forward(
        self,
        variables: Float[Tensor, "vars batch pos values"],
        numbers: Float[Tensor, "numbers batch pos"],
        seen: Float[Tensor, "batch query key"],
        temperature: float | None,
    ) -> tuple[Float[Tensor, "more batch pos values"], Float[Tensor, "more_numbers batch pos"]]:
        """The variables with those that this layer writes behind them."""
        fits = self.matches(variables, seen, temperature)
        n = self.n_heads
        pattern = nearest(fits[:n], seen, temperature)
        copied = pattern.flatten(0, 1) @ mixed(self.values(temperature), variables).flatten(0, 1)
        variables = torch.cat((variables, copied.view(n, *variables.shape[1:])))
        if self.numbers is not None:
            added = (fits[n:] @ mixed(self.numbers(temperature), numbers)[..., None])[..., 0]
            # Without an end the numbers of three layers go up to length cubed, and no table could show a lookup.
            numbers = torch.cat((numbers, added.clamp(max=float(self.most))))
        written = [variables]
        if self.mlps is not None:
            written.append(self.mlps(variables, temperature))
        if self.number_mlps is not None:
            written.append(self.number_mlps(tents(numbers, self.most), temperature))
        return torch.cat(written), numbers


def nearest(
    fits: Float[Tensor, "head batch query key"], seen: Float[Tensor, "batch query key"], temperature: float | None
) -> Float[Tensor, "head batch query key"]:
    """Attention to the nearest key that fits, or to the first position where none does; nearly so in training."""
    first = F.pad((1 - fits.amax(-1, keepdim=True)).clamp(min=0), (0, fits.shape[-1] - 1))
    near = nearness(fits.shape[-1])
    if temperature is None:
        return one_hot_of_largest((fits + first) * 2 + near)
    scores = (fits + first + _NEVER).log() + near
    scores = scores.masked_fill(seen == 0, -1e9) / fits.shape[-1] ** 0.5
    return gumbel_softmax(scores, temperature)


class DiscreteTransformer(nn.Module):
    """The model of a task, with first weights from PyTorch's generator.

    Attributes:
        task: what it is for.
        readout: [feature, class], what each value of each variable says for each class; features are the values of the
            categorical variables and then of the numerical ones, variable by variable.
    """

    readout: nn.Parameter

    def __init__(self, task: ProgramTask):
        super().__init__()
        self.task, sizes = task, task.sizes
        variables, numbers = 2, 1
        layers = []
        for _ in range(sizes.layers):
            layers.append(Layer(task, variables, numbers))
            variables += sizes.heads + sizes.mlps + sizes.number_mlps
            numbers += sizes.counts
        self.layers = nn.ModuleList(layers)
        features = variables * task.cardinality + numbers * (task.length + 1)
        self.readout = nn.Parameter(torch.randn(features, len(task.classes)) / len(task.classes) ** 0.5)

    def features(
        self, tokens: Int[Tensor, "batch pos"], temperature: float | None = None
    ) -> Float[Tensor, "batch pos features"]:
        """All variables as the readout sees them: one-hot, and numbers likewise."""
        values, length = self.task.cardinality, tokens.shape[1]
        place = torch.eye(values)[:length].expand(len(tokens), -1, -1)
        variables = torch.stack((F.one_hot(tokens, values).float(), place))
        numbers = torch.ones(1, *tokens.shape)
        real = (tokens != len(self.task.words)).float()
        seen = real[:, None, :].expand(-1, length, -1)
        if self.task.causal:
            seen = seen.tril()
        for layer in self.layers:
            variables, numbers = layer(variables, numbers, seen, temperature)
        flat = variables.permute(1, 2, 0, 3).flatten(2)
        return torch.cat((flat, tents(numbers, self.task.length).permute(1, 2, 0, 3).flatten(2)), -1)

    def forward(
        self, tokens: Int[Tensor, "batch pos"], temperature: float | None = None
    ) -> Float[Tensor, "batch pos classes"]:
        """Scores of the classes: of a sample at a temperature, or with None those of the discrete program."""
        return self.features(tokens, temperature) @ self.readout
