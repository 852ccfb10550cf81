"""What is told of a run of the user's own code and of no other: `script` of RUN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from meminspect.analysis.own_code import NEVER, OwnCode
from meminspect.analysis.patterns import patterns
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meminspect.analysis.window import Window
    from meminspect.capture.records import Event
    from meminspect.capture.store import CaptureReader

__all__ = ["own_code", "script_document"]

_WORTH_A_NOTE_BYTES: Final = 1 << 20
_UNTOUCHED: Final = "{} of its tensors are mapped and were not used: their pages come into memory when they are"
_GONE: Final = "its model was gone when it ended: meminspect.mark('loaded') says when to look"


def own_code(capture: CaptureReader, cut: Window | None, events: Sequence[Event]) -> OwnCode | None:
    """The sorted events of a script's window; None for a strategy's run, and for one that never began."""
    if cut is None or (capture.fact("spec") or {}).get("script") is None:
        return None
    return OwnCode.of(events, cut.baseline.t_ns, cut.end_ns)


def script_document(capture: CaptureReader, code: OwnCode | None) -> dict[str, Any] | None:
    """What was run, what its floor is, and what it does that costs more than it need; None for a strategy."""
    script = (capture.fact("spec") or {}).get("script")
    if script is None:
        return None
    outcome, kept = capture.fact("outcome") or {}, capture.fact("kept")
    floor_bytes, floor_of = _floor(capture.fact("floor"), kept, code)
    notes = list(script.get("notes") or ())
    if floor_of == "gone":
        notes.append(_GONE)
    mapped_bytes = 0 if code is None else code.untouched_bytes
    if mapped_bytes >= _WORTH_A_NOTE_BYTES:
        notes.append(_UNTOUCHED.format(format_bytes(mapped_bytes)))
    return {
        "kind": script.get("kind", "script"),
        "command": [script["entry"] or script["path"], *script["arguments"]],
        "entry": script["entry"] or None,
        "folder": script["folder"],
        "exit_status": outcome.get("exit_status"),
        "baseline": (capture.fact("mark") or {}).get("baseline"),
        "floor_bytes": floor_bytes,
        "floor_of": floor_of,
        "kept": kept,
        "files": (capture.fact("opened") or {}).get("files"),
        "patterns": [] if code is None else [one.document() for one in patterns(code)],
        "notes": notes,
    }


def _floor(
    known: Mapping[str, int] | None, kept: Mapping[str, Any] | None, code: OwnCode | None
) -> tuple[int | None, str | None]:
    """What the loaded model must occupy, and who says so: the checkpoint, the end of the load, or what was seen."""
    if known is not None:
        return known["floor_bytes"], "checkpoint"
    if kept is not None and (kept["model_bytes"] or kept["other_bytes"]):
        return kept["model_bytes"] or kept["other_bytes"], "model" if kept["model_bytes"] else "tensors"
    if code is None:
        return None, None
    most = total = 0
    changes = [(made.begin_ns, made.nbytes) for made in code.made if code.is_model(made)]
    changes += [(made.end_ns, -made.nbytes) for made in code.made if code.is_model(made) and made.end_ns < NEVER]
    for _, change in sorted(changes):
        total += change
        most = max(most, total)
    return (most, "gone") if most else (None, None)
