"""Tells when a library is imported, whoever does it: the user's own code decides whether and when torch comes."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["watched_imports"]


@contextlib.contextmanager
def watched_imports(
    names: Iterable[str], before: Callable[[str], None], after: Callable[[str, bool], None]
) -> Iterator[None]:
    """Call back around the first import of packages and of their parts while the context lasts.

    Of what an import brings along only other packages are told.

    Args:
        names: the packages.
        before: called with a name when it is about to be executed.
        after: called with it once that is over, before whoever imports it goes on, and whether it has succeeded.
    """
    finder: Any = _Finder(frozenset(names), before, after)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the code may have put a list of its own there
            sys.meta_path.remove(finder)


class _Finder:
    """Finds what the others find, with a loader that tells."""

    def __init__(
        self, names: frozenset[str], before: Callable[[str], None], after: Callable[[str, bool], None]
    ) -> None:
        self._names = names
        self._callbacks = before, after
        self._importing = 0

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """As `importlib.abc.MetaPathFinder.find_spec`."""
        package, part, _ = name.partition(".")
        if package not in self._names or (part and self._importing):
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    loader: Any = _Loader(spec.loader, self._begins, self._ends)
                    spec.loader = loader
                return spec
        return None

    def _begins(self, name: str) -> None:
        self._importing += 1
        self._callbacks[0](name)

    def _ends(self, name: str, succeeded: bool) -> None:
        self._callbacks[1](name, succeeded)
        self._importing -= 1


class _Loader:
    """Stands in for a loader while it executes its module, which never gets to see us afterwards."""

    def __init__(self, loader: Any, before: Callable[[str], None], after: Callable[[str, bool], None]) -> None:
        self._loader = loader
        self._before = before
        self._after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._before(name)
        done = False
        try:
            self._loader.exec_module(module)
            done = True
        finally:
            self._after(name, done)
