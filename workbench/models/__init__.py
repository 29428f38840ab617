"""Hooked transformers: every head and the residual stream, by TransformerLens's names."""

from workbench.models.cache import ActivationCache
from workbench.models.config import ImageConfig, ModelConfig
from workbench.models.files import save
from workbench.models.fresh import fresh
from workbench.models.load import from_hf, from_transformer_lens, load
from workbench.models.past import Past
from workbench.models.sentences import sentence_embeddings
from workbench.models.transformer import Transformer
from workbench.models.variants import folded, with_attention

__all__ = [
    "ActivationCache",
    "ImageConfig",
    "ModelConfig",
    "Past",
    "Transformer",
    "folded",
    "fresh",
    "from_hf",
    "from_transformer_lens",
    "load",
    "save",
    "sentence_embeddings",
    "with_attention",
]
