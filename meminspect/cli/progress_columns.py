"""Columns of rich's progress bars that write bytes and rates as the rest of the program does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import ProgressColumn
from rich.text import Text

from meminspect.units import format_bytes, format_rate

if TYPE_CHECKING:
    from rich.progress import Task

__all__ = ["BytesColumn", "RateColumn"]


class BytesColumn(ProgressColumn):
    """Bytes done and bytes in all: ``317.20 MiB of 3.70 GiB``."""

    def render(self, task: Task) -> Text:
        """Draw a task's bytes."""
        return Text(f"{format_bytes(task.completed)} of {format_bytes(task.total)}")


class RateColumn(ProgressColumn):
    """Bytes per second, once there is a rate."""

    def render(self, task: Task) -> Text:
        """Draw a task's rate."""
        return Text("" if task.speed is None else format_rate(task.speed))
