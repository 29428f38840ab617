"""A mechanistic interpretability workbench: find the circuit, check it, look at it, export it.

``import workbench as wb`` gives the names that scripts use; each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.circuits import (
        Circuit,
        Graph,
        Scores,
        Task,
        discover,
        evaluate,
        faithfulness_curve,
        ground_truth,
        methods,
        tasks,
    )
    from workbench.circuits.known import compile_program, known_models
    from workbench.jobs import Request, run_discovery
    from workbench.models import (
        ModelConfig,
        Past,
        Transformer,
        folded,
        fresh,
        from_hf,
        from_transformer_lens,
        load,
        save,
        sentence_embeddings,
    )
    from workbench.runs import RunStore

try:
    __version__ = version("mi-workbench")
except PackageNotFoundError:  # used from a source tree that was never installed
    __version__ = "unknown"

_HOMES = {
    "workbench.models": (
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
    ),
    "workbench.circuits": (
        "Circuit",
        "Graph",
        "Scores",
        "Task",
        "discover",
        "evaluate",
        "faithfulness_curve",
        "ground_truth",
        "methods",
        "tasks",
    ),
    "workbench.circuits.known": ("compile_program", "known_models"),
    "workbench.runs": ("RunStore",),
    "workbench.jobs": ("Request", "run_discovery"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
# Modules that are used as they are: wb.figures.circuit_graph(...), wb.export.to_svg(...).
_MODULES = (
    "attention",
    "bench",
    "decomposing",
    "export",
    "figures",
    "inspection",
    "interchange",
    "lens",
    "models",
    "observing",
    "paths",
    "views",
)

__all__ = [
    "Circuit",
    "Graph",
    "ModelConfig",
    "Past",
    "Request",
    "RunStore",
    "Scores",
    "Task",
    "Transformer",
    "attention",
    "bench",
    "compile_program",
    "decomposing",
    "discover",
    "evaluate",
    "export",
    "faithfulness_curve",
    "figures",
    "folded",
    "fresh",
    "from_hf",
    "from_transformer_lens",
    "ground_truth",
    "inspection",
    "interchange",
    "known_models",
    "lens",
    "load",
    "methods",
    "models",
    "observing",
    "paths",
    "run_discovery",
    "save",
    "sentence_embeddings",
    "tasks",
    "views",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"workbench.{name}")
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'workbench' has no attribute '{name}'; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
