"""A strategy's story in text: its stages, and theory's timeline above them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich.text import Text

from meminspect.analysis.words import PHASE_WORDS
from meminspect.renderables.palette import STYLES
from meminspect.renderables.texts import safe
from meminspect.renderables.timeline import UNICODE, Picture, axis_for, draw
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions, RenderResult

    from meminspect.analysis.explanation import Explanation, Stage
    from meminspect.renderables.timeline import Glyphs
    from meminspect.theory.ledger import Theory

__all__ = ["Story"]

_MOST_WIDTH: Final = 100
_LEAST_WIDTH: Final = 40  # columns; below it only the stages are told
_HEIGHT: Final = 13


@dataclass(frozen=True)
class Story:
    """The stages, one a line, and below them the ledger's timeline as wide as there is room.

    The picture's width stands for the bytes that are moved: nothing has been measured.
    """

    explanation: Explanation
    theory: Theory
    glyphs: Glyphs = UNICODE

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        yield from _stages(self.explanation)
        width = min(options.max_width, _MOST_WIDTH)
        if width >= _LEAST_WIDTH:
            yield Text()
            yield from self._picture(width)

    def _picture(self, width: int) -> Iterator[Text]:
        explanation, peak_bytes = self.explanation, self.theory.peak_rss_bytes
        picture = Picture(
            explanation.series,
            max(explanation.work_bytes, 1),
            axis_for([peak_bytes], None),
            peak_bytes,
            None,
            tuple((stage.begin_bytes, ", ".join(stage.phases)) for stage in explanation.stages),
            vram_total_bytes=explanation.vram_bytes or None,
            timed=False,
        )
        for line in draw(picture, width, _HEIGHT, glyphs=self.glyphs):
            yield Text.assemble(*((segment.text, segment.style or "") for segment in line))


def _stages(explanation: Explanation) -> Iterator[Text]:
    """Each with its number, what is done, and what is held when it holds most."""
    words = [_words(stage) for stage in explanation.stages]
    width = max(map(len, words), default=0)
    for number, (stage, said) in enumerate(zip(explanation.stages, words, strict=True), 1):
        line = safe(f"{number:>3}. {said:<{width}}  ")
        for place, (pool, nbytes) in enumerate(stage.peak.items()):
            line.append(" + " if place else "", "quiet")
            line.append(f"{format_bytes(nbytes)} {pool.name.lower()}", STYLES[pool.name.lower()])
        yield line if stage.peak else line.append("nothing yet", STYLES["quiet"])


def _words(stage: Stage) -> str:
    words = " and ".join(PHASE_WORDS.get(phase, phase) for phase in stage.phases)
    return words if stage.turns == 1 else f"{words}, {stage.turns:,} times"
