"""Make the pictures of ``docs/paths.md``, ``docs/top-paths.md``, ``docs/path-pruning.md`` and ``docs/lens.md``.

Run it from the repository: ``.venv/bin/python docs/reading_pictures.py``. It takes half a minute.
"""

from __future__ import annotations

from pathlib import Path

import workbench as wb
from workbench import pathways, reading
from workbench.export import Exportable, export, write
from workbench.models.zoo import digits as digits_data
from workbench.paths.effects import effects
from workbench.paths.pruning import prune

IMAGES = Path(__file__).parent / "img"
TEXT = "When Mary and John went to the store, John gave a drink to"
PATTERNS = ("embed m*", "embed .* a18-29 .*", ".* a23.h3 .*", ".* a23 .*")
OF_PATHS = ("lengths", "kinds", "positions", "queries", "flow", "top")
OF_LENS = ("lens", "ranks", "direct", "heads")


def main() -> None:
    """Ask, draw, write."""
    model = wb.load("smollm2-135m")
    asked = pathways.Request(text=TEXT, target=" Mary", against=" John", kinds=True, queries=PATTERNS)
    of_paths = pathways.pictures(pathways.run(asked, model))
    drawn = {f"paths-{name}": of_paths[name] for name in OF_PATHS}
    digits = pathways.pictures(pathways.run(pathways.Request("digits-vit", text="33"), wb.load("digits-vit")))
    drawn |= {"paths-digits-lengths": digits["lengths"], "paths-digits-top": digits["top"]}
    test, labels = digits_data.split().test, digits_data.split().test_labels
    vit = wb.load("digits-vit")
    drawn["paths-effects"] = pathways.effects_picture(effects(vit, test, labels, centred=True))
    drawn["paths-pruning"] = pathways.pruning_picture(prune(vit, test, labels))
    read = reading.run(reading.Request(text=TEXT, targets=(" Mary", " John"), against=" John"), model)
    of_lens = reading.pictures(read)
    drawn |= {f"lens-{name}": of_lens[name] for name in OF_LENS}
    for name, figure in drawn.items():
        write(IMAGES / f"{name}.svg", export(Exportable(figure=figure), "svg"))


if __name__ == "__main__":
    main()
