from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from checkpoint_variants import Variants
    from command_line import Home


def test_a_strategy_is_explained_without_a_checkpoint_in_80_columns(home: Home) -> None:
    done = home.meminspect("explain", "naive", COLUMNS="80")

    lines = done.stdout.splitlines()
    assert (done.status, done.stderr) == (0, "")
    assert lines[0].startswith("naive builds the model with random weights")
    assert "instead: mmap-assign, which needs 12.55 GiB of file pages that can be reclaimed" in lines
    assert "  3. copying             25.10 GiB heap + 12.55 GiB file" in lines
    assert any(line.endswith("theory 37.65") for line in lines), "the picture"
    story, _, recipe = done.stdout.partition("the lines that are executed\n")
    assert max(map(len, story.splitlines())) <= 80
    ast.parse(recipe)


def test_what_replaces_it_on_a_device_is_told_with_the_device_s_memory(home: Home) -> None:
    done = home.meminspect("explain", "naive", "--device", "cuda", COLUMNS="120")

    instead = "instead: mmap-assign, which needs 4.22 GiB of file pages that can be reclaimed + 12.55 GiB of vram"
    assert instead in done.stdout.splitlines()


def test_a_checkpoint_of_ones_own_is_explained_with_its_own_files(home: Home, variants: Variants) -> None:
    done = home.meminspect("explain", "lazy", "--ckpt", variants["shards"], "--dtype", "bfloat16", "--json")

    document = done.document
    assert document["schema"] == "meminspect.explain/1"
    assert [(stage["phases"], stage["turns"]) for stage in document["stages"]] == [(["read", "cast"], 3)]
    assert document["theory"]["peak"]["heap_bytes"] == document["theory"]["floor_bytes"]
    assert str(variants["shards"]) in document["recipe"]
    assert document["instead"] is None, "with a cast a mapping needs as much"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("magic",), "there is no strategy 'magic'"),
        (("per-tensor-files", "--ckpt"), "per-tensor-files cannot load this: it takes a checkpoint with a file for"),
        (("naive", "--device", "abacus"), "naive cannot load this: there is no device 'abacus'"),
    ],
)
def test_what_cannot_be_explained_is_said_in_a_sentence(
    home: Home, variants: Variants, arguments: tuple[str, ...], said: str
) -> None:
    done = home.meminspect("explain", *arguments, *([variants["meta"]] if arguments[-1] == "--ckpt" else []))

    assert (done.status, done.stdout) == (2, "")
    assert f"meminspect: error: {said}" in done.stderr
