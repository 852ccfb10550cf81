"""Copies on a stream of a thread's own, by a stand-in for torch.cuda that writes down what it is told."""

from __future__ import annotations

import contextlib
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from meminspect.stream import sending
from meminspect.stream.sending import can_pin, copy_to

if TYPE_CHECKING:
    from collections.abc import Iterator


class Streams:
    """As much of torch.cuda as there is to streams."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def Stream(self, device: torch.device) -> Streams:  # noqa: N802 - as torch has it
        self.told.append("made")
        return self

    def current_stream(self, device: torch.device) -> str:
        return "the common one"

    def wait_stream(self, other: str) -> None:
        self.told.append(f"waits for {other}")

    @contextlib.contextmanager
    def stream(self, side: Streams) -> Iterator[None]:
        assert side is self
        self.told.append("begins")
        yield
        self.told.append("ends")

    def synchronize(self) -> None:
        self.told.append("is done")


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    monkeypatch.setattr(sending, "_own", type("Own", (), {})())
    return Streams()


def test_given_two_copies_when_done_then_one_stream_has_made_them_and_is_waited_for_each_time(streams: Streams) -> None:
    target = torch.zeros(4, 2)

    for row in (1, 2):
        copy_to(target[row], torch.ones(2), lambda _: streams)

    assert target.sum() == 4
    assert streams.told == ["made"] + 2 * ["waits for the common one", "begins", "ends", "is done"]


@pytest.mark.parametrize(
    ("target", "source"), [(torch.zeros(2, 2), torch.ones(2, 2).half()), (torch.zeros(2, 4)[:, 1:3], torch.ones(2, 2))]
)
def test_given_what_must_be_cast_or_scattered_when_copied_then_no_other_stream_allocates_for_it(
    streams: Streams, target: torch.Tensor, source: torch.Tensor
) -> None:
    copy_to(target, source, lambda _: streams)

    assert (streams.told, target.sum()) == ([], 4)


def test_given_the_host_when_copied_to_then_it_is_a_plain_copy() -> None:
    target: Any = torch.zeros(3)

    copy_to(target, torch.ones(3))

    assert target.tolist() == [1, 1, 1]


def test_given_metal_when_copied_to_then_it_is_a_plain_copy_that_no_other_thread_is_at(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, held = threading.Lock(), []
    monkeypatch.setattr(sending, "_metal", lock)
    target: Any = SimpleNamespace(device=torch.device("mps"), copy_=lambda source: held.append(lock.locked()))

    copy_to(target, torch.ones(3), lambda _: streams)

    assert (held, lock.locked(), streams.told) == ([True], False, [])


@pytest.mark.parametrize(("kind", "pins"), [("cpu", False), ("cuda", True), ("xpu", True), ("mps", False)])
def test_given_a_device_then_memory_is_page_locked_for_it_where_that_helps(kind: str, pins: bool) -> None:
    assert can_pin(torch.device(kind)) is pins
