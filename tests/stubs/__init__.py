"""Stand-ins for libraries that the tests' machines lack, compiled from the sources beside this file."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pytest

__all__ = ["StubNvml", "build_stub_nvml", "compiler"]

_HERE: Final = Path(__file__).parent
_SONAME: Final = "libnvidia-ml.so.1"


def compiler() -> str | None:
    """The C compiler of this machine, if any."""
    return next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)


def build_stub_nvml(folder: Path) -> Path:
    """Compile the stub into a folder, under the name that the driver's library has.

    Raises:
        RuntimeError: there is no C compiler.
    """
    command = compiler()
    if command is None:
        raise RuntimeError("no C compiler")
    library = folder / _SONAME
    options = ["-shared", "-fPIC", "-Wall", "-Werror", f"-Wl,-soname,{_SONAME}"]
    subprocess.run([command, *options, "-o", str(library), str(_HERE / "nvml.c")], check=True)
    return library


class StubNvml:
    """The stub's answers: change them at any time, the next call into the library sees it.

    Args:
        library: what `build_stub_nvml` made.
        answers: the file to write the answers to.
    """

    def __init__(self, library: Path, answers: Path) -> None:
        self.library = library
        self._file = answers
        self._answers: dict[str, str] = {"count": "0"}
        self._write()

    def gpu(
        self,
        index: int = 0,
        *,
        name: str = "NVIDIA Stub",
        total_bytes: int = 80 << 30,
        used_bytes: int = 0,
        processes: dict[int, int | None] | list[tuple[int, int | None]] | None = None,
        uuid: str = "",
        traffic: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        """Plug a GPU in, or change all its answers; the driver does not tell of a process that uses None.

        `traffic` is how busy it is in percent, and KiB/s to it and from it.
        """
        self._answers |= self._described(index, name, uuid or f"GPU-{index}", total_bytes, used_bytes, processes)
        self._answers |= {
            f"{index}.{key}": str(value) for key, value in zip(("busy", "rx", "tx"), traffic, strict=True)
        }
        self._answers["count"] = str(max(int(self._answers["count"]), index + 1))
        self._write()

    def cut(self, index: int, slices: dict[int, int], *, total_bytes: int = 10 << 30, used_bytes: int = 0) -> None:
        """Cut a GPU into MIG devices, by the place that each has and the number, beyond all GPUs', that it goes by."""
        self._answers[f"{index}.mig"] = "7"
        for place, number in slices.items():
            self._answers[f"{index}.mig.{place}"] = str(number)
            self._answers |= self._described(
                number, "NVIDIA Stub MIG 1g.10gb", f"MIG-{number}", total_bytes, used_bytes, None
            )
        self._write()

    def later(self, readings: int, **answers: int | str) -> None:
        """From so many readings of any memory on answer otherwise: `later(5, **{"0.used": 900})`."""
        self._answers |= {f"@{readings} {key}": str(value) for key, value in answers.items()}
        self._write()

    @staticmethod
    def _described(
        index: int,
        name: str,
        uuid: str,
        total_bytes: int,
        used_bytes: int,
        processes: dict[int, int | None] | list[tuple[int, int | None]] | None,
    ) -> dict[str, str]:
        entries = processes.items() if isinstance(processes, dict) else processes or ()
        listed = " ".join(f"{pid}:{'na' if used is None else used}" for pid, used in entries)
        answers = {"name": name, "uuid": uuid, "total": total_bytes, "used": used_bytes, "processes": listed}
        return {f"{index}.{key}": str(value) for key, value in answers.items()}

    def fail(self, function: str, code: int, index: int | None = None) -> None:
        """Let a function, named without its version, fail with an `NVML_ERROR_…`; on one GPU where it concerns GPUs."""
        self._answers[function if index is None else f"{index}.{function}"] = str(code)
        self._write()

    def environment(self) -> dict[str, str]:
        """What makes a process started with these variables find the stub as the driver's library."""
        return {"LD_LIBRARY_PATH": str(self.library.parent), "MEMINSPECT_STUB_NVML": str(self._file)}

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Make this process's pynvml use the stub until the patch is undone."""
        import pynvml

        patch.setenv("MEMINSPECT_STUB_NVML", str(self._file))
        patch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(self.library)))
        patch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})

    def _write(self) -> None:
        # Replaced as a whole: the library may be reading it in another process.
        draft = self._file.with_suffix(".draft")
        draft.write_text("".join(f"{key} {value}\n" for key, value in self._answers.items()))
        draft.replace(self._file)
