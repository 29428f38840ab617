"""Which tasks there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from workbench.circuits.task import Task
from workbench.circuits.tasks import (
    acronyms,
    agreement,
    arithmetic,
    binding,
    capitals,
    digits,
    docstring,
    gendered_pronoun,
    greater_than,
    induction,
    ioi,
    sentiment,
    similarity,
)
from workbench.circuits.tasks.kinds import Kind


@dataclass(frozen=True)
class TaskRecord:
    """One task that can be made for any model with a fitting tokenizer.

    Attributes:
        key: its name.
        title: its name for people.
        description: one sentence: what the prompts ask, what is corrupted, what is measured.
        reference: where it comes from.
        make: ``(model, n, seed, **options) -> Task``.
        kinds: what kinds of model can be asked.
    """

    key: str
    title: str
    description: str
    reference: str
    make: Callable[..., Task]
    kinds: tuple[Kind, ...] = ("decoder",)


RECORDS: tuple[TaskRecord, ...] = (
    TaskRecord(
        "ioi",
        "Indirect object",
        "'When Mary and John went ..., John gave a drink to' asks for Mary; in the corrupted prompt a third person "
        "gives. Logit of the indirect object minus the subject's.",
        "Wang et al. 2022, Interpretability in the Wild",
        ioi.make,
    ),
    TaskRecord(
        "greater-than",
        "Greater than",
        "'The war lasted from the year 1732 to the year 17' asks for a later year; the corrupted prompt starts in "
        "01. Probability of later minus earlier years (or their first digit).",
        "Hanna et al. 2023, How does GPT-2 compute greater-than?",
        greater_than.make,
    ),
    TaskRecord(
        "induction",
        "Induction",
        "A list of words starts to repeat and asks for the next one; in the corrupted prompt another word followed "
        "the first time. Logit of the word that followed minus the other's.",
        "Olsson et al. 2022, In-context learning and induction heads",
        induction.make,
    ),
    TaskRecord(
        "docstring",
        "Docstring",
        "A function's docstring describes two of its parameters and asks for the third; the corrupted prompt has other "
        "names. Logit of the third parameter minus the mean of the others.",
        "Heimersheim and Janiak 2023, A circuit for Python docstrings in a 4-layer attention-only transformer",
        docstring.make,
    ),
    TaskRecord(
        "gendered-pronoun",
        "Gendered pronoun",
        "'So Mary is a really great friend, isn't' asks for she; the corrupted prompt has a name of a man. Logit of "
        "the right pronoun minus the other.",
        "Mathwin et al. 2023, Identifying a preliminary circuit for predicting gendered pronouns in GPT-2 small",
        gendered_pronoun.make,
    ),
    TaskRecord(
        "agreement",
        "Subject-verb agreement",
        "'The keys near the cabinet' asks for are or were; in the corrupted prompt the subject has the other number. "
        "Mean logit of the verbs that agree minus the others. A masked model is asked for [MASK].",
        "Linzen et al. 2016, Assessing the ability of LSTMs to learn syntax-sensitive dependencies; Goldberg 2019, "
        "Assessing BERT's syntactic abilities",
        agreement.make,
        ("decoder", "masked-lm"),
    ),
    TaskRecord(
        "acronyms",
        "Acronyms",
        "'The Chief Executive Officer (CE' asks for O; the corrupted prompt has a third word of another initial. Logit "
        "of the right letter minus that one's.",
        "García-Carrasco et al. 2024, How does GPT-2 predict acronyms?",
        acronyms.make,
    ),
    TaskRecord(
        "capital-of-country",
        "Capital of a country",
        "'The capital of France is' asks for Paris; the corrupted prompt names another country. Logit of the capital "
        "minus the other country's. A masked model is asked for [MASK].",
        "Meng et al. 2022, Locating and editing factual associations in GPT; Merullo et al. 2023, Language models "
        "implement simple word2vec-style vector arithmetic",
        capitals.make,
        ("decoder", "masked-lm"),
    ),
    TaskRecord(
        "arithmetic",
        "Two-digit arithmetic",
        "'31 + 17 = 48, 52 + 24 = 76, 12 + 25 =' asks for the sum (or its tens digit); in the corrupted prompt the "
        "last number is another. Logit of the sum minus the corrupted one's.",
        "Stolfo et al. 2023, A mechanistic interpretation of arithmetic reasoning in language models; Nikankin et al. "
        "2024, Arithmetic without algorithms",
        arithmetic.make,
    ),
    TaskRecord(
        "binding",
        "Colour binding",
        "'The book is red and the cup is blue. As I said, the cup is' asks for blue; the corrupted prompt asks for the "
        "other thing's. Logit of the colour minus that one's.",
        "Feng and Steinhardt 2023, How do language models bind entities in context?",
        binding.make,
    ),
    TaskRecord(
        "sentiment",
        "Sentiment",
        "A review with a good or bad adjective asks for positive or negative, after two examples (or as a class); the "
        "corrupted prompt has an adjective of the other sort. Logit of the right sentiment minus the other.",
        "Tigges et al. 2023, Linear representations of sentiment in large language models",
        sentiment.make,
        ("decoder", "classifier"),
    ),
    TaskRecord(
        "digits",
        "Digits",
        "An image of a handwritten digit asks for its class; the corrupted image shows another digit. Logit of the "
        "clean digit's class minus the corrupted one's.",
        "Alpaydin and Kaynak 1998, Optical recognition of handwritten digits",
        digits.make,
        ("vision",),
    ),
    TaskRecord(
        "sentence-similarity",
        "Sentence similarity",
        "A sentence is compared with another that says the same in other words; the corrupted sentence says something "
        "else. Cosine of its vector with the other's.",
        "Reimers and Gurevych 2019, Sentence-BERT",
        similarity.make,
        ("encoder",),
    ),
)
