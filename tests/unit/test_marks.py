from __future__ import annotations

import pytest

import meminspect
from meminspect import marks


def test_a_mark_is_told_to_all_who_listen_and_outside_of_a_recording_to_nobody() -> None:
    told: list[tuple[str, marks.Moment]] = []
    meminspect.mark()

    def one(moment: marks.Moment) -> None:
        told.append(("one", moment))

    def two(moment: marks.Moment) -> None:
        told.append(("two", moment))

    marks.listen(one)
    marks.listen(two)
    meminspect.mark()
    marks.unlisten(one)
    meminspect.mark("loaded")
    marks.unlisten(two)
    meminspect.mark("loaded")

    assert told == [("one", "baseline"), ("two", "baseline"), ("two", "loaded")]


def test_what_is_no_moment_is_refused_whoever_listens() -> None:
    with pytest.raises(ValueError, match="'baseline' or 'loaded', not 'later'"):
        meminspect.mark("later")  # type: ignore[arg-type]


def test_what_is_not_there_is_said_as_of_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'meminspect' has no attribute 'nothing'"):
        meminspect.nothing  # noqa: B018 - the look is the point
