"""What a load does to page cache and storage, and how long is waited for it: read at the baseline and at *resident*."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from meminspect.page_cache import Residency, cached_fraction
from meminspect.sampling.pressure import pressure_books

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meminspect.checkpoint.model import CheckpointFile
    from meminspect.worker.recorder import Recorder

__all__ = ["StorageBooks"]

_MOST_FILES: Final = 10_000  # whose shares find room in one report
_DIGITS: Final = 6  # of a share: finer than a page of most files


class StorageBooks:
    """Opened just before the baseline; reports at once what was there, so that also a run that dies has it.

    Args:
        files: the checkpoint's; none where nobody knows what will be loaded.
        recorder: what it reports to.
    """

    def __init__(self, files: Sequence[CheckpointFile], recorder: Recorder) -> None:
        self._files = files
        self._recorder = recorder
        self._residencies = self._look()
        self._books = pressure_books()
        self._pressure, self._io = self._waited(), recorder.books()
        self._report(None, None, None)

    def close(self) -> None:
        """Report what has become of it."""
        io, pressure = self._recorder.books(), self._waited()
        self._report(self._look(), io, pressure)

    def _report(
        self, residencies: list[Residency] | None, io: dict[str, int | None] | None, pressure: dict[str, int] | None
    ) -> None:
        self._recorder.report("io", {"before": self._io, "after": io})
        scope = None if self._books is None else self._books.scope
        self._recorder.report("pressure", {"scope": scope, "before": self._pressure, "after": pressure})
        if self._files:
            self._recorder.report("cache", self._cache(residencies))

    def _look(self) -> list[Residency]:
        return [cached_fraction(file.path) for file in self._files]

    def _waited(self) -> dict[str, int] | None:
        pressure = None if self._books is None else self._books.read()
        return None if pressure is None else pressure._asdict()

    def _cache(self, after: list[Residency] | None) -> dict[str, Any]:
        """The shares of all files together and, unless they are too many, of each; reasons with their files."""
        reasons: dict[str, list[int]] = {}
        for number, residency in enumerate(self._residencies[:_MOST_FILES]):
            if residency.fraction is None:
                reasons.setdefault(residency.reason, []).append(number)
        return {
            "fraction_before": self._whole(self._residencies),
            "fraction_after": None if after is None else self._whole(after),
            "before": _rounded(self._residencies),
            "after": None if after is None else _rounded(after),
            "reasons": reasons,
        }

    def _whole(self, residencies: Sequence[Residency]) -> float | None:
        """How much of the checkpoint is in the page cache; None where that is not known of every file."""
        cached = 0.0
        for file, residency in zip(self._files, residencies, strict=True):
            if residency.fraction is None:
                return None
            cached += residency.fraction * file.nbytes
        return cached / (sum(file.nbytes for file in self._files) or 1)


def _rounded(residencies: Sequence[Residency]) -> list[float | None]:
    fractions = [residency.fraction for residency in residencies[:_MOST_FILES]]
    return [None if fraction is None else round(fraction, _DIGITS) for fraction in fractions]
