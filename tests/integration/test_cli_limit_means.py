"""`meminspect run --limit` where this user may make no cgroups: in a scope of systemd, or by RLIMIT_DATA."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from command_line import Home, until

from meminspect.engine.limits.data import BIAS

if TYPE_CHECKING:
    from pathlib import Path

    from checkpoint_variants import Variants

    from meminspect.sampling.cgroups import MemoryGroup

LIMIT = 400 << 20  # of the checkpoint with 200 MB: see test_cli_limit.py

# Does what systemd-run does in scope mode: it makes a group with the limit, moves there, and becomes the command. The
# group is removed as soon as nobody is in it.
SYSTEMD_RUN = """#!{python} -IS
import os, pathlib, sys, time
arguments = sys.argv[1:]
end = arguments.index("--")
options, command = arguments[:end], arguments[end + 1 :]
assert options[:4] == ["--user", "--scope", "--quiet", "--collect"], options
limit = next(option.partition("=")[2] for option in options if option.startswith("MemoryMax="))
group = pathlib.Path("{groups}", "run-r%d.scope" % os.getpid())
group.mkdir()
(group / "{limit_file}").write_text(limit)
moved, moving = os.pipe()
if not os.fork():
    os.closerange(0, moved)
    os.closerange(moved + 1, 1 << 16)
    os.read(moved, 1)
    while group.exists():
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.001)
    os._exit(0)
(group / "cgroup.procs").write_text(str(os.getpid()))
os.execvp(command[0], command)
"""


@pytest.fixture
def read_only(own: MemoryGroup, tmp_path: Path) -> tuple[str, ...]:
    """The wrapper that starts a command where cgroups are mounted read-only, as in most containers.

    They can be written to at `tmp_path / "groups"`, which stands for what a privileged manager may do.
    """
    place, door = str(own.top), tmp_path / "groups"
    door.mkdir()
    script = (
        f'mount --bind "{place}" "{door}" && mount --bind "{place}" "{place}" && '
        f'mount -o remount,bind,ro "{place}" && exec "$@"'
    )
    wrapper = ("unshare", "--mount", "sh", "-c", script, "sh")
    try:
        subprocess.run([*wrapper, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no mount namespaces here: {error}")
    return wrapper


def put(text: str, folder: Path) -> str:
    """A systemd-run of ours; the PATH that finds it first."""
    folder.mkdir()
    program = folder / "systemd-run"
    program.write_text(text)
    program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_given_a_user_whose_systemd_makes_scopes_then_a_limited_run_is_in_one_and_its_counters_outlive_it(
    variants: Variants, home: Home, own: MemoryGroup, read_only: tuple[str, ...], tmp_path: Path
) -> None:
    groups = tmp_path / "groups" / own.folder.relative_to(own.top)
    limit_file = "memory.max" if own.version == 2 else "memory.limit_in_bytes"
    path = put(SYSTEMD_RUN.format(python=sys.executable, groups=groups, limit_file=limit_file), tmp_path / "bin")

    done = home.meminspect(
        "run", "--ckpt", variants["big"], "-s", "naive", "--limit", "400MiB", "--json",
        wrapper=read_only, PATH=path, OMP_NUM_THREADS="1",
    )  # fmt: skip

    assert done.status == 3, done
    run = done.run
    assert run["outcome"] == "oom_killed"
    assert run["died_at"]["phase"] in ("build", "read")
    assert "400.00 MiB" in run["message"]
    limit = run["limit"]
    assert limit["mechanism"] == f"cgroup v{own.version} of systemd-run"
    assert (limit["confined"], limit["note"]) == (True, None)
    assert 0 < limit["cgroup_peak_bytes"] <= LIMIT
    until(lambda: not list(own.folder.glob("run-r*.scope")))


def test_given_a_user_who_cannot_make_groups_then_data_is_limited_and_it_is_said_what_that_means(
    variants: Variants, home: Home, read_only: tuple[str, ...], tmp_path: Path
) -> None:
    path = put("#!/bin/sh\necho 'Failed to connect to bus: No medium found' >&2\nexit 1\n", tmp_path / "bin")

    done = home.meminspect(
        "run", "--ckpt", variants["big"], "-s", "mmap-assign", "--limit", "420MiB", "--json",
        wrapper=read_only, PATH=path, OMP_NUM_THREADS="1",
    )  # fmt: skip

    assert done.status == 3, done
    run = done.run
    assert run["outcome"] == "out_of_memory", "it maps its file, and would complete in a cgroup"
    assert "420.00 MiB" in run["message"]
    assert BIAS in run["message"]
    limit = run["limit"]
    assert (limit["bytes"], limit["mechanism"]) == (420 << 20, "RLIMIT_DATA")
    assert limit["confined"] is limit["cgroup_peak_bytes"] is limit["cgroup_file_bytes"] is None
    assert "Read-only file system; systemd-run: Failed to connect to bus" in limit["note"]
