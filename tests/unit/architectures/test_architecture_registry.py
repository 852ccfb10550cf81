from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import meminspect.architectures as package
from meminspect.architectures import ARCHITECTURES

INTERFACE = {"family", "model", "own", "skeleton"}  # public files that are no entry of the registry


def test_registry_lists_every_architecture_file() -> None:
    folder = Path(package.__file__).parent
    files = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    assert set(ARCHITECTURES) == files - INTERFACE


def test_ids_are_keys_and_namings_exist() -> None:
    for key, family in ARCHITECTURES.items():
        assert family.id == key
        assert family.namings
        assert family.summary


def test_importing_architectures_imports_only_the_standard_library() -> None:
    code = "import sys, meminspect.architectures; print(*{name.partition('.')[0] for name in sys.modules})"
    root = Path(package.__file__).parents[2]
    loaded = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    foreign = set(loaded.split()) - sys.stdlib_module_names - {"meminspect", "__main__"}
    assert not {"torch", "numpy", "transformers", "safetensors"} & foreign
