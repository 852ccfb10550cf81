from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from meminspect.sampling.file_system import file_system, is_network, network_note, read_mounts

MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:21 / /proc rw - proc proc rw
30 22 0:40 / /data rw,noatime shared:5 master:2 - nfs4 server:/export rw,vers=4.2
31 30 0:41 / /data/models ro - fuse.gcsfuse bucket ro
32 22 0:42 / /mnt/my\040models\134x rw - lustre a@tcp:/fs rw
33 22 8:1 /srv/weights /bind rw - xfs /dev/sdb1 rw
34 22 0:43 / /over rw - overlay overlay rw,lowerdir=/a,upperdir=/b
35 22 0:44 / /twice rw - ext4 /dev/sdc1 rw
36 35 0:45 / /twice rw - tmpfs  rw,size=4k
"""


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A procfs with a table of mounts and nothing else."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(MOUNTS.lstrip())
    return tmp_path


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/anything/at/all", "ext4"),
        ("/data", "nfs4"),
        ("/data/checkpoint/model.safetensors", "nfs4"),
        ("/data/models/llama", "fuse.gcsfuse"),
        ("/database", "ext4"),
        (r"/mnt/my models\x/a", "lustre"),
        ("/bind/a", "xfs"),
        ("/over/a", "overlay"),
        ("/twice/a", "tmpfs"),
    ],
)
def test_given_mounts_when_a_path_is_looked_up_then_the_innermost_and_latest_holds_it(proc: Path, path: str, kind: str):
    assert file_system(Path(path), proc) == kind


def test_given_escapes_and_optional_fields_when_read_then_the_mounts_parts_are_plain(proc: Path):
    mounts = {mount.number: mount for mount in read_mounts(proc)}

    assert mounts[32].point == Path(r"/mnt/my models\x")
    assert str(mounts[33].root) == "/srv/weights"
    assert mounts[30].options == ("rw", "vers=4.2")
    assert (mounts[36].kind, mounts[36].options) == ("tmpfs", ("rw", "size=4k"))


def test_given_the_real_kernel_when_looked_up_then_it_agrees_with_stat(tmp_path: Path):
    assert file_system(Path("/proc/self/status")) == "proc"
    said = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True).stdout
    assert (file_system(tmp_path) or "?").rstrip("234") in said


def test_given_a_file_that_is_yet_to_be_when_looked_up_then_its_folder_answers(tmp_path: Path):
    assert file_system(tmp_path / "captures/new/run.meminspect") == file_system(tmp_path)


def test_given_a_link_when_looked_up_then_its_targets_file_system_answers(tmp_path: Path):
    (tmp_path / "link").symlink_to("/proc/self/status")

    assert file_system(tmp_path / "link") == "proc"


def test_given_a_mount_covered_by_another_when_looked_up_then_the_visible_one_answers(tmp_path: Path):
    # The table has the covered /proc/hidden later and longer; the kernel's number of the open file decides.
    fdinfo = tmp_path / "self/fdinfo"
    fdinfo.mkdir(parents=True)
    (tmp_path / "self/mountinfo").write_text("7 1 0:1 / / rw - ext4 a rw\n8 7 0:2 / /usr rw - nfs b rw\n")
    next_descriptor = os.open("/", os.O_PATH)
    os.close(next_descriptor)
    (fdinfo / str(next_descriptor)).write_text("pos:\t0\nflags:\t012000000\nmnt_id:\t7\nino:\t2\n")

    assert file_system(Path("/usr"), tmp_path) == "ext4"


def test_given_no_procfs_or_a_loop_of_links_when_looked_up_then_unknown(tmp_path: Path):
    assert file_system(tmp_path, tmp_path / "absent") is None
    (tmp_path / "loop").symlink_to("loop")
    assert file_system(tmp_path / "loop") in (None, file_system(tmp_path))  # by Python's version


@pytest.mark.parametrize(
    "kind",
    ["nfs", "nfs4", "cifs", "smb3", "lustre", "fuse.sshfs", "fuse.gcsfuse", "fuse", "9p", "ceph", "fuse.glusterfs"],
)
def test_given_a_network_file_system_when_asked_then_yes(kind: str):
    assert is_network(kind)


@pytest.mark.parametrize(
    "kind", ["ext4", "xfs", "btrfs", "overlay", "tmpfs", "fuseblk", "fuse.ntfs-3g", "zfs", "", None]
)
def test_given_a_local_or_unknown_file_system_when_asked_then_no(kind: str | None):
    assert not is_network(kind)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nfs4", "nfs4, a network file system: "),
        ("fuse.sshfs", "a network file"),
        ("virtiofs", "virtual machine's host"),
    ],
)
def test_given_a_network_file_system_when_noted_then_what_it_means_for_figures_is_said(kind: str, words: str):
    assert words in network_note(kind)
    assert "page-cache figures are this machine's only" in network_note(kind)


@pytest.mark.parametrize("kind", ["ext4", "overlay", None])
def test_given_a_local_file_system_when_noted_then_there_is_nothing_to_say(kind: str | None):
    assert network_note(kind) == ""
