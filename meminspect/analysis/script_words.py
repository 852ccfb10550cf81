"""What there is to say of a run of the user's own code beside what is said of every run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from meminspect.text import shown
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    Run = Mapping[str, Any]

__all__ = ["floor_bytes", "floor_name", "pattern_lines", "script_lines"]

_OF: Final = {
    "checkpoint": "the checkpoint's tensors as the model holds them",
    "model": "what its models held in the end",
    "tensors": "the tensors that were left in the end",
    "gone": "the most that its model was seen to hold",
}
_BASELINES: Final = {"start": "its start", "mark": "its mark"}


def floor_bytes(run: Run) -> int | None:
    """What the loaded model must occupy: by theory, or where there is none, by what is known of a script."""
    told: Mapping[str, Any] = run.get("theory") or run.get("script") or {}
    nbytes: int | None = told.get("floor_bytes")
    return nbytes


def floor_name(run: Run) -> str:
    """What the floor is of, where code of the user's own was run; empty for a strategy."""
    script = run.get("script") or {}
    return {"checkpoint": "the model", "tensors": "its tensors"}.get(script["floor_of"], "its model") if script else ""


def script_lines(run: Run) -> list[str]:
    """That there is no theory, what the floor is, what costs more than it need, and what nobody could see."""
    script = run.get("script")
    if not script:
        return []
    floor = "no floor: no tensor was seen"
    if script["floor_bytes"]:
        floor = f"floor {format_bytes(script['floor_bytes'])}: {_OF[script['floor_of']]}"
    since = f"; baseline: {_BASELINES[script['baseline']]}" if script["baseline"] else ""
    return [f"no theory: no header tells what code does{since}; {floor}", *pattern_lines(run), *script["notes"]]


def pattern_lines(run: Run) -> list[str]:
    """What costs more than it need, a line each, with what does without."""
    script = run.get("script") or {"patterns": []}
    return [f"→ {shown(one['words'], 300)}: {one['strategy']} does without" for one in script["patterns"]]
