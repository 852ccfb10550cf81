"""Figures of the benchmarks, printed as one table: `pytest tests/benchmarks --benchmark-only -s`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.append(str(Path(__file__).parents[1] / "integration"))  # its helpers start commands and write checkpoints

from checkpoint_variants import sound
from command_line import Home

if TYPE_CHECKING:
    from collections.abc import Callable

    Figure = Callable[[str, str], None]

_FIGURES = pytest.StashKey[list[tuple[str, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    options = parser.getgroup("benchmarks of stream")
    options.addoption("--pairs", type=int, default=15, help="rounds in which every contender loads once")
    options.addoption("--peers-python", default=None, help="an interpreter that has the other loaders")
    options.addoption("--checkpoint-bytes", type=float, default=2.7e9, help="of the checkpoint that is loaded")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FIGURES] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash[_FIGURES]
    if figures:
        terminalreporter.section("figures")
        width = max(len(name) for name, _ in figures)
        for name, value in figures:
            terminalreporter.line(f"{name:<{width}}  {value}")


@pytest.fixture(scope="session")
def figure(request: pytest.FixtureRequest) -> Figure:
    """Adds a line to the table: a name and what was measured, with its unit."""
    figures = request.config.stash[_FIGURES]
    return lambda name, value: figures.append((name, value))


@pytest.fixture(scope="session")
def half_a_gigabyte(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 MB of float16 in one of Meta's files."""
    return sound(tmp_path_factory.mktemp("benchmark") / "llama", "meta", parameters=250_000_000)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A user's home of its own."""
    return Home(tmp_path_factory.mktemp("home"))
