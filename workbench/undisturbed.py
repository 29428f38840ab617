"""Long work in a thread beside a page.

Streamlit collects garbage after every run of a script, and every look of a page that waits is one. A collection walks
through all objects of the process and holds the interpreter meanwhile; with torch and a model loaded that is a good
part of a second, and the work stands still. So what there is when work begins is left out of collections until it ends.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

# The collector is one for the process, so that only the last work to end may give it all objects back.
_LOCK = threading.Lock()
_UNDER_WAY: list[object] = []


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """For the time of some work: collections leave out all objects that were there when it began."""
    work = object()
    with _LOCK:
        _UNDER_WAY.append(work)
        gc.freeze()
    try:
        yield
    finally:
        with _LOCK:
            _UNDER_WAY.remove(work)
            if not _UNDER_WAY:
                gc.unfreeze()
