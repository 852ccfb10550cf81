from __future__ import annotations

import ast
import builtins
from typing import TYPE_CHECKING

import pytest
import torch
from strategy_tasks import NAMES, cells

from meminspect.strategies import STRATEGIES, recipes

if TYPE_CHECKING:
    from pathlib import Path

    from strategy_tasks import Tasks

    from meminspect.strategies import LoadTask

GIVEN = {"Model", "config", "split_dims"}  # what the first lines say that the reader has to bring
OPTIONS: list[dict[str, str]] = [{}, {"dtype": "bfloat16"}, {"init_dtype": "float16"}]
COMBINATIONS = cells(*OPTIONS)
LINES, LINES_WITH_A_LAYER = 50, 90


@pytest.fixture(params=COMBINATIONS, ids=str)
def recipe(request: pytest.FixtureRequest, tasks: Tasks) -> str:
    id_, name, options = request.param
    return STRATEGIES[id_].recipe(tasks(name, **options))


def undefined_names(text: str) -> set[str]:
    """Names that are used and that neither the text nor Python defines."""
    used: set[str] = set()
    made = set(dir(builtins))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, (ast.Load, ast.Del)) else made).add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            made.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.FunctionDef):
            made.update((node.name, *(argument.arg for argument in node.args.args)))
    return used - made


def test_a_recipe_is_plain_pytorch_that_compiles(recipe: str) -> None:
    compile(recipe, "<recipe>", "exec")
    ours = {"meminspect.stream"} if "\nload(model, path" in recipe else set()
    imported = {
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(ast.parse(recipe))
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert imported <= {"torch", "ctypes", "pathlib", "safetensors", "safetensors.torch"} | ours
    assert "meminspect" not in recipe.replace("pytest-of", "").split("\n\n")[-1]


def test_a_recipe_defines_every_name_but_those_that_it_announces(recipe: str) -> None:
    missing = undefined_names(recipe)
    assert missing <= GIVEN
    comments = "\n".join(line for line in recipe.splitlines() if line.startswith("#"))
    assert all(name in comments for name in missing)


def test_a_recipe_reads_like_a_page_of_a_book(recipe: str) -> None:
    assert recipe.endswith("\n")
    assert not recipe.endswith("\n\n")
    assert "\n\n\n\n" not in recipe  # two empty lines are around a function
    lines = [line for line in recipe.splitlines() if "Path(" not in line]  # the user's path is as long as it is
    assert all(line == line.rstrip() and len(line) <= 120 for line in lines)
    assert len(lines) < (LINES_WITH_A_LAYER if any(line.startswith("class ") for line in lines) else LINES)


@pytest.mark.parametrize("id_", ["meta-assign", "mmap-assign"])
def test_a_cast_that_would_change_nothing_is_left_out(id_: str, tasks: Tasks) -> None:
    strategy = STRATEGIES[id_]
    assert strategy.recipe(tasks("meta", dtype="float16")) == strategy.recipe(tasks("meta"))
    assert "torch.bfloat16" in strategy.recipe(tasks("meta", dtype="bfloat16"))


def listed_files(task: LoadTask) -> list[Path]:
    names: dict[str, list[Path]] = {}
    exec(recipes.header(task), names)  # noqa: S102 - our own text
    return names["files"]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_lists_the_checkpoints_files_in_order(name: str, tasks: Tasks) -> None:
    task = tasks(name)
    assert listed_files(task) == [file.path for file in task.checkpoint.files]


def test_files_among_strangers_in_a_folder_with_an_odd_name_are_listed_one_by_one(tmp_path: Path) -> None:
    from strategy_tasks import Tasks  # the session's checkpoints are not to be written to

    folder = tmp_path / 'it\'s [odd] * "here"\\n'
    folder.mkdir()
    tasks = Tasks(folder)
    (tasks.path("safetensors 3") / "model-extra-of-00003.safetensors").write_bytes(b"")
    task = tasks("safetensors 3")
    assert len(task.checkpoint.files) == 3
    assert listed_files(task) == [file.path for file in task.checkpoint.files]


def test_a_recipe_leaves_torchs_default_dtype_for_the_worker_to_restore(tasks: Tasks) -> None:
    assert "set_default_dtype(torch.float16)" in STRATEGIES["naive"].recipe(tasks("meta", init_dtype="float16"))
    assert "set_default_dtype" not in STRATEGIES["naive"].recipe(tasks("meta"))
    assert torch.get_default_dtype() is torch.float32


@pytest.mark.parametrize("by", ["populate", "thread", "willneed"])
def test_what_stays_mapped_is_read_ahead_by_the_last_line(by: str, tasks: Tasks) -> None:
    lines = STRATEGIES["mmap-assign"].recipe(tasks("safetensors 3", read_ahead=by)).splitlines()
    assert "from meminspect.stream import read_ahead" in lines
    assert lines[-1] == f"read_ahead(model, '{by}')"


def test_of_a_model_on_a_device_nothing_is_read_ahead(tasks: Tasks) -> None:
    assert "read_ahead" not in STRATEGIES["mmap-assign"].recipe(
        tasks("safetensors 3", read_ahead="thread", device="cuda")
    )
