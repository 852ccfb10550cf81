from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest

_CHILD = """
import sys
sys.path[:] = sys.argv[2].split("\\n")
PRELUDE
from meminspect.worker.lifeline import die_with, prefer_as_victim
prefer_as_victim()
die_with(int(sys.argv[1]))
print(open("/proc/self/oom_score_adj").read().strip(), flush=True)
WORK
"""
BUSY = "while True: pass"
BLOCKED = "import os; os.read(os.pipe()[0], 1)"
DEAF = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); print('deaf', flush=True); {BLOCKED}"


# What another system, or a container's filter of system calls, makes of it.
REFUSED = """
from meminspect.worker import lifeline
def refuse(*_): raise PermissionError(1, "Operation not permitted")
lifeline._told_by_kernel = refuse
"""


def start(work: str, lifeline: int, prelude: str = "") -> subprocess.Popen[bytes]:
    program = _CHILD.replace("WORK", work).replace("PRELUDE", prelude)
    command = [sys.executable, "-c", program, str(lifeline), "\n".join(sys.path)]
    return subprocess.Popen(command, pass_fds=[lifeline], stdout=subprocess.PIPE)


def ended_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    pidfd = os.pidfd_open(process.pid)
    try:
        return bool(select.select([pidfd], [], [], seconds)[0])
    finally:
        os.close(pidfd)


@pytest.mark.parametrize("prelude", ["", REFUSED], ids=["told by the kernel", "by a thread"])
@pytest.mark.parametrize("work", [BUSY, BLOCKED, DEAF], ids=["busy", "blocked", "deaf"])
def test_whatever_it_does_a_worker_dies_with_the_other_end_of_its_lifeline(work: str, prelude: str) -> None:
    far_end, ours = os.pipe()
    with start(work, far_end, prelude) as process:
        os.close(far_end)
        assert process.stdout is not None
        assert process.stdout.readline() == b"1000\n"  # it is at work, and the kernel's preferred victim
        if work == DEAF:
            assert process.stdout.readline() == b"deaf\n"
        # when the supervisor is gone, and with it its end
        os.close(ours)
        try:
            assert ended_within(process, 10)
        finally:
            process.kill()
        assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("work", "prelude"), [("print('still here')", ""), (BLOCKED, REFUSED)], ids=["told by the kernel", "by a thread"]
)
def test_a_worker_whose_supervisor_is_gone_already_does_not_begin(work: str, prelude: str) -> None:
    far_end, ours = os.pipe()
    os.close(ours)
    with start(work, far_end, prelude) as process:
        os.close(far_end)
        out, _ = process.communicate(timeout=30)
        assert out == b"" or prelude  # a thread may come a moment later
        assert process.returncode == -signal.SIGKILL
