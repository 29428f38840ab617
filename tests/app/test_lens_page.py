"""The Lens page's logic, without a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from streamlit.testing.v1 import AppTest

from tests import digits
from tests.app import driving
from tests.app.driving import frame, offer, parameter
from workbench import inspection, lens, reading
from workbench.app import state
from workbench.app.lens import window
from workbench.app.lens_detail import said
from workbench.models import Transformer

TEXT = "When Mary and John went to the store, John gave a drink to"


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Makes the page offer one model alone, and keep its lenses in a folder of the test."""

    def use(model: Transformer) -> Transformer:
        monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "runs"))
        return offer(monkeypatch, model, TEXT)

    return use


def script() -> None:
    from workbench.app import lens

    lens.page()


def ready(app: AppTest) -> AppTest:
    """A training takes longer than other work."""
    return driving.ready(app, seconds=60)


def opened(**parameters: str) -> AppTest:
    return ready(driving.opened(script, parameters))


def metric(app: AppTest, label: str) -> str:
    return str(next(one.value for one in app.metric if label in one.label)).replace("−", "-")


def figure(app: AppTest) -> str:
    """Key of the grid's figure, which says what tokens it shows."""
    return next(str(key) for key in app.session_state.filtered_state if str(key).startswith("lens-grid-"))


def click(app: AppTest, key: str, mark: str | None) -> AppTest:
    app.session_state[key] = {"selected": None if mark is None else {"id": mark, "kind": "cell"}}
    return ready(app.run())


def early(model: Transformer, layer: int, position: int) -> torch.Tensor:
    """Probabilities that the stream behind a layer gives through the final norm and the unembedding."""
    name = f"blocks.{layer}.hook_resid_post"
    _, cache = model.run_with_cache(model.to_tokens(TEXT), [name])
    logits: torch.Tensor = model.unembedding(model.ln_final(cache[name]))[0, position]
    return logits.softmax(-1)


def words(model: Transformer, shares: torch.Tensor, k: int) -> list[str]:
    return [piece.strip() for piece in model.text.pieces(shares.topk(k).indices.tolist())]


def test_it_opens_with_the_models_own_answers(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(text=TEXT)
    assert not app.error
    own = model(model.to_tokens(TEXT))[0, -1].softmax(-1)
    table = frame(app, "probability")
    assert list(table["answer"]) == words(model, own, 10)
    assert list(table["probability"]) == pytest.approx(own.topk(10).values.tolist(), rel=1e-4)
    entropy = float(torch.special.entr(own).sum())
    assert float(metric(app, "entropy").split()[0]) == pytest.approx(entropy, rel=0.01)


def test_a_click_shows_what_the_model_would_answer_there(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(text=TEXT)
    n = len(model.to_tokens(TEXT)[0])
    first = max(0, n - 10)  # the last ten tokens are shown
    click(app, f"lens-grid-{first}-{n - 1}", "m0,2")
    assert parameter(app, "cell") == [f"m0,{first + 2}"]
    shares = early(model, 0, first + 2)
    table = frame(app, "probability")
    assert list(table["answer"]) == words(model, shares, 10)
    own = model(model.to_tokens(TEXT))[0, first + 2].log_softmax(-1)
    kl = float((own.exp() * (own - shares.log())).sum())
    assert float(metric(app, "KL").split()[0]) == pytest.approx(kl, rel=0.01)
    click(app, f"lens-grid-{first}-{n - 1}", None)
    assert parameter(app, "cell") == []


def test_the_rank_is_that_of_the_answer_that_is_asked_for(use: Any, model: Transformer) -> None:
    use(model)
    n = len(model.to_tokens(TEXT)[0])
    app = opened(text=TEXT, cell=f"m0,{n - 1}", explained="tokens", right="Mary", wrong="John", show="rank")
    shares = early(model, 0, n - 1)
    mary = model.text.single(" Mary")
    assert int(metric(app, "rank of the target")) == 1 + int((shares > shares[mary]).sum())


def test_a_window_keeps_whole_columns(model: Transformer) -> None:
    whole = lens.logit_lens(model, TEXT)
    part = window(whole, 3, 5)
    assert part.positions == (3, 4, 5)
    alone = lens.logit_lens(model, TEXT, positions=[3, 4, 5])
    for name in ("top", "ranks", "targets"):
        assert torch.equal(getattr(part, name), getattr(alone, name)), name
    assert torch.allclose(part.kl, alone.kl, atol=1e-4)


def test_depth_says_from_where_the_answer_stays(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(text=TEXT, sublayers="true")
    n = len(model.to_tokens(TEXT)[0])
    read = lens.logit_lens(model, TEXT, sublayers=True)
    firsts = read.top[:, 0, n - 1, 0].tolist()
    stays = len(firsts) - 1
    while stays and firsts[stays - 1] == firsts[-1]:
        stays -= 1
    assert metric(app, "settled") == read.places[stays]
    assert "a1" in read.places


def test_the_curve_follows_the_cell_and_can_be_moved(
    use: Any, model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(model)
    asked: list[tuple[int | None, str]] = []
    draw = reading.curves_picture

    def curves_picture(lenses: Any, at: int | None = None, of: Any = "prob") -> Any:
        asked.append((at, of))
        return draw(lenses, at, of)

    monkeypatch.setattr(reading, "curves_picture", curves_picture)
    app = opened(text=TEXT, view="curves", cell="m0,4", of="logit")
    assert asked[-1] == (4, "logit")
    next(box for box in app.selectbox if box.label == "After").select(6)
    ready(app.run())
    assert parameter(app, "cell") == ["m0,6"]
    assert asked[-1] == (6, "logit")


def test_parts_sum_to_the_answer_and_one_can_be_taken(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(text=TEXT, view="direct")
    logits = model(model.to_tokens(TEXT))[0, -1]
    first, second = logits.topk(2).indices.tolist()
    assert float(metric(app, "−")) == pytest.approx(float(logits[first] - logits[second]), rel=0.01)
    click(app, "lens-map", "m1")
    assert parameter(app, "part") == ["m1"]
    names = ["blocks.1.hook_resid_post", "blocks.1.hook_mlp_out"]
    _, cache = model.run_with_cache(model.to_tokens(TEXT), names)
    final, wrote = (cache[name][0, -1] for name in names)
    held = wrote / (final.square().mean() + 1e-6).sqrt() * model.ln_final.weight
    weight = model.unembedding.weight
    assert float(metric(app, "m1")) == pytest.approx(float(held @ (weight[first] - weight[second])), rel=0.01)
    click(app, "lens-bars", "a0.h2")
    assert parameter(app, "part") == ["a0.h2"]
    assert any(one.label == "a0\\.h2" for one in app.metric)


# -- tuned lenses ----------------------------------------------------------------------------------------------


def test_a_lens_is_trained_kept_and_chosen(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(text=TEXT)
    before = list(frame(opened(text=TEXT, cell="embed,3"), "probability")["probability"])
    next(one for one in app.number_input if one.label == "Steps").set_value(15)
    next(one for one in app.selectbox if one.label == "Rank").select("4")
    app.run()
    next(one for one in app.button if one.label == "Train").click()
    ready(app.run())
    assert not app.error, app.error[0].value
    assert parameter(app, "lens") == ["15-steps-rank-4"]
    (file,) = (state.store().root / ".lenses").glob("*.safetensors")
    tuned = lens.load_lens(file, model)
    assert tuned.steps == 15
    app = opened(text=TEXT, cell="embed,3", lens="15-steps-rank-4")
    embedded = model.embed(model.to_tokens(TEXT))[0, 3]
    logits = model.unembedding(model.ln_final(tuned.translate("embed", embedded)[None, None]))[0, 0]
    found = list(frame(app, "probability")["probability"])
    assert found == pytest.approx(logits.softmax(-1).topk(10).values.tolist(), rel=1e-4)
    assert found != pytest.approx(before, rel=1e-4)
    assert len(frame(app, "tuned lens")) == 2
    # The store does not take the folder for a run.
    assert state.store().scan() == ([], [])


def test_a_lens_from_a_file_and_one_of_another_model(use: Any, model: Transformer, tmp_path: Path) -> None:
    use(model)
    app = opened(text=TEXT, lens="file", **{"lens-file": str(tmp_path / "none.safetensors")})
    assert "There is no file" in app.error[0].value
    tokens = torch.randint(5, 60, (6, 12), generator=torch.Generator().manual_seed(0))
    trained = lens.train_lens(model, tokens, steps=2, rank=1)
    file = trained.save(tmp_path / "mine.safetensors")
    app = opened(text=TEXT, lens="file", **{"lens-file": str(file)})
    assert not app.error
    assert len(frame(app, "tuned lens")) == 2
    use(digits.vision())
    app = opened(sample="3", lens="file", **{"lens-file": str(file)})
    assert "was trained on" in app.error[0].value
    assert not app.metric


# -- other models and bad input --------------------------------------------------------------------------------


def test_a_classifier_has_one_position(use: Any) -> None:
    vision = use(digits.vision())
    app = opened(sample="3")
    pixels = inspection.sample(vision, 3)[0]
    own = vision(pixels)[0].softmax(-1)
    table = frame(app, "probability")
    assert list(table["answer"]) == [str(i) for i in own.topk(10).indices.tolist()]
    assert not any(one.label == "Tokens shown" for one in app.slider)
    for view in ("curves", "direct"):
        assert not opened(sample="3", view=view).error


def test_a_model_that_gives_vectors_is_refused_in_a_sentence(use: Any) -> None:
    use(digits.encoder())
    app = opened()
    assert "gives a vector" in app.error[0].value


@pytest.mark.parametrize(
    "parameters",
    [
        {"view": "nothing", "cell": "m9,3", "lens": "zzz"},
        {"cell": "embed,99999", "tokens-shown": "9-2", "show": "x"},
        {"cell": ",", "tokens-shown": "0-0"},
        {"view": "curves", "cell": "m0,-1", "of": "x"},
        {"view": "direct", "part": "a9.h9"},
    ],
)
def test_an_address_that_makes_no_sense_is_no_trouble(use: Any, model: Transformer, parameters: dict[str, str]) -> None:
    use(model)
    app = opened(text=TEXT, **parameters)
    assert not app.error
    assert app.metric


def test_answers_that_are_none_are_refused_in_a_sentence(use: Any, model: Transformer) -> None:
    use(model)
    app = opened(text=TEXT, explained="tokens", right="Mary store")
    assert "Mary store" in app.error[0].value.replace("\\", "")
    app = opened(text=TEXT, explained="tokens", wrong="Mary")
    assert app.error or app.metric  # its own first answer less Mary, or a sentence


def test_places_in_words() -> None:
    assert said("embed") == "behind the embedding"
    assert said("m3") == "behind layer 3"
    assert said("a3") == "behind the attention of layer 3"
