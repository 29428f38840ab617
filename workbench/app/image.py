"""A vision model's input on a page: a sample by its number, or an uploaded picture."""

from __future__ import annotations

import streamlit as st

from workbench import inspection
from workbench.app import state
from workbench.inspection import Given
from workbench.models import Transformer

_MOST_MIB = 20


def ask_image(model: Transformer, key: str) -> tuple[Given, int | None]:
    """The image that somebody chose, and the number of the sample; None where it was uploaded.

    Args:
        model: a vision model.
        key: of the upload, one for each page.

    Raises:
        ValueError: the model cannot read it; one sentence.
    """
    upload = st.file_uploader(
        "Your own picture",
        type=["png", "jpg", "jpeg", "webp", "bmp", "gif"],
        key=key,
        max_upload_size=_MOST_MIB,
        help="It stays on this machine. The model's image processor resizes it, or, where there is none, we do.",
    )
    if upload is None:
        n = inspection.n_samples(model)
        number = state.whole_number("or sample", n - 1, "sample", help="Images that come with scikit-learn.")
        pixels, title = inspection.sample(model, number)
        st.caption(f"Sample {number} of {n}: {title}.")
        return inspection.see(model, pixels, f"sample {number}: {title}"), number
    invert = st.toggle(
        "Light for dark", key="invert", bind="query-params", help="For ink on paper, where a model knows light strokes."
    )
    pixels = inspection.pixels_of(model, inspection.picture(upload.getvalue()), invert=bool(invert))
    return inspection.see(model, pixels, upload.name), None
