"""Fixtures that several folders of tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from stubs import StubNvml, build_stub_nvml, compiler

from meminspect.units import use_decimal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def stub_nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled stub of libnvidia-ml.so.1."""
    if compiler() is None:
        pytest.skip("no C compiler to build the NVML stub with")
    return build_stub_nvml(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def stub_nvml(stub_nvml_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubNvml:
    """A machine without GPUs as NVML sees it; plug some in with `gpu`. This process's pynvml uses it."""
    stub = StubNvml(stub_nvml_library, tmp_path / "nvml-answers")
    stub.install(monkeypatch)
    return stub


@pytest.fixture(autouse=True)
def no_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is installed here, this process sees none of the libraries that some strategies call."""
    monkeypatch.setattr("meminspect.sampling.interpreter._version_here", lambda _: None)


@pytest.fixture(autouse=True)
def binary_units() -> Iterator[None]:
    """Whatever units a test asks for, the next one begins with binary ones."""
    yield
    use_decimal(False)
