from __future__ import annotations

from typing import NoReturn

import pytest

from meminspect.engine import session, support
from meminspect.engine.support import require_measurable
from meminspect.errors import RunError
from meminspect.sampling.procfs import ProcessGone, ProcessMemory

BEFORE_LINUX_4_5 = b"Name:\tpython\nVmHWM:\t  10 kB\nVmRSS:\t  10 kB\nVmSwap:\t   0 kB\n"


def test_on_this_linux_a_run_can_be_measured() -> None:
    require_measurable()


def test_where_the_kernel_tells_no_pools_the_error_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProcessMemory, "status", lambda _: BEFORE_LINUX_4_5)

    with pytest.raises(RunError, match="/proc/PID/status lacks RssAnon, RssFile, RssShmem, which"):
        require_measurable()


@pytest.mark.parametrize("error", [ProcessGone(), PermissionError(13, "Permission denied")])
def test_without_procfs_no_session_and_no_standby_begin(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(support, "ProcessMemory", refuse)

    with pytest.raises(RunError, match="there is no /proc/PID/status to read") as raised:
        session.Standby()

    assert "view the capture" in raised.value.hint
