"""What one drawing of the Paths page, or of the Lens page, has come to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workbench.app.figure import show
from workbench.app.paths_ask import Asked
from workbench.export import Exportable
from workbench.figures import Figure

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

_WIDEST, _LARGER = 1000, 1.25  # px; and times its own width


@dataclass
class Shown:
    """The places that a view writes to, and the files that it offers.

    Attributes:
        asked: the model, the input and the answer.
        picture: place of the figures.
        side: place beside it, or below.
        files: what can be downloaded, by title.
    """

    asked: Asked
    picture: DeltaGenerator
    side: DeltaGenerator
    files: dict[str, Exportable] = field(default_factory=dict)

    def draw(
        self,
        title: str,
        figure: Figure,
        key: str,
        data: Mapping[str, Any],
        chosen: str | Sequence[str] | None = None,
        *,
        lifted: str | None = None,
    ) -> None:
        """Show a figure and offer it as a file.

        Args:
            title: of the file.
            figure: the figure.
            key: of the component.
            data: for the data format.
            chosen: ids of marks to outline.
            lifted: id of a node or path to lift out of the others.
        """
        marks = [chosen] if isinstance(chosen, str) else list(chosen or ())
        show(figure, key, lifted, slider=False, widest=widest(figure), chosen=marks)
        self.files[title] = Exportable(None, figure, {"input": self.asked.subject, **data})


def widest(figure: Figure) -> int:
    """A little more than a figure's own width: letters much larger than the page's are no gain."""
    own = re.search(r'viewBox="0 0 (\d+)', figure.svg)
    return _WIDEST if own is None else min(_WIDEST, round(_LARGER * int(own[1])))
