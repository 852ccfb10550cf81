from __future__ import annotations

import pytest
from strategy_tasks import Tasks


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Tasks:
    """Small checkpoints, by name and options, as tasks."""
    return Tasks(tmp_path_factory.mktemp("strategy-tasks"))
