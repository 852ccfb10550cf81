"""`meminspect run` where something goes wrong: memory, disks, files that change, and names that nobody expects."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from command_line import Done, Home, finished, memory_limit, phase_of, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from checkpoint_variants import Variants

# With 200 MB of tensors `naive` needs 570 MiB beside some 310 MiB for the interpreter with torch.
DATA_LIMIT_KIB = 650_000
CGROUP_LIMIT_BYTES = 700 << 20
UNKNOWN_USER = "54321"


def names_the_place(run: dict[str, Any], checkpoint: Path) -> bool:
    """Whether phase and tensor of a death are in its message, for a person, and beside it, for a machine."""
    died_at = run["died_at"]
    assert died_at["phase"] in run["message"]
    assert died_at["tensor"] in run["message"]
    return checkpoint.exists()


def test_given_less_memory_than_needed_when_the_allocator_fails_then_it_is_out_of_memory(
    variants: Variants, home: Home
) -> None:
    limited = ("sh", "-c", f'ulimit -d {DATA_LIMIT_KIB} && exec "$@"', "sh")
    done = home.meminspect(
        "run", "--ckpt", variants["big"], "-s", "naive", "--json", wrapper=limited, OMP_NUM_THREADS="1"
    )

    assert done.status == 3, done.stderr
    run = done.run
    assert run["outcome"] == "out_of_memory"
    assert run["died_at"]["phase"] in ("build", "read")
    assert names_the_place(run, variants["big"])
    assert run["message"].startswith("an allocation of ")
    assert "that ulimit -d sets (RuntimeError)" in run["message"]
    assert run["ceiling"] == {
        "kind": "ulimit", "bytes": DATA_LIMIT_KIB << 10, "name": "ulimit -d", "available_bytes": None,
    }  # fmt: skip
    assert 0 < run["in_use"]["heap_bytes"] <= run["peak"]["heap_bytes"]
    assert run["better"]["strategy"] == "mmap-assign"
    assert 0 < run["peak"]["rss_bytes"] < run["theory"]["peak_rss_bytes"]
    assert sum(line["bytes"] for line in run["bill"]) == run["peak"]["rss_bytes"]
    assert run["returned_s"] is run["resident_s"] is run["tensors"]["verified"] is None


@pytest.mark.slow
def test_given_a_memory_cgroup_when_the_kernel_kills_the_worker_then_phase_and_tensor_are_named(
    variants: Variants, home: Home
) -> None:
    with memory_limit(CGROUP_LIMIT_BYTES) as inside:
        done = home.meminspect(
            "run", "--ckpt", variants["big"], "-s", "naive", "--json", "--force", wrapper=inside, OMP_NUM_THREADS="1"
        )

    assert done.status == 3, done.stderr
    run = done.run
    assert run["outcome"] == "oom_killed"
    assert run["died_at"]["phase"] in ("build", "read")
    assert names_the_place(run, variants["big"])
    assert "OOM killer" in run["message"]
    assert "the limit of 700.00 MiB of the cgroup" in run["message"]
    assert (run["ceiling"]["kind"], run["ceiling"]["bytes"]) == ("cgroup", CGROUP_LIMIT_BYTES)
    assert 0 < run["in_use"]["heap_bytes"] < CGROUP_LIMIT_BYTES
    assert run["evidence"]
    assert done.document["machine"]["memory_limit_bytes"] == CGROUP_LIMIT_BYTES


def test_given_a_memory_cgroup_smaller_than_the_prediction_then_the_run_is_refused(
    variants: Variants, home: Home
) -> None:
    with memory_limit(CGROUP_LIMIT_BYTES // 2) as inside:
        done = home.meminspect("run", "--ckpt", variants["big"], "-s", "naive", "--json", wrapper=inside)

    assert (done.status, done.run["outcome"]) == (4, "refused")


@pytest.mark.slow
def test_given_a_prediction_that_just_fits_then_a_run_that_is_not_refused_is_not_killed(
    variants: Variants, home: Home
) -> None:
    """What the worker takes before it loads anything counts too."""
    with memory_limit(CGROUP_LIMIT_BYTES) as inside:
        done = home.meminspect("run", "--ckpt", variants["big"], "-s", "naive", "--json", wrapper=inside)

    assert (done.status, done.run["outcome"]) == (4, "refused"), done.run["message"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of so many KiB: where only root may, and only if the kernel lets it."""
    with contextlib.ExitStack() as stack:

        def mount(kib: int) -> Path:
            disk = tmp_path / f"disk-{kib}"
            disk.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(disk)]
            try:
                subprocess.run(command, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"this user mounts no file systems: {error}")
            stack.callback(subprocess.run, ["umount", "-l", str(disk)], check=True)
            return disk

        yield mount


@pytest.mark.parametrize(
    "kib",
    [pytest.param(4, marks=pytest.mark.slow), pytest.param(100, marks=pytest.mark.slow), 350],
    ids=["at once", "before the worker", "during the run"],
)
def test_given_a_disk_that_fills_up_then_one_line_says_so_and_nothing_is_left_running(
    variants: Variants, home: Home, small_disk: Callable[[int], Path], kib: int
) -> None:
    disk = small_disk(kib)

    done = home.meminspect("run", "--ckpt", variants["meta"], "-s", "naive", "--out", disk / "run.meminspect")

    assert done.status in (2, 4)
    said = " ".join((done.stdout + done.stderr).split())
    assert "cannot write" in said
    assert "the capture" in said
    assert "full" in said
    for internal in ("sqlite3.", "Traceback", "defect of meminspect", "still running"):
        assert internal not in done.stdout + done.stderr
    assert not home.processes()


def interfered(home: Home, checkpoint: Path, phase: str, interfere: Callable[[], object], strategy: str) -> Done:
    """A run whose checkpoint changes when the worker has reached a phase."""
    out = home.folder / "out.meminspect"
    command = home.start("run", "--ckpt", checkpoint, "-s", strategy, "--json", "--out", out)
    until(lambda: phase_of(out) == phase or command.poll() is not None)
    interfere()
    return finished(command)


@pytest.mark.slow
def test_given_a_shard_that_vanishes_when_the_worker_starts_then_it_is_named(
    variants: Variants, home: Home, tmp_path: Path
) -> None:
    checkpoint = variants.at("shards", tmp_path / "copy")
    shard = next(checkpoint.glob("*-00002-*"))

    done = interfered(home, checkpoint, "import", shard.unlink, "naive")

    assert (done.status, done.run["outcome"]) == (4, "failed")
    assert shard.name in done.run["message"]
    assert done.run["died_at"] == {"phase": "import", "tensor": None}


@pytest.mark.parametrize("strategy", ["mmap-assign", pytest.param("meta-assign", marks=pytest.mark.slow)])
def test_given_a_file_that_shrinks_before_it_is_loaded_then_the_run_fails_with_the_reason(
    variants: Variants, home: Home, tmp_path: Path, strategy: str
) -> None:
    checkpoint = variants.at("meta", tmp_path / "copy")
    file = checkpoint / "consolidated.00.pth"

    done = interfered(home, checkpoint, "warm-up", lambda: os.truncate(file, file.stat().st_size // 2), strategy)

    assert (done.status, done.run["outcome"]) == (4, "failed")
    assert done.run["message"]
    assert done.run["died_at"]["phase"] == "read"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "strategy", "name"),
    [
        ("shards", "sharded", 'sp ace \'quo"te\' tri"""ple ünï {x} %s [1]*? new\nline\t\x1b[31m\\'),
        pytest.param("shards", "meta-assign", "not utf-8 \udcff", marks=pytest.mark.slow),
    ],
    ids=["quotes and control characters", "no UTF-8"],
)
def test_given_any_name_of_a_folder_then_the_recipe_that_names_it_runs(
    variants: Variants, home: Home, tmp_path: Path, variant: str, strategy: str, name: str
) -> None:
    checkpoint = variants.at(variant, tmp_path / name)

    done = home.meminspect("run", "--ckpt", checkpoint, "-s", strategy, "--json")

    assert done.status == 0, (done.stdout, done.stderr)
    tensors = done.run["tensors"]
    assert tensors["verified"] == tensors["expected"] > 0
    assert done.document["checkpoint"]["path"] == str(checkpoint)
    assert "\x1b" not in done.stdout + done.stderr
    assert Path(done.run["capture"]).parent == home.captures


@pytest.fixture
def homeless() -> tuple[str, ...]:
    """The wrapper that starts a command as somebody who has no entry in passwd and no HOME."""
    names = ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")
    wrapper = ("unshare", "--user", f"--map-user={UNKNOWN_USER}", "env", *(f"--unset={name}" for name in names))
    try:
        shown = subprocess.run([*wrapper, "id", "-u"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no user namespaces here: {error}")
    if shown.stdout.strip() != UNKNOWN_USER:
        pytest.skip("the user namespace keeps the user")
    return wrapper


@pytest.mark.slow
def test_given_no_home_then_a_place_for_captures_has_to_be_named(
    variants: Variants, home: Home, homeless: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    nowhere = home.meminspect("run", "--ckpt", variants["meta"], "-s", "mmap-assign", wrapper=homeless)
    somewhere = home.meminspect(
        "run", "--ckpt", variants["meta"], "-s", "mmap-assign", "--out", tmp_path / "out", wrapper=homeless
    )

    assert (nowhere.status, nowhere.stdout) == (2, "")
    assert nowhere.stderr == (
        "meminspect: error: there is no home folder to keep captures in\n"
        "hint: name one with --out, or set XDG_DATA_HOME\n"
    )
    assert somewhere.status == 0, (somewhere.stdout, somewhere.stderr)
    assert not list(tmp_path.glob("~*"))


@pytest.mark.slow
def test_given_a_cache_that_cannot_be_written_then_the_warm_up_makes_do_without(variants: Variants, home: Home) -> None:
    home.folder.mkdir()
    place = home.folder / "a file where a folder belongs"
    place.write_text("")

    done = home.meminspect("run", "--ckpt", variants["meta"], "-s", "mmap-assign", "--json", XDG_CACHE_HOME=str(place))

    assert (done.status, done.run["outcome"]) == (0, "completed")
    assert not list(home.folder.glob("meminspect-*")), "the passing one is gone"


@pytest.mark.slow
def test_given_a_cache_that_somebody_has_emptied_then_the_warm_up_writes_it_again(
    variants: Variants, home: Home
) -> None:
    assert home.meminspect("run", "--ckpt", variants["meta"], "-s", "mmap-assign").status == 0
    written = [path for path in (home.folder / "cache").rglob("*") if path.is_file()]
    assert written
    for path in written:
        path.unlink()

    done = home.meminspect("run", "--ckpt", variants["meta"], "-s", "mmap-assign", "--json")

    assert (done.status, done.run["message"]) == (0, "")
