"""Maps over patches: what is drawn is what was given, on one scale."""

from __future__ import annotations

import re

import pytest
import torch

from workbench.figures.overlay import Picture
from workbench.figures.patch_maps import patch_maps

PICTURE = Picture(torch.rand(1, 4, 6, generator=torch.Generator().manual_seed(0)), (2, 3), ("cls",))


def test_every_map_is_drawn_on_one_scale() -> None:
    strong, weak = torch.zeros(2, 3), torch.zeros(2, 3)
    strong[1, 2], weak[0, 0] = 0.8, 0.2
    figure = patch_maps(PICTURE, [("one <b>", strong), ("two", weak)], title="Two maps")
    # The weaker map's patch has a quarter of the stronger one's opacity.
    opacities = [float(found) for found in re.findall(r'fill="#D55E00" fill-opacity="([\d.]+)"', figure.svg)]
    assert opacities == pytest.approx([0.85, 0.85 / 4], abs=5e-3)  # two digits are written
    assert re.findall(r'data-id="(map\d)"', figure.svg) == ["map0", "map1"]
    assert "80 % on patches" in figure.svg
    assert "20 % on patches" in figure.svg
    assert "one &lt;b&gt;" in figure.svg
    assert figure.data["maps"]["two"][0][0] == pytest.approx(0.2)


def test_maps_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'x' is \[3, 2\]; the image has \[2, 3\] patches"):
        patch_maps(PICTURE, [("x", torch.zeros(3, 2))], title="")
    with pytest.raises(ValueError, match="no map"):
        patch_maps(PICTURE, [], title="")
