"""``python -m workbench.circuits.known.siit [KEY ...] [--out FOLDER]``: train the models again."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from workbench.circuits.known.siit import RECORDS, TRAINED
from workbench.models.lookup import pick
from workbench.models.zoo import ZooModel
from workbench.models.zoo.__main__ import run


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the models that are asked for, one after the other; 0, or 1 where one was not good enough."""
    known = [record.key for record in RECORDS]
    return run(arguments, known, _find, TRAINED, "python -m workbench.circuits.known.siit")


def _find(key: str) -> ZooModel:
    return pick(RECORDS, key, "trained model").zoo()


if __name__ == "__main__":
    sys.exit(main())
