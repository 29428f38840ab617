from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests import digits
from workbench.circuits.decomposition import words
from workbench.models import Transformer

TEXT = "When Mary and John went to the store, John gave a drink to the 'fox'."


def wordpiece(model: Transformer) -> Transformer:
    """The encoder with a tokenizer of BERT's kind, which adds special tokens and cuts words in pieces."""
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "fox", "un", "##happy", "is", "'", ".", "s", "very"]
    raw = Tokenizer(models.WordPiece({word: i for i, word in enumerate(known)}, unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {
        name: f"[{name[:-6].upper()}]" for name in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    }
    model.text = type(model.text)(PreTrainedTokenizerFast(tokenizer_object=raw, **names), 40, model.cfg.d_vocab)
    return model


@pytest.fixture(scope="module")
def bert() -> Transformer:
    return wordpiece(digits.encoder())


def test_words_cover_every_position_once_and_in_order(model: Transformer) -> None:
    cut = words.words(model, TEXT)
    covered = [i for part in cut.parts for i in range(part.first, part.last + 1)]
    assert covered == list(range(len(cut.pieces)))
    assert "".join(cut.pieces) == TEXT


def test_a_word_is_a_run_of_letters_and_a_mark_is_a_word_of_its_own(model: Transformer) -> None:
    names = [part.name for part in words.words(model, "John's drink, 12 foxes.").parts]
    assert names == ["John's", "drink", ",", "12", "foxes", "."]


def test_the_name_of_a_part_is_the_text_of_its_tokens(model: Transformer) -> None:
    cut = words.words(model, TEXT)
    for part in cut.parts:
        assert "".join(cut.pieces[part.first : part.last + 1]).strip() == part.name


def test_letters_of_several_bytes_stay_in_one_word(model: Transformer) -> None:
    names = [part.name for part in words.words(model, "the façade – 東京 😀 !").parts]
    assert names == ["the", "façade", "–", "東京", "😀", "!"]


def test_special_tokens_are_parts_of_their_own_and_words_are_whole(bert: Transformer) -> None:
    cut = words.words(bert, "The unhappy fox is very unhappy.")
    assert [part.name for part in cut.parts] == "[CLS] The unhappy fox is very unhappy . [SEP]".split()
    assert [part.special for part in cut.parts] == [True, *[False] * 7, True]
    assert cut.parts[2].place == "input@2-3"
    assert cut.parts[1].place == "input@1"


def test_an_unknown_word_is_a_word_and_not_special(bert: Transformer) -> None:
    part = words.words(bert, "the zebra").parts[2]
    assert (part.name, part.special) == ("zebra", False)


def test_what_touches(bert: Transformer) -> None:
    assert words.words(bert, "the fox is").neighbours == [(1, 2), (2, 3)]
    vision = digits.vision()
    grid = words.patches(vision, torch.rand(1, 1, 8, 8))
    assert len(grid.neighbours) == 2 * 4 * 3
    place = {part.name: i for i, part in enumerate(grid.parts)}
    assert (place["patch (1, 2)"], place["patch (1, 3)"]) in grid.neighbours
    assert (place["patch (1, 2)"], place["patch (2, 2)"]) in grid.neighbours
    assert (place["patch (0, 3)"], place["patch (1, 0)"]) not in grid.neighbours


def test_patches_are_offset_by_the_tokens_before_them() -> None:
    cut = words.patches(digits.vision(), torch.rand(1, 1, 8, 8))
    assert cut.parts[0] == words.Part("cls", 0, 0, special=True)
    assert cut.parts[6] == words.Part("patch (1, 1)", 6, 6)


def test_a_model_without_a_tokenizer_is_given_numbers(model: Transformer) -> None:
    bare = digits.encoder()
    bare.text = type(bare.text)(None, 40, bare.cfg.d_vocab)
    cut = words.words(bare, "3, 14 15")
    assert cut.tensor.tolist() == [[3, 14, 15]]
    assert [part.name for part in cut.parts] == ["3", "14", "15"]
    with pytest.raises(ValueError, match="has no tokenizer: write token numbers"):
        words.words(bare, "three")


# -- phrases --------------------------------------------------------------------------------------------------


def test_a_phrase_is_its_tokens(model: Transformer) -> None:
    cut = words.words(model, TEXT)
    part = words.phrase(cut, "gave a drink")
    assert "".join(cut.pieces[part.first : part.last + 1]) == " gave a drink"


def test_one_of_several_occurrences_is_named_by_its_number(model: Transformer) -> None:
    cut = words.words(model, TEXT)
    with pytest.raises(ValueError, match="'John' occurs 2 times in the text; write 'John#1'"):
        words.phrase(cut, "John")
    first, second = words.phrase(cut, "John#1"), words.phrase(cut, "John#2")
    assert first.last < second.first
    with pytest.raises(ValueError, match="'John#3' does not exist"):
        words.phrase(cut, "John#3")


def test_whole_words_are_meant_where_there_are_any(model: Transformer) -> None:
    cut = words.words(model, "the store sold a paper")
    assert words.phrase(cut, "a").name == "a"


def test_a_piece_of_a_word_can_be_named_where_the_tokenizer_cuts_there(bert: Transformer) -> None:
    cut = words.words(bert, "the unhappy fox")
    assert (words.phrase(cut, "happy").first, words.phrase(cut, "happy").last) == (3, 3)


def test_a_word_that_is_merged_with_its_neighbour_is_told_with_its_pieces(model: Transformer) -> None:
    cut = words.words(model, "Then Mary went to the store")
    with pytest.raises(ValueError, match=r"'Mar' is merged with its neighbour by the tokenizer \(' Mary'\).*'Mary'"):
        words.phrase(cut, "Mar")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("", "The phrase is empty: write one or more words of the text."),
        ("mary", "'mary' is not in the text; did you mean 'Mary'?"),
        ("zzz", "'zzz' is not in the text; its words are: When, Mary, and"),
    ],
)
def test_a_phrase_that_is_not_there_is_one_sentence(model: Transformer, said: str, told: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        words.phrase(words.words(model, TEXT), said)
    assert str(error.value).startswith(told)


def test_an_empty_text_is_one_sentence(model: Transformer, bert: Transformer) -> None:
    for one in (model, bert):
        for text in ("", " \n"):
            with pytest.raises(ValueError, match=r"^The text is empty: write at least one word\.$"):
                words.words(one, text)


def test_text_for_a_vision_model_is_refused() -> None:
    with pytest.raises(ValueError, match="reads images, not text"):
        words.words(digits.vision(), "seven")


# -- nothing --------------------------------------------------------------------------------------------------


def test_blank_leaves_special_tokens_and_masks_the_words(bert: Transformer) -> None:
    cut = words.words(bert, "the unhappy fox")
    assert bert.to_str_tokens(words.blank(bert, cut)[0]) == ["[CLS]", "[MASK]", "[MASK]", "[MASK]", "[MASK]", "[SEP]"]
    vision = digits.vision()
    assert not words.blank(vision, words.patches(vision, torch.rand(1, 1, 8, 8))).any()


def test_a_model_without_such_a_token_has_no_blank() -> None:
    bare = digits.encoder()
    bare.text = type(bare.text)(None, 40, bare.cfg.d_vocab)
    assert not words.has_blank(bare)
    with pytest.raises(ValueError, match="has no token that means nothing; choose the baseline zero or mean"):
        words.blank(bare, words.words(bare, "1 2"))
