"""Which file system a path lies on, by the kernel's table of mounts (`man 5 proc_pid_mountinfo`).

Standard library only: the worker may import it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

__all__ = ["PROC", "Mount", "file_system", "is_network", "network_note", "read_mounts"]

PROC: Final = Path("/proc")

_OCTAL: Final = re.compile(r"\\([0-7]{3})")
_FUSE: Final = "fuse."
# Names as mountinfo spells them, without "fuse."; with the shares of a hypervisor's host, which are as far away.
_NETWORK: Final = frozenset(
    (
        "9p", "afs", "alluxio-fuse", "beegfs", "blobfuse", "blobfuse2", "ceph", "cifs", "coda", "curlftpfs", "davfs",
        "dfuse", "gcsfuse", "glusterfs", "goofys", "gpfs", "httpfs", "juicefs", "lustre", "mount-s3",
        "mountpoint-s3", "ncpfs", "nfs", "nfs4", "orangefs", "panfs", "prl_fs", "pvfs2", "quobyte", "rclone", "s3fs",
        "seaweedfs", "smb3", "smbfs", "smbnetfs", "sshfs", "vboxsf", "virtiofs", "vmhgfs", "vmhgfs-fuse", "wekafs",
    )
)  # fmt: skip

_OF_THE_HOST: Final = frozenset(("9p", "prl_fs", "vboxsf", "virtiofs", "vmhgfs", "fuse.vmhgfs-fuse"))


class Mount(NamedTuple):
    """One line of mountinfo; `root` is the folder of the file system that is seen at `point`."""

    number: int
    root: PurePosixPath
    point: Path
    kind: str
    options: tuple[str, ...]


def file_system(path: Path, proc: Path = PROC) -> str | None:
    """The type of the file system that holds a path, or would hold it: ``ext4``, ``nfs4``.

    Args:
        path: a file or folder; symbolic links are followed.
        proc: where procfs is mounted.

    Returns:
        The type as mountinfo spells it; None where it cannot be found out.
    """
    try:
        mounts = read_mounts(proc)
        resolved = path.resolve()
    except (OSError, RuntimeError):  # a loop of links is a RuntimeError up to Python 3.12
        return None
    # By its number first: only the kernel knows which of two mounts over each other is the visible one.
    number = _mount_number(resolved, proc)
    for mount in mounts:
        if mount.number == number:
            return mount.kind
    return _kind_by_prefix(resolved, mounts)


def is_network(kind: str | None) -> bool:
    """Whether a file system of this type is reached over a network or is shared by a hypervisor's host.

    Args:
        kind: what `file_system` answered.
    """
    # A FUSE file system that does not say what it is has mostly been a mounted bucket.
    return kind is not None and (kind == "fuse" or kind.removeprefix(_FUSE) in _NETWORK)


def network_note(kind: str | None) -> str:
    """What to know of figures taken on a file system of this type, in a sentence; empty where it is a local one.

    Args:
        kind: what `file_system` answered.
    """
    if not is_network(kind):
        return ""
    if kind in _OF_THE_HOST:
        return (
            f"it lies on {kind}, a folder of this virtual machine's host: a cold read may come from the host's memory, "
            "and page-cache figures are this machine's only"
        )
    return (
        f"it lies on {kind}, a network file system: a cold read is as fast as the network, and page-cache figures are "
        "this machine's only"
    )


def read_mounts(proc: Path = PROC) -> list[Mount]:
    """The mounts that this process sees, in the kernel's order.

    Raises:
        OSError: there is no procfs at `proc`.
    """
    text = os.fsdecode((proc / "self/mountinfo").read_bytes())
    return [_parse(line) for line in text.splitlines() if " - " in line]


def _parse(line: str) -> Mount:
    # The number of optional fields before the dash varies.
    mount, _, source = line.partition(" - ")
    number, _, _, root, point = mount.split(" ")[:5]
    kind, *_, options = source.split(" ")
    return Mount(int(number), PurePosixPath(_unescape(root)), Path(_unescape(point)), kind, tuple(options.split(",")))


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def _mount_number(path: Path, proc: Path) -> int | None:
    for existing in (path, *path.parents):
        try:
            descriptor = os.open(existing, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            lines = (proc / f"self/fdinfo/{descriptor}").read_text().splitlines()
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return next((int(line.split()[1]) for line in lines if line.startswith("mnt_id:")), None)
    return None


def _kind_by_prefix(path: Path, mounts: list[Mount]) -> str | None:
    holding = [mount for mount in mounts if path.is_relative_to(mount.point)]
    # Of two mounts at one point the later covers the earlier, and max keeps the first it meets.
    return max(reversed(holding), key=lambda mount: len(mount.point.parts)).kind if holding else None
