"""Imports are told around their execution, and the modules know nothing of it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING

import pytest

from meminspect.worker.imports import watched_imports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = ("a_heavy_one", "another_heavy_one", "a_light_one")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    heavy = tmp_path / "a_heavy_one"
    heavy.mkdir()
    (heavy / "__init__.py").write_text("import a_light_one, another_heavy_one\nfrom a_heavy_one import part\n")
    (heavy / "part.py").write_text("x = 1\n")
    (heavy / "later.py").write_text("y = 2\n")
    (tmp_path / "another_heavy_one.py").write_text("loader = __loader__\n")
    (tmp_path / "a_light_one.py").write_text("")
    (tmp_path / "a_broken_one.py").write_text("raise ImportError('no such library')")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in (*NAMES, "a_broken_one")]:
        del sys.modules[name]


@pytest.mark.usefixtures("packages")
def test_an_import_is_told_with_the_packages_that_it_brings_along_and_later_its_parts() -> None:
    told: list[str] = []

    with watched_imports(NAMES[:2], lambda name: told.append(f"+{name}"), lambda name, _: told.append(f"-{name}")):
        importlib.import_module("a_heavy_one")
        importlib.import_module("a_heavy_one.later")
    importlib.import_module("a_heavy_one")

    assert told == [
        "+a_heavy_one", "+another_heavy_one", "-another_heavy_one", "-a_heavy_one",
        "+a_heavy_one.later", "-a_heavy_one.later",
    ]  # fmt: skip
    loader = sys.modules["another_heavy_one"].loader
    assert type(loader).__module__ == "_frozen_importlib_external"
    assert not any(type(finder).__module__ == "meminspect.worker.imports" for finder in sys.meta_path)


@pytest.mark.usefixtures("packages")
def test_an_import_that_fails_is_told_as_failed_and_fails_as_ever() -> None:
    ends: list[bool] = []

    with (
        watched_imports(["a_broken_one"], lambda _: None, lambda _, done: ends.append(done)),
        pytest.raises(ImportError, match="no such library"),
    ):
        importlib.import_module("a_broken_one")

    assert ends == [False]


@pytest.mark.usefixtures("packages")
def test_who_only_asks_whether_there_is_a_module_finds_it_and_nothing_is_told() -> None:
    told: list[str] = []

    with watched_imports(NAMES, told.append, lambda _name, _done: None):
        assert importlib.util.find_spec("another_heavy_one") is not None
        assert importlib.util.find_spec("no_such_module") is None

    assert told == []
