"""Somebody without rights in a container that shows little: what can't be had is null with its reason."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from command_line import COMMAND, Home

from meminspect.synthesis import tiny_checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

NOBODY = 65534
REPOSITORY = Path(__file__).parents[2]
COVERED = ("/sys/fs/cgroup", "/proc/pressure")
UNREADABLE = ("/dev/kmsg", "/proc/vmstat", "/proc/meminfo")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.folder.mkdir()
    os.chown(made.folder, NOBODY, NOBODY)
    return made


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Root's, for anybody to read."""
    return tiny_checkpoint("llama", "hf", "safetensors", "float16", tmp_path / "checkpoint")


@pytest.fixture
def container(tmp_path: Path, home: Home) -> tuple[str, ...]:
    """The wrapper that starts a command as nobody, without cgroups, pressure or log, and with a read-only procfs."""
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("setpriv"):
        pytest.skip("only root becomes somebody else")
    tmp_path.chmod(0o755)
    needed = [Path(sys.base_prefix), Path(sys.prefix), REPOSITORY, tmp_path]
    script = "\n".join((
        "set -e", *reachable([path.resolve() for path in needed]),
        "touch /mnt/nothing; chmod 0 /mnt/nothing",
        *(f"[ ! -e {place} ] || mount -t tmpfs tmpfs {place}" for place in COVERED),
        *(f"[ ! -e {place} ] || mount --bind /mnt/nothing {place}" for place in UNREADABLE),
        "mount -o remount,bind,ro /proc",
        f'exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --bounding-set=-all --inh-caps=-all "$@"',
    ))  # fmt: skip
    wrapper = ("unshare", "--mount", "sh", "-c", script, "sh")
    tried = subprocess.run([*wrapper, str(COMMAND), "--version"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no such container here: {tried.stderr}")
    return wrapper


def reachable(paths: Sequence[Path]) -> list[str]:
    """Shell commands that put folders which others cannot reach under folders that they can pass."""
    outer = [path for path in paths if not any(path != other and path.is_relative_to(other) for other in paths)]
    closed = {
        path: next((above for above in reversed(path.parents) if not above.stat().st_mode & 0o001), None)
        for path in dict.fromkeys(outer)
    }
    moved = [(f"/mnt/{number}", shlex.quote(str(path))) for number, path in enumerate(closed) if closed[path]]
    covers = [shlex.quote(str(above)) for above in dict.fromkeys(closed.values()) if above]
    return [
        "mount -t tmpfs -o mode=755 tmpfs /mnt",
        *(f"mkdir {aside} && mount --bind {path} {aside}" for aside, path in moved),
        *(f"mount -t tmpfs -o mode=755 tmpfs {cover}" for cover in covers),
        *(f"mkdir -p {path} && mount --move {aside} {path}" for aside, path in moved),
    ]


def test_given_a_container_that_shows_little_when_run_then_what_it_hides_is_null_with_a_reason(
    container: tuple[str, ...], home: Home, checkpoint: Path
) -> None:
    done = home.meminspect("run", "--ckpt", checkpoint, "-s", "naive", "--force", "--json", wrapper=container)

    assert done.status == 0, done.stderr
    machine, run = done.document["machine"], done.run
    assert machine["memory_limit_bytes"] is None
    assert machine["reasons"]["memory_limit_bytes"].startswith("no memory cgroup can be seen")
    assert machine["ram_total_bytes"] > machine["ram_available_bytes"] > 0
    assert machine["reasons"]["ram_available_bytes"].startswith("only what is free")
    assert machine["swap_free_bytes"] is None
    assert machine["reasons"]["swap_free_bytes"] == "/proc/meminfo cannot be read here"
    for file in done.document["checkpoint"]["files"]:
        assert file["cached_fraction"] is None
        assert "owner" in file["cached_reason"]

    assert run["outcome"] == "completed"
    assert run["tensors"]["verified"] == run["tensors"]["expected"] > 0
    assert run["baseline"]["rss_bytes"] > run["baseline"]["heap_bytes"] > 0
    unknown: dict[str, tuple[Any, str]] = {
        "cache": (run["cache"]["fraction_before"], run["cache"]["reason"]),
        "pressure": (run["io"]["pressure"], run["io"]["pressure_reason"]),
        "bracket": (run["peak_bracket_bytes"]["rss_bytes"], run["peak_bracket_reason"]),
        "device": (run["peak"]["vram_used_bytes"], run["vram_reason"]),
    }
    assert {name: figure for name, (figure, _) in unknown.items() if figure is not None} == {}
    reasons = {name: reason for name, (_, reason) in unknown.items()}
    assert "owner" in reasons["cache"]
    assert "pressure" in reasons["pressure"]
    assert "clear_refs" in reasons["bracket"]
    assert reasons["device"] == "the load uses no device"
    assert "RuntimeWarning" not in done.stderr


def test_given_such_a_container_when_inspected_then_not_available_is_said(
    container: tuple[str, ...], home: Home, checkpoint: Path
) -> None:
    done = home.meminspect("inspect", "--ckpt", checkpoint, wrapper=container, COLUMNS="200")

    assert (done.status, done.stderr) == (0, "")
    assert "share in page cache not available" in done.stdout
    assert "cgroup limit not available" in done.stdout
    assert "in cache: not available, the kernel tells only the file's owner" in done.stdout


def test_given_such_a_container_when_the_worker_is_killed_then_nobody_claims_to_know_why(
    container: tuple[str, ...], home: Home, checkpoint: Path
) -> None:
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    site = home.folder / "site"
    site.mkdir()
    (site / "safetensors.py").write_text(kill)

    done = home.meminspect(
        "run", "--ckpt", checkpoint, "-s", "naive", "--json", wrapper=container, PYTHONPATH=f"{site}:{REPOSITORY}"
    )

    assert done.status == 4
    assert done.run["outcome"] == "signalled"
    assert done.run["evidence"] is None
    assert "neither the kernel's log nor a counter of OOM kills can be read here" in done.run["message"]
