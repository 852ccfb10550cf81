"""Makes the first forward pass of a large model need a gigabyte: for workers with this folder on PYTHONPATH."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_NEEDED_BYTES = 1 << 30
_LARGE = 1_000_000  # parameters; the warm-up's model has fewer


class _Greedy:
    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != "meminspect.worker.forward":
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        assert spec is not None
        loader: Any = spec.loader
        execute = loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            execute(module)
            call = module._call  # type: ignore[attr-defined]

            def greedy(model: Any) -> None:
                if sum(parameter.numel() for parameter in model.parameters()) > _LARGE:
                    bytearray(b"1") * _NEEDED_BYTES
                call(model)

            module._call = greedy  # type: ignore[attr-defined]

        loader.exec_module = execute_and_change
        return spec


sys.meta_path.insert(0, _Greedy())  # type: ignore[arg-type]
