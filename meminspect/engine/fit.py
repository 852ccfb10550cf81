"""Finds the smallest memory limit at which a strategy still completes: every probe is a real run under one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from meminspect.analysis.verdict import PROCESS_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Probe = Callable[["int | None"], Mapping[str, Any]]

__all__ = ["Answer", "Fit", "Search", "fit"]

Answer: TypeAlias = Literal["found", "does_not_suffice", "failed", "interrupted"]

_OF_MEMORY: Final = ("oom_killed", "out_of_memory")
_SURE: Final = 3  # per cent by which theory is wrong at most, where it is right
_TRIES: Final = 3  # of a probe whose limit did not hold, because somebody else had read the checkpoint


class Search:
    """Bisection: which limit to try next, given what has died and what has completed so far.

    It begins around a guess and goes away from it in steps that double, until one limit kills and a larger one does
    not; then it halves the distance. The number of probes is logarithmic in both distances.

    Args:
        guess_bytes: where the smallest limit is supposed to be.
        tolerance_bytes: how far apart the two ends may be in the end.
        least_bytes: less is never tried.
        most_bytes: more is never tried.
    """

    def __init__(self, guess_bytes: int, tolerance_bytes: int, least_bytes: int, most_bytes: int) -> None:
        self.dies_at: int | None = None
        self.completes_at: int | None = None
        self._tolerance = max(1, tolerance_bytes)
        self._bounds = least_bytes, max(least_bytes, most_bytes)
        self._guess = guess_bytes
        self._step = max(guess_bytes * _SURE // 100, self._tolerance)

    def next(self) -> int | None:
        """The next limit to try; None once the ends are close, or a bound has been reached."""
        least, most = self._bounds
        if self.dies_at is not None and self.completes_at is not None:
            gap = self.completes_at - self.dies_at
            return self.dies_at + gap // 2 if gap > self._tolerance else None
        if self.dies_at is not None:
            return None if self.dies_at >= most else min(most, max(self._guess, self.dies_at) + self._step)
        if self.completes_at is not None:
            return None if self.completes_at <= least else max(least, min(self._guess, self.completes_at) - self._step)
        return min(most, max(least, self._guess + self._step))

    def learn(self, limit_bytes: int, *, completed: bool) -> None:
        """Take a probe's end into account."""
        if self.dies_at is not None or self.completes_at is not None:
            self._step *= 2
        if completed:
            self.completes_at = limit_bytes
        else:
            self.dies_at = limit_bytes


@dataclass
class Fit:
    """What is known of one strategy's smallest limit, while it is searched for and in the end.

    Args:
        strategy: its id.
        tolerance_bytes: how far apart the ends may be.
        usable_bytes: what the machine has to give: more than this is never tried.
        answer: how it ended; None while it is going on.
        message: why there is no limit, or what is to be said of it.
        dies_at_bytes: the largest limit that killed it.
        completes_at_bytes: the smallest limit at which it completed.
        theory: the unconfined theory, THEORY of the contract.
        baseline_bytes: what of a worker counts against a limit before it loads, as measured; None: not measured.
        free: RUN of the contract, cold and without a limit.
        best: the same, at the smallest limit at which it completed.
        probes: limit and outcome of every run under a limit, in order.
    """

    strategy: str
    tolerance_bytes: int
    usable_bytes: int
    answer: Answer | None = None
    message: str = ""
    dies_at_bytes: int | None = None
    completes_at_bytes: int | None = None
    theory: Mapping[str, Any] | None = None
    baseline_bytes: int | None = None
    free: Mapping[str, Any] | None = None
    best: Mapping[str, Any] | None = None
    probes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def theory_bytes(self) -> int | None:
        """The theory's smallest limit: what cannot be reclaimed at the peak, beside the process itself."""
        if self.theory is None:
            return None
        peak = self.theory["peak"]
        process_bytes = PROCESS_BYTES if self.baseline_bytes is None else self.baseline_bytes
        return int((peak["heap_bytes"] or 0) + (peak["pinned_bytes"] or 0) + process_bytes)

    @property
    def _alike(self) -> bool:
        """Whether both times are from the same page cache."""
        return _cache_state(self.best) == _cache_state(self.free)

    def document(self) -> dict[str, Any]:
        """FIT of `meminspect.fit/1`: every key is there, what is unknown is None."""
        at_limit_s, free_s = (None if run is None else run["resident_s"] for run in (self.best, self.free))
        limit = None if self.best is None else self.best["limit"]
        found, theory_bytes = self.completes_at_bytes, self.theory_bytes
        return {
            "strategy": self.strategy,
            "answer": self.answer,
            "message": self.message,
            "limit_bytes": found if self.answer == "found" else None,
            "dies_at_bytes": self.dies_at_bytes,
            "completes_at_bytes": found,
            "theory_bytes": theory_bytes,
            "baseline": {
                "bytes": PROCESS_BYTES if self.baseline_bytes is None else self.baseline_bytes,
                "source": "assumed" if self.baseline_bytes is None else "measured",
            },
            "usable_bytes": self.usable_bytes,
            "difference_bytes": found - theory_bytes if self.answer == "found" and found and theory_bytes else None,
            "resident_s": at_limit_s,
            "unlimited_resident_s": free_s,
            "slowdown": at_limit_s / free_s if at_limit_s is not None and free_s and self._alike else None,
            "cache": {"at_limit": _cache_state(self.best), "unlimited": _cache_state(self.free)},
            "mechanism": None if limit is None else limit["mechanism"],
            "confined": None if limit is None else limit["confined"],
            "note": None if limit is None else limit["note"],
            "probes": self.probes,
            "capture": None if self.best is None else self.best["capture"],
        }


def _cache_state(run: Mapping[str, Any] | None) -> str | None:
    state: str | None = None if run is None else run["cache"]["state"]
    return state


def fit(found: Fit, probe: Probe, least_bytes: int) -> None:
    """Search for a strategy's smallest limit; what is known is in `found` at any moment, also after an exception.

    Args:
        found: to be filled in.
        probe: runs the strategy from a cold page cache under a limit, or under none, and returns RUN.
        least_bytes: less than this is never tried.
    """
    found.answer = "interrupted"
    free = probe(None)
    found.theory = free["theory"] or found.theory
    found.baseline_bytes = free["baseline"]["heap_bytes"]
    if free["outcome"] == "completed":
        found.free = free
    elif free["outcome"] not in (*_OF_MEMORY, "refused"):
        found.answer, found.message = "failed", free["message"]
        return
    if found.theory_bytes is None or (free["outcome"] != "completed" and found.theory_bytes > found.usable_bytes):
        found.answer, found.message = "does_not_suffice", free["message"]
        return
    search = Search(found.theory_bytes, found.tolerance_bytes, least_bytes, found.usable_bytes)
    for limit_bytes in iter(search.next, None):
        run = _probed(found, probe, limit_bytes)
        if run["outcome"] not in ("completed", *_OF_MEMORY):
            found.answer, found.message = "failed", run["message"]
            return
        search.learn(limit_bytes, completed=run["outcome"] == "completed")
        if run["outcome"] == "completed":
            found.best = run
        found.dies_at_bytes, found.completes_at_bytes = search.dies_at, search.completes_at
    found.answer, found.message = _end(found)


def _probed(found: Fit, probe: Probe, limit_bytes: int) -> Mapping[str, Any]:
    """A run under a limit; where that did not hold, since others keep reading the checkpoint, one more."""
    run: Mapping[str, Any] = {}
    for run in _runs(probe, limit_bytes):
        found.probes.append(
            {"limit_bytes": limit_bytes, "outcome": run["outcome"], "message": run["message"],
             "resident_s": run["resident_s"], "confined": (run["limit"] or {}).get("confined")}
        )  # fmt: skip
        if run["outcome"] != "completed" or (run["limit"] or {}).get("confined") is not False:
            break
    return run


def _runs(probe: Probe, limit_bytes: int) -> Iterator[Mapping[str, Any]]:
    return (probe(limit_bytes) for _ in range(_TRIES))


def _end(found: Fit) -> tuple[Answer, str]:
    if found.best is None:
        place = found.probes[-1]["message"] if found.probes else ""
        return "does_not_suffice", place
    limit = found.best["limit"] or {}
    if limit.get("confined") is False:
        return "found", "the limit did not hold: others had read the checkpoint before, and their pages are not counted"
    return "found", found.best["message"]
