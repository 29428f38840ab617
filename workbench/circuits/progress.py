"""How long work says where it is, and how it is asked to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """One report: ``done`` of ``total`` steps of ``what``."""

    done: int
    total: int
    what: str


ProgressFn = Callable[[Progress], bool | None]
"""Called after every step. Returning False asks to stop; what is finished is kept."""


class Stopped(Exception):  # noqa: N818 - being asked to stop is no error
    """The caller asked to stop before there was anything to keep."""


@dataclass
class Reporter:
    """Counts the steps of one piece of work and passes them on; ``going`` turns False when asked to stop."""

    fn: ProgressFn | None
    total: int
    what: str
    done: int = 0
    going: bool = True

    def step(self) -> None:
        """One step is done."""
        self.done += 1
        if self.fn is not None and self.fn(Progress(self.done, self.total, self.what)) is False:
            self.going = False
