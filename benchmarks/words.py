"""Which rule and baseline tell what words and patches give: signs a person expects, SHAP, insertion and deletion.

SmolLM2 reads sentences of which a person knows the word that carries the answer, and for most which way each of some
words pulls. A rule is asked whether the signs are right, and whether the carrying word is the strongest. On MiniLM
(similarity of two sentences) and the digits ViT (first class against the second) no person knows; there a rule is
compared with SHAP (rank correlation) and judged by deletion and insertion areas, where sources become the same
baseline. ``sum`` and ``all`` are the sum of the parts and the part of all sources at once, as shares of the target.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

from common import options, report

from scipy.stats import spearmanr

from workbench import inspection
from workbench.circuits.decomposition import RULES, answers, comparison, words
from workbench.circuits.decomposition.phrases import Groups
from workbench.circuits.decomposition.words import Cut
from workbench.decomposing.plan import against
from workbench.models import Transformer, load

BASELINES = ("zero", "mean", "blank")
# A text, its target, the sign of some of its words, and the word that carries the answer.
SIGNS: list[tuple[str, str, dict[str, int], str]] = [
    ("The capital of France is", "Paris - London", {"France": 1}, "France"),
    ("The capital of Italy is", "Rome - Paris", {"Italy": 1}, "Italy"),
    ("The capital of Japan is the city of", "Tokyo - Paris", {"Japan": 1}, "Japan"),
    ("The keys to the cabinet", "are - is", {"keys": 1, "cabinet": -1}, "keys"),
    ("The key to the cabinets", "are - is", {"key": -1, "cabinets": 1}, "key"),
    ("The dogs near the old house", "are - is", {"dogs": 1, "house": -1}, "dogs"),
    ("The author of the books", "were - was", {"author": -1, "books": 1}, "author"),
    ("When Mary and John went to the store, John gave a drink to", "Mary - John", {"Mary": 1}, "Mary"),
    ("When Anna and Tom went to the park, Tom gave a ball to", "Anna - Tom", {"Anna": 1}, "Anna"),
    ("The opposite of hot is", "cold - hot", {"hot": -1}, "hot"),
    ("My sister is a doctor. Yesterday", "she - he", {"sister": 1}, "sister"),
    ("My brother is a nurse. Yesterday", "she - he", {"brother": -1, "nurse": 1}, "brother"),
    ("The food was terrible and the service was", "terrible - excellent", {"terrible": 1}, "terrible"),
    ("The food was wonderful and the service was", "terrible - excellent", {"wonderful": -1}, "wonderful"),
    ("She put the milk back into the", "fridge - car", {"milk": 1}, "milk"),
]
SIMILAR = [
    ("A man is playing a guitar on the stage.", "Someone performs music with an instrument."),
    ("The cat sleeps on the old sofa.", "A kitten is napping on the couch."),
    ("She bought fresh bread at the bakery this morning.", "He eats a sandwich for lunch."),
    ("The stock market fell sharply after the news.", "Share prices dropped on Monday."),
    ("Children are playing football in the park.", "Kids kick a ball outside."),
]
DIGITS = (3, 33, 40, 71, 100, 150)
Row = dict[str, float]


def asked(model: Transformer, cut: Cut, target: Any, baseline: str, rule: str, plain: bool = False) -> Groups:
    """The parts of an input; ``plain`` leaves special ones in their place."""
    places = [[part.place] for part in cut.parts if not (plain and part.special)]
    return Groups(model, cut.tensor, places, target, rule=rule, baseline=against(model, cut, baseline))


def shares(groups: Groups, values: list[float]) -> Row:
    """The sum of the parts, and the part of all sources at once, as shares of the target."""
    return {"sum": sum(values) / groups.whole, "all": groups([range(len(groups))])[0] / groups.whole}


def by_signs(model: Transformer) -> dict[str, list[Row]]:
    """What a person expects, sentence by sentence."""
    found: dict[str, list[Row]] = {}
    for text, said, signs, carrier in SIGNS:
        cut = words.words(model, text)
        target, _ = answers.answer(model, cut.tensor, f"logit: {said}")
        names = [part.name for part in cut.parts]
        for baseline in BASELINES:
            for rule in RULES:
                groups = asked(model, cut, target, baseline, rule.key)
                values = groups([[i] for i in range(len(groups))])
                of = dict(zip(reversed(names), reversed(values), strict=True))  # the first of two that are alike
                known = not any(map(math.isnan, values))
                row = {
                    "right": sum(of[word] * sign > 0 for word, sign in signs.items()),
                    "asked": len(signs),
                    "carrier": float(known and abs(of[carrier]) == max(map(abs, values))),
                    "first": abs(values[0]) / sum(map(abs, values)) if known else math.nan,
                    **shares(groups, values),
                }
                found.setdefault(f"{baseline} {rule.key}", []).append(row)
    return found


def by_shap(model: Transformer, inputs: list[tuple[Cut, Any]]) -> dict[str, list[Row]]:
    """Agreement with SHAP, and areas, input by input."""
    found: dict[str, list[Row]] = {}
    for cut, target in inputs:
        plain = [i for i, part in enumerate(cut.parts) if not part.special]
        for baseline in BASELINES:
            exact = asked(model, cut, target, baseline, "exact", plain=True)
            ways: dict[str, Callable[[], list[float]]] = {
                "SHAP": lambda exact=exact: comparison.shapley_values(exact, rounds=20),  # type: ignore[misc]
                "integrated gradients": lambda exact=exact: comparison.integrated_gradients(exact),  # type: ignore[misc]
            }
            values = {name: way() for name, way in ways.items()}
            extra: dict[str, Row] = {}
            for rule in RULES:
                groups = asked(model, cut, target, baseline, rule.key)
                given = groups([[i] for i in range(len(groups))])
                values[rule.key], extra[rule.key] = [given[i] for i in plain], shares(groups, given)
            for name, some in values.items():
                order = sorted(range(len(some)), key=lambda i: -some[i])
                curves = comparison.insertion_deletion(exact, order)
                row = {
                    "shap": float(spearmanr(some, values["SHAP"])[0]),
                    "deletion": curves.deletion_area,
                    "insertion": curves.insertion_area,
                }
                found.setdefault(f"{baseline} {name}", []).append(row | extra.get(name, {}))
    return found


def middle(rows: list[Row], key: str, how: Callable[[list[float]], float] = statistics.mean) -> float | str:
    """The mean over inputs, or ``how``; a dash where a rule gave no number."""
    kept = [row[key] for row in rows if key in row and not math.isnan(row[key])]
    return how(kept) if len(kept) == len(rows) else "–"


def main() -> None:
    """Two kinds of tables."""
    options(__doc__.splitlines()[0], rounds=1)
    smol, minilm, vit = load("smollm2-135m"), load("minilm-l6"), load("digits-vit")
    pairs = [(words.words(minilm, text), other) for text, other in SIMILAR]
    alike = [(cut, answers.answer(minilm, cut.tensor, "", other)[0]) for cut, other in pairs]
    cuts = [words.patches(vit, inspection.sample(vit, number)[0]) for number in DIGITS]
    classes = [(cut, answers.answer(vit, cut.tensor)[0]) for cut in cuts]
    for model, inputs in ((minilm, alike), (vit, classes)):
        columns = ["shap", "deletion", "insertion", "sum", "all"]
        rows = [
            {"what": name} | {key: middle(found, key) for key in columns}
            for name, found in by_shap(model, inputs).items()
        ]
        report(f"words-{model.name}", f"{model.name}: beside SHAP", rows)
    rows = []
    for name, found in by_signs(smol).items():
        right, n = (int(sum(row[key] for row in found)) for key in ("right", "asked"))
        carrier = int(sum(row["carrier"] for row in found))
        row = {"what": name, "signs": f"{right}/{n}", "carrier first": f"{carrier}/{len(found)}"}
        rows.append(row | {key: middle(found, key, statistics.median) for key in ("first", "sum", "all")})
    report("words-smollm2-135m", "SmolLM2: what a person expects", rows)


if __name__ == "__main__":
    main()
