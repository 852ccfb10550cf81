"""Entry point of the worker, run by path in any interpreter: `python …/worker/__main__.py SPEC RING LIFELINE`.

With `script` behind these it runs the user's own. With LIFELINE alone it tells what the user's model consists of.

Run by path, Python puts this folder on the import path, which would shadow the user's modules with ours, and has never
heard of the package. So the folder goes, and a finder for the one name `meminspect` comes.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib may be shadowed until it is gone
if sys.path and os.path.abspath(sys.path[0] or ".") == _HERE:  # noqa: PTH100 - not so under PYTHONSAFEPATH
    del sys.path[0]


class _OurPackage:
    """Finds the package `meminspect`, and nothing else, where this file lies."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        """As `importlib.abc.MetaPathFinder.find_spec`."""
        if name != "meminspect":
            return None
        package = _HERE.rpartition("/")[0]
        return importlib.util.spec_from_file_location(
            name, f"{package}/__init__.py", submodule_search_locations=[package]
        )


if __name__ == "__main__":
    sys.meta_path.insert(0, _OurPackage)

    if len(sys.argv) == 2:
        from meminspect.worker import describing

        describing.main(int(sys.argv[1]))
    elif len(sys.argv) == 5:
        from meminspect.worker import script

        script.main(*map(int, sys.argv[1:4]))
    else:
        from meminspect.worker.main import main

        main(*map(int, sys.argv[1:4]))
