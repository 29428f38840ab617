"""The Model page's logic, without a browser."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from tests import digits
from workbench import inspection
from workbench.app import state
from workbench.models import Transformer, fresh, load, mechanisms, registry

TEXT = "When Mary and John went to the store, John gave a drink to"


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the page offer one model alone: AppTest cannot type a folder into the list, the browser test does."""

    def use(model: Transformer) -> Transformer:
        monkeypatch.setattr(registry, "names", lambda *_: ["mine"])
        monkeypatch.setattr(registry, "find", lambda _: registry.NamedModel("mine", "Mine", "A model."))
        monkeypatch.setattr(state, "model", lambda _: model)
        return model

    return use


def script() -> None:
    from workbench.app import model

    model.page()


def opened(**parameters: str) -> AppTest:
    """The page at an address."""
    app = AppTest.from_function(script, default_timeout=60)
    for name, parameter in parameters.items():
        app.query_params[name] = parameter
    return ran(app)


def ran(app: AppTest) -> AppTest:
    app.run()
    assert not app.exception, app.exception
    return app


def words(app: AppTest) -> str:
    kinds: list[Any] = [app.markdown, app.caption, app.subheader, app.error, app.info]
    return "\n".join(str(e.value) for kind in kinds for e in kind)


def answers(app: AppTest) -> Any:
    return app.dataframe[0].value


def table(app: AppTest, row: str) -> list[str]:
    """The values of a row of one of the tables."""
    for one in app.table:
        for values in one.value.to_numpy().tolist():
            if values[0].replace("\\", "") == row:
                return values[1:]
    raise AssertionError(f"no row {row}")


def test_the_first_look_shows_the_answer_the_patterns_and_the_model(use: Any, model: Transformer) -> None:
    use(model)
    app = opened()
    assert app.text_area(key="text").value == TEXT
    found = inspection.compare(model, inspection.read(model, TEXT))
    assert answers(app)["probability"].tolist() == pytest.approx([one.before for one in found.answers])
    assert table(app, "Layers") == ["2"]
    assert "Click a head" in words(app)
    assert app.selectbox(key="attention").value == "softmax"
    assert app.selectbox(key="look-download-what").options == ["Layer 1"]
    assert app.query_params.get("text") is None


def test_the_text_in_the_address_is_read_and_another_is_put_there(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(text="the store")
    assert app.text_area(key="text").value == "the store"
    app.text_area(key="text").set_value("Mary gave")
    ran(app)
    assert app.query_params["text"] in ("Mary gave", ["Mary gave"])


def test_a_swap_shows_before_and_after(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(attention="sparsemax")
    found = inspection.compare(model, inspection.read(model, TEXT), inspection.swapped(model, "sparsemax"))
    assert answers(app)["after"].tolist() == pytest.approx([one.after for one in found.answers])
    assert len(table(app, "Entropy of the answer (nats)")) == 2
    assert "[s - τ]₊" in words(app).replace("\\", "")
    assert "Martins and Astudillo" in words(app)


def test_a_selected_head_has_its_numbers_and_a_large_picture(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(attention="sparsemax", head="a1.h2", where="head")
    assert "Head 1.2" in words(app)
    before, after = table(app, "Share of exact zeros")
    assert before == "0"
    assert float(after) > 0
    assert app.selectbox(key="look-download-what").options == ["Head 1.2", "Layer 1"]


def test_the_selected_head_changes_only_when_there_is_one(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(attention="sparsemax", where="head")
    assert "it is the one that changes" in words(app)
    assert list(answers(app)) == ["answer", "probability"]
    app = opened(attention="sparsemax", where="layer")
    assert app.slider(key="change-layer-1").value == 0


@pytest.mark.parametrize("head", ["a9.h9", "m1", "nonsense", "a0.h-1", "a0.hx", "a٣.h0x"])
def test_a_head_that_the_model_has_not_is_passed_over(use: Any, model: Transformer, head: str) -> None:
    use(model)
    assert "Click a head" in words(opened(head=head))


def test_settings_are_those_of_the_mechanism(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(attention="temperature")
    app.number_input(key="temperature-temperature").set_value(4.0)
    ran(app)
    found = inspection.compare(
        model, inspection.read(model, TEXT), inspection.swapped(model, "temperature", None, {"temperature": 4.0})
    )
    assert answers(app)["after"].tolist() == pytest.approx([one.after for one in found.answers])


@pytest.mark.parametrize("key", [m.key for m in mechanisms.MECHANISMS])
def test_every_mechanism_can_be_chosen(use: Any, model: Transformer, key: str) -> None:
    use(model)
    app = opened(attention=key, head="a0.h1")
    assert not app.error, app.error[0].value


def test_a_mechanism_that_does_not_suit_the_model_is_one_sentence(use: Any) -> None:
    use(fresh(replace(digits.vision().cfg, d_head=7)))
    app = opened(attention="differential")
    assert len(app.error) == 1
    assert "cuts heads in halves" in app.error[0].value
    assert table(app, "Layers") == ["3"]


@pytest.mark.parametrize(("text", "said"), [("", "empty"), (" the" * 60, "reads at most 40")])
def test_a_text_that_cannot_be_read_is_one_sentence_and_the_model_is_still_shown(
    use: Any, model: Transformer, text: str, said: str
) -> None:
    use(model)
    app = opened()
    app.text_area(key="text").set_value(text)
    ran(app)
    assert len(app.error) == 1
    assert said in app.error[0].value
    assert table(app, "Layers") == ["2"]


def test_an_unknown_model_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "names", lambda *_: ["smollm2-135"])
    monkeypatch.setattr(registry, "find", lambda _: registry.MODELS[0])
    monkeypatch.setattr(state, "model", lambda name: (_ for _ in ()).throw(ValueError(f"There is no model '{name}'.")))
    app = opened()
    assert [e.value for e in app.error] == ["There is no model 'smollm2-135'."]


def test_the_answer_is_read_after_the_token_that_is_asked_for(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(position="3")
    found = inspection.compare(model, inspection.read(model, TEXT), position=3)
    assert answers(app)["probability"].tolist() == pytest.approx([one.before for one in found.answers])
    assert ran(opened(position="77")).selectbox(key="position-14").value == 13


def test_an_encoder_shows_how_far_its_embedding_turns(use: Any) -> None:
    encoder = use(digits.encoder())
    assert "gives no logits" in words(opened())
    app = opened(attention="sparsemax")
    found = inspection.compare(encoder, inspection.read(encoder, TEXT), inspection.swapped(encoder, "sparsemax"))
    assert float(app.metric[0].value) == pytest.approx(found.effects[0].after, abs=1e-3)
    assert not app.dataframe


def test_a_model_without_tokenizer_reads_numbers(use: Any, model: Transformer) -> None:
    use(fresh(model.cfg))
    app = opened()
    assert app.text_area(key="tokens").value == "0 1 2"
    app.text_area(key="tokens").set_value("0 1 999999")
    assert "Token ids must lie between 0 and" in words(ran(app))


def test_a_sample_is_read_and_its_patches_can_be_asked(use: Any) -> None:
    vision = use(digits.vision())
    app = opened(sample="7", query="q6")
    pixels, title = inspection.sample(vision, 7)
    found = inspection.compare(vision, inspection.see(vision, pixels))
    assert answers(app)["answer"].tolist() == [one.text for one in found.answers]
    assert f"Sample 7 of {inspection.n_samples(vision)}: {title}." in words(app)
    assert app.selectbox(key="look-download-what").options == ["Patches in layer 2", "Layer 2"]
    for query in ("q99", "q-1", "x"):
        assert not opened(query=query).error


def png(size: tuple[int, int], colour: str = "white") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_upload_is_read_resized_and_can_be_inverted(use: Any) -> None:
    vision = use(digits.vision())
    app = opened()
    app.file_uploader(key="look-upload").upload("mine.png", png((40, 40)))
    ran(app)
    white = inspection.compare(
        vision, inspection.see(vision, inspection.pixels_of(vision, Image.new("L", (8, 8), 255)))
    )
    assert answers(app)["probability"].tolist() == pytest.approx([one.before for one in white.answers])
    app.toggle(key="invert").set_value(True)
    ran(app)
    assert answers(app)["probability"].tolist() != pytest.approx([one.before for one in white.answers])


@pytest.mark.parametrize("data", [b"hello", b"", png((4, 4))[:50]])
def test_an_upload_that_is_no_image_is_one_sentence(use: Any, data: bytes) -> None:
    use(digits.vision())
    app = opened()
    app.file_uploader(key="look-upload").upload("mine.png", data)
    ran(app)
    assert len(app.error) == 1
    assert "image" in app.error[0].value


def test_parity_is_told_after_the_button(micro_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "names", lambda *_: [str(micro_folder)])
    monkeypatch.setattr(registry, "find", lambda _: registry.MODELS[0])
    monkeypatch.setattr(registry, "installed", lambda _: True)
    model = load(micro_folder)
    monkeypatch.setattr(state, "model", lambda _: model)
    parity = "Compared with Hugging Face over 2 layers and 3 positions."
    monkeypatch.setattr(inspection, "parity", lambda name: name)
    monkeypatch.setattr(inspection, "parity_words", lambda _: parity)
    app = opened()
    assert parity not in words(app)
    app.button(key="look-check").click()
    assert parity in words(ran(app)).replace("\\", "")


def test_a_model_made_here_has_nothing_to_be_compared_with(use: Any, model: Transformer) -> None:
    use(model)  # the record has no wheel: it is bundled
    app = opened()
    assert "no Hugging Face class that computes it" in words(app)
    assert not app.button


def test_markup_in_an_answer_is_shown_as_text(use: Any, model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    use(model)
    monkeypatch.setattr(type(model.text), "pieces", lambda self, ids: ["**<b>x</b>**"] * len(ids))
    rows = [str(value) for one in opened(text="a store").table for value in one.value.to_numpy().flatten()]
    assert any(r"\*\*\<b\>" in row for row in rows)
