"""Independent parts of a calculation on the CPU, one thread each.

Operations on tiles are too small to be worth splitting: every one of them would wait for its slowest thread. So threads
take whole parts. A part is calculated by a single thread however many there are: results do not depend on their number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def each(work: Callable[[Part], Result], parts: Sequence[Part], device: torch.device) -> Iterator[Result]:
    """``work`` of every part, in order, without gradients; what it raises is raised here, and no new part begun.

    On a CPU as many threads work as torch has (``torch.get_num_threads``); the caller's setting stays as it is. On
    other devices, and where torch has one thread, it is a plain loop.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or not parts:
        for part in parts:
            yield _without_gradients(work, part)
        return
    workers = min(threads, len(parts))
    pool = ThreadPoolExecutor(workers)
    ready = Barrier(workers + 1)
    try:
        for _ in range(workers):
            pool.submit(_settle, ready)
        ready.wait()
        # A worker's setting is its own, but threads born later take over the last one that anybody made.
        torch.set_num_threads(threads)
        pending = deque(pool.submit(_without_gradients, work, part) for part in parts)
        while pending:
            yield pending.popleft().result()
    finally:
        ready.abort()
        pool.shutdown(cancel_futures=True)


def _settle(ready: Barrier) -> None:
    """Make this thread work alone. Waits for all, so that each thread of the pool comes by once."""
    torch.get_num_threads()  # a thread takes over the process's number when first asked, even after it was set
    torch.set_num_threads(1)
    ready.wait()


def _without_gradients(work: Callable[[Part], Result], part: Part) -> Result:
    with torch.no_grad():  # a setting of the thread, not of the process
        return work(part)
