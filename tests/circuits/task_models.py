"""Models with random weights for every kind of task, and tokenizers that know the tasks' words."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from workbench.circuits.tasks import sentiment, similarity, words
from workbench.circuits.tasks.ioi import TEMPLATES
from workbench.models import Transformer, from_hf
from workbench.models.families.samples import find

VERBS = "is are was were he she positive negative"


def known_words() -> list[str]:
    """Every word that the tasks choose from."""
    lists = [getattr(words, name) for name in dir(words) if name.isupper()]
    lists += [getattr(sentiment, name) for name in ("_GOOD", "_BAD", "_WORKS", "_PARTS")]
    lists += list(similarity._PARTS)
    found: list[str] = []

    def gather(entry: Any) -> None:
        if isinstance(entry, str):
            found.extend(entry.split())
        else:
            for part in entry:
                gather(part)

    gather(lists)
    return sorted({*found, *VERBS.split()})


def bpe(*, digits: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE that knows those words after a space; numbers digit by digit, or of two digits as one token."""
    tokenizer = Tokenizer(models.BPE())
    cut: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cut, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=6000,
        special_tokens=["<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    numbers = [] if digits else [f" {number}" * 50 for number in range(10, 100)]
    tokenizer.train_from_iterator([f" {word}" * 50 for word in known_words()] + list(TEMPLATES) * 20 + numbers, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<pad>")


def word_pieces() -> PreTrainedTokenizerFast:
    """A tokenizer such as BERT's, which knows those words in lower case and all letters."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = list("abcdefghijklmnopqrstuvwxyz.,?'0123456789")
    plain = sorted({word.lower() for word in known_words()} - set(letters))
    more = "the near behind beside very old still here quite new capital of city".split()
    pieces = list(dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters), *plain, *more]))
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{kind}_token": f"[{kind.upper()}]" for kind in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def text_model(kind: str, tokenizer: PreTrainedTokenizerFast) -> Transformer:
    """A model of a family's sample with a tokenizer, and room for a prompt of a hundred tokens."""
    hf = find(kind).model(vocab=len(tokenizer), context=160, layers=2)
    if kind == "bert-classes":
        hf.config.id2label = dict(enumerate(["neutral", "Positive", "other", "NEGATIVE", "mixed"]))
    return from_hf(hf, tokenizer, name=f"micro-{kind}")
