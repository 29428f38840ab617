"""Parts spread over threads: the same numbers whatever their number, errors that surface, settings left alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from workbench.kernels import NonFiniteScores, attention_statistics
from workbench.kernels.threads import each

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def threads_of_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def test_parts_come_in_order_each_from_a_thread_that_works_alone() -> None:
    together = threading.Barrier(3)

    def work(part: int) -> tuple[int, int, bool, int]:
        together.wait(timeout=60)  # three at a time, or this breaks
        return part, torch.get_num_threads(), torch.is_grad_enabled(), threading.get_ident()

    found = list(each(work, range(9), CPU))
    assert [part for part, *_ in found] == list(range(9))
    assert {(threads, grad) for _, threads, grad, _ in found} == {(1, False)}
    assert threading.get_ident() not in {ident for *_, ident in found}
    assert torch.get_num_threads() == threads_of_a_new_thread() == 3


def test_what_a_part_raises_is_raised_and_later_parts_are_not_begun() -> None:
    begun = []

    def work(part: int) -> None:
        begun.append(part)
        if part == 1:
            raise KeyError("part 1")

    running = threading.active_count()
    with pytest.raises(KeyError, match="part 1"):
        for _ in each(work, range(100_000), CPU):
            pass
    assert len(begun) < 100_000
    assert threading.active_count() == running
    assert torch.get_num_threads() == threads_of_a_new_thread() == 3


def test_who_stops_asking_leaves_no_thread_behind() -> None:
    running = threading.active_count()
    results = each(lambda part: part, range(1000), CPU)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == running


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_statistics_are_equal_to_the_bit_whatever_the_number_of_threads(mode: type) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 700, 32, generator=generator) for heads in (4, 2, 2))
    found = []
    with mode():
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(vars(attention_statistics(q, k, v, want_output=True)))
    for other in found[1:]:
        for name, x in found[0].items():
            assert torch.equal(x, other[name]), name


def test_scores_that_are_not_finite_are_found_in_any_thread() -> None:
    q, k = torch.randn(1, 4, 900, 16), torch.randn(1, 2, 900, 16)
    q[0, 3, 400, 0] = torch.nan
    with pytest.raises(NonFiniteScores, match="batch 0, head 3, query 400"):
        attention_statistics(q, k)
