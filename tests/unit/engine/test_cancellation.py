from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from meminspect.engine.cancellation import Cancellation, Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def pipes() -> Iterator[list[tuple[int, int]]]:
    made = [os.pipe(), os.pipe()]
    yield made
    for descriptor in (end for pipe in made for end in pipe):
        with contextlib.suppress(OSError):  # the test has closed it
            os.close(descriptor)


@pytest.mark.parametrize(
    ("wish", "ending"),
    [(lambda sender: os.write(sender, b"x"), Ending.CANCELLED), (os.close, Ending.ABANDONED)],
    ids=["something is written", "the other end is gone"],
)
def test_given_two_descriptors_when_either_tells_then_the_end_is_wished_for_and_stays_so(
    pipes: list[tuple[int, int]], wish: Callable[[int], object], ending: Ending
) -> None:
    (one, _), (two, sender) = pipes
    cancellation = Cancellation(one, two)
    assert not cancellation.requested()
    assert cancellation.wish() is None

    wish(sender)

    assert cancellation.requested()
    assert (cancellation.wish(), cancellation.wish()) == (ending, ending)


def test_given_a_word_when_its_sender_goes_then_it_was_meant_all_the_same(pipes: list[tuple[int, int]]) -> None:
    (descriptor, sender), _ = pipes
    os.write(sender, b"x")
    os.close(sender)
    assert Cancellation(descriptor).wish() is Ending.CANCELLED


def test_given_a_process_that_ends_when_nobody_wishes_for_it_then_it_came_first(pipes: list[tuple[int, int]]) -> None:
    (descriptor, sender), _ = pipes
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pidfd = os.pidfd_open(process.pid)
    os.write(sender, b"x")  # too late
    try:
        assert Cancellation(descriptor).end_of(pidfd, 60) is Ending.ITSELF
    finally:
        os.close(pidfd)


def test_given_a_process_that_runs_on_then_its_time_is_up_or_the_wish_comes_first(pipes: list[tuple[int, int]]) -> None:
    (descriptor, sender), _ = pipes
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        pidfd = os.pidfd_open(process.pid)
        try:
            assert Cancellation(descriptor).end_of(pidfd, 0.001) is Ending.TIMED_OUT
            os.write(sender, b"x")
            assert Cancellation(descriptor).end_of(pidfd) is Ending.CANCELLED
        finally:
            os.close(pidfd)
            process.kill()
