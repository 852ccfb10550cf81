from __future__ import annotations

import pytest
from worker_doubles import Recording


@pytest.fixture
def recording() -> Recording:
    """A recorder with made-up memory, switched on."""
    return Recording()
