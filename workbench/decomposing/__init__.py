"""One input, decomposed: what words, patches, heads or MLPs give to an answer; what page and command line call.

request = Request(model="smollm2-135m", text="When Mary and John ...", target="logit: Mary - John")
check(request, model)                    # ValueError in one sentence before any long work
result = run(request, model)             # plain data: result.names, result.values, result.to_json()
pictures(result)["words"]                # figures by name: words, bars, patches, map, tree
"""

from __future__ import annotations

from workbench.decomposing.compare import WAYS, Compared, Way, compare
from workbench.decomposing.pictures import caption_of, pictures
from workbench.decomposing.plan import BASELINE, RULE
from workbench.decomposing.records import BASELINES, SOURCES, Merge, Request, Result
from workbench.decomposing.work import check, run

__all__ = [
    "BASELINE",
    "BASELINES",
    "RULE",
    "SOURCES",
    "WAYS",
    "Compared",
    "Merge",
    "Request",
    "Result",
    "Way",
    "caption_of",
    "check",
    "compare",
    "pictures",
    "run",
]
