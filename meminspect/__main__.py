"""`python -m meminspect`."""

from __future__ import annotations

import sys

from meminspect.cli import main

if __name__ == "__main__":
    sys.exit(main())
