"""Work that a page waits for: in a thread of its own, with progress and a stop, given up when nobody looks any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import streamlit as st

from workbench.app.model_detail import escaped
from workbench.circuits.progress import Progress, ProgressFn, Stopped
from workbench.undisturbed import undisturbed

T = TypeVar("T")

LOOK_EVERY = 1.0
"""Seconds between two looks of a page that waits; each takes the interpreter from the work for a moment."""
_PATIENCE = 20.0  # seconds without a page that looks
_AT_ONCE = 1.5  # seconds that a page waits before it shows progress


class Work(Generic[T]):
    """One piece of work; pages that ask for the same share it.

    Attributes:
        progress: the last report.
        result: what it gave; None until it is done, or where there was nothing to keep.
        error: why it failed.
        stopped: whether it was asked to stop.
    """

    def __init__(self, do: Callable[[ProgressFn], T]) -> None:
        self.progress: Progress | None = None
        self.result: T | None = None
        self.error: Exception | None = None
        self.stopped = False
        self.abandoned = False
        self._looked = self._began = time.monotonic()
        self._thread = threading.Thread(target=self._run, args=(do,), daemon=True)
        self._thread.start()

    def _run(self, do: Callable[[ProgressFn], T]) -> None:
        try:
            with undisturbed():
                self.result = do(self._report)
        except Stopped:
            pass
        except Exception as error:  # shown by the page that waits
            self.error = error

    def _report(self, progress: Progress) -> bool:
        self.progress = progress
        if time.monotonic() - self._looked > _PATIENCE:
            self.abandoned = True
        return not self.stopped and not self.abandoned

    @property
    def done(self) -> bool:
        """Whether it ended, in whatever way."""
        return not self._thread.is_alive()

    def look(self, wait: float = 0.0) -> None:
        """Say that somebody is waiting for it, and wait a little for its end."""
        self._looked = time.monotonic()
        self._thread.join(wait)

    def stop(self) -> None:
        """Ask it to stop after its present step."""
        self.stopped = True

    @property
    def remaining(self) -> float | None:
        """Seconds left at the pace so far; None while that is not known."""
        passed = time.monotonic() - self._began
        if self.progress is None or passed < 1 or not self.progress.done:
            return None
        return passed * (self.progress.total - self.progress.done) / self.progress.done


def wait_for(work: Work[T], what: str) -> bool:
    """Wait for a piece of work: at first without a word, then with progress and a stop.

    Args:
        work: to wait for.
        what: is being done, for the first moment.

    Returns:
        Whether it ended; else the page is drawn again when it has.
    """
    if not work.done:
        with st.spinner(what):
            work.look(_AT_ONCE)
    if not work.done:
        _watch(work)
    return work.done


def result_of(make: Any, arguments: tuple[Any, ...], what: str, key: str) -> T | None:
    """The result of some work; refusals and failures are said here, and None stands for them too.

    Args:
        make: a cached function that gives the piece of work.
        arguments: of it.
        what: is being done, for the first moment.
        key: of the button that starts again what was stopped.
    """
    work: Work[T] = make(*arguments)
    if work.done and work.abandoned:
        make.clear(*arguments)
        work = make(*arguments)
    if not wait_for(work, what):
        return None
    if work.error is not None:
        if not isinstance(work.error, ValueError):
            raise work.error
        st.error(escaped(str(work.error)))
        return None
    if work.stopped and not getattr(work.result, "complete", work.result is not None):
        row = st.columns([4, 1], vertical_alignment="center")
        kept = "nothing was finished by then" if work.result is None else "what was finished is shown"
        row[0].warning(f"Stopped; {kept}.")
        if row[1].button("Start again", key=f"again-{key}", width="stretch"):
            make.clear(*arguments)
            st.rerun()
    return work.result


@st.fragment(run_every=LOOK_EVERY)
def _watch(work: Work[T]) -> None:
    work.look()
    if work.done:
        st.rerun()
    at = work.progress
    if at is None or not at.total:
        st.progress(0.0, "starting ...")
    else:
        left = work.remaining
        time_left = "" if left is None else f", about {max(1, round(left))} s left"
        st.progress(min(1.0, at.done / at.total), f"{at.what}: {at.done} of {at.total}{time_left}")
    if st.button("Stop", help="What is finished by then is kept.", disabled=work.stopped):
        work.stop()
