"""Small models that this repository trains itself: each with its script, its seed and its weights.

``python -m workbench.models.zoo`` (or ``make zoo``) trains them again. To use one, ``workbench.load("digits-vit")``.
"""

from workbench.models.lookup import pick
from workbench.models.zoo import addition, digits, induction, modular
from workbench.models.zoo.publish import BelowBarError, make
from workbench.models.zoo.record import Schedule, ZooModel
from workbench.models.zoo.training import train

RECORDS: tuple[ZooModel, ...] = (digits.RECORD, induction.RECORD, modular.RECORD, addition.RECORD)


def names() -> list[str]:
    """The keys of all models."""
    return [record.key for record in RECORDS]


def find(key: str) -> ZooModel:
    """The record of a model.

    Raises:
        ValueError: there is none of that name; the message suggests the closest.
    """
    return pick(RECORDS, key, "model in the zoo")


__all__ = [
    "RECORDS",
    "BelowBarError",
    "Schedule",
    "ZooModel",
    "addition",
    "digits",
    "find",
    "induction",
    "make",
    "modular",
    "names",
    "train",
]
