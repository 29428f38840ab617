"""Hooked transformers: every head and the residual stream, by TransformerLens's names."""

from workbench.models.cache import ActivationCache
from workbench.models.config import ModelConfig
from workbench.models.load import from_hf, from_transformer_lens, load
from workbench.models.transformer import Transformer

__all__ = ["ActivationCache", "ModelConfig", "Transformer", "from_hf", "from_transformer_lens", "load"]
