"""What a run came to, as Python has it: RUN of the JSON contract with types. Bytes are above the baseline."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BillLine", "Memory", "Pattern", "RunResult", "Tensors", "Theory"]


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by pool and in total; None where nobody knows. Pools peak at different moments, and need not add up."""

    rss_bytes: int | None
    heap_bytes: int | None
    file_bytes: int | None
    pinned_bytes: int | None
    vram_bytes: int | None


@dataclass(frozen=True, slots=True)
class BillLine:
    """A part of a peak: of which pool, None for what nothing explains."""

    item: str
    pool: str | None
    nbytes: int


@dataclass(frozen=True, slots=True)
class Theory:
    """What the checkpoint's headers say that the load must cost."""

    floor_bytes: int
    peak: Memory
    bill: tuple[BillLine, ...]


@dataclass(frozen=True, slots=True)
class Tensors:
    """How many tensors there were, and what became of them; None where nobody has looked."""

    expected: int | None
    materialised: int | None
    verified: int | None
    mismatched: int | None
    missing: int | None
    unexpected: int | None


@dataclass(frozen=True, slots=True)
class Pattern:
    """Something that code of yours does and need not do, what it costs, and the strategy that does without."""

    id: str
    words: str
    nbytes: int
    strategy: str


@dataclass(frozen=True, slots=True)
class RunResult:
    """One run.

    Attributes:
        strategy: its id; "script" for a script of yours, "record" for a recording in your own process.
        outcome: "completed", "oom_killed", "out_of_memory", "failed", "signalled", "timed_out", "cancelled" or
            "refused".
        message: in a sentence what there is to say of it; may be empty.
        phase: in which it died; None where it did not.
        tensor: at which it died.
        returned_s: seconds until the loading code returned; None where it did not.
        resident_s: seconds until every page of the model had been touched; None for code of yours, where none is.
        floor_bytes: what the loaded model must occupy; None if unknown.
        peak: the highest from the baseline to the end of the load.
        exact: whether `peak.rss_bytes` is the kernel's high-water mark rather than the highest reading.
        steady: what is left when the load is over.
        theory: None for code of yours: no header tells what it does.
        bill: what the peak was made of; its lines sum to `peak.rss_bytes`. Empty where the load never began.
        tensors: their numbers.
        patterns: of code of yours.
        capture: the file that `meminspect view`, `export` and others open.
        document: RUN of the JSON contract, with all there is.
    """

    strategy: str
    outcome: str
    message: str
    phase: str | None
    tensor: str | None
    returned_s: float | None
    resident_s: float | None
    floor_bytes: int | None
    peak: Memory
    exact: bool
    steady: Memory
    theory: Theory | None
    bill: tuple[BillLine, ...]
    tensors: Tensors
    patterns: tuple[Pattern, ...]
    capture: Path
    document: Mapping[str, Any] = field(repr=False, hash=False, compare=False)

    @property
    def completed(self) -> bool:
        """Whether it came to its end."""
        return self.outcome == "completed"

    @classmethod
    def from_document(cls, run: Mapping[str, Any]) -> RunResult:
        """The result of a run's document."""
        died_at, script = run["died_at"] or {}, run["script"] or {"patterns": [], "floor_bytes": None}
        theory = _theory(run["theory"])
        return cls(
            strategy=run["strategy"],
            outcome=run["outcome"],
            message=run["message"],
            phase=died_at.get("phase"),
            tensor=died_at.get("tensor"),
            returned_s=run["returned_s"],
            resident_s=run["resident_s"],
            floor_bytes=script["floor_bytes"] if theory is None else theory.floor_bytes,
            peak=_memory(run["peak"]),
            exact=run["peak_bracket_bytes"]["rss_bytes"] == 0,
            steady=_memory(run["steady"]),
            theory=theory,
            bill=_bill(run["bill"]),
            tensors=Tensors(**{name: run["tensors"].get(name) for name in Tensors.__slots__}),
            patterns=tuple(
                Pattern(one["pattern"], one["words"], one["bytes"], one["strategy"]) for one in script["patterns"]
            ),
            capture=Path(run["capture"]),
            document=run,
        )


def _memory(pools: Mapping[str, Any]) -> Memory:
    vram = pools.get("vram_used_bytes")
    return Memory(
        pools.get("rss_bytes"),
        pools.get("heap_bytes"),
        pools.get("file_bytes"),
        pools.get("pinned_bytes"),
        pools.get("vram_reserved_bytes") if vram is None else vram,
    )


def _bill(lines: list[dict[str, Any]] | None) -> tuple[BillLine, ...]:
    return tuple(BillLine(line["item"], line["pool"], line["bytes"]) for line in lines or ())


def _theory(theory: Mapping[str, Any] | None) -> Theory | None:
    if theory is None:
        return None
    peak = {**theory["peak"], "rss_bytes": theory["peak_rss_bytes"]}
    return Theory(theory["floor_bytes"], _memory(peak), _bill(theory["bill"]))
