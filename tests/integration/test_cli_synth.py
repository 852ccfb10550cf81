"""`python -m meminspect synth`, as a user starts it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from meminspect.checkpoint import read_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


def synth(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "meminspect", "synth", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_checkpoint_is_written_and_the_next_command_is_named(tmp_path: Path) -> None:
    out = tmp_path / "my llama"
    config = tmp_path / "params.json"
    config.write_text(json.dumps({"dim": 16, "n_layers": 1, "n_heads": 2, "vocab_size": 32, "multiple_of": 16}))

    done = synth(out, "--config", config, "--layout", "meta", "--shards", "2", "--dtype", "bfloat16")

    assert done.returncode == 0
    wrote, next_command = done.stdout.splitlines()
    assert wrote.startswith("wrote llama of ")
    assert f"to {out}, 3 files, " in wrote
    assert next_command == f"try: meminspect plan --ckpt '{out}'"
    assert done.stderr.splitlines()[-1].endswith("100 %")  # progress, without a terminal
    checkpoint = read_checkpoint(out)
    assert (checkpoint.layout, len(checkpoint.files), set(checkpoint.dtypes)) == ("meta", 2, {"bfloat16"})


def test_a_config_says_exactly_which_model(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"n_embd": 16, "n_head": 2, "n_layer": 1, "n_positions": 8, "vocab_size": 10}))

    done = synth(tmp_path / "out", "--arch", "gpt2", "--config", config, "--sparse", "--seed", "7")

    assert done.returncode == 0, done.stderr
    assert "(sparse)" in done.stdout
    shapes = {tensor.shape for tensor in read_checkpoint(tmp_path / "out").tensors}
    assert (10, 16) in shapes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--params", "many"), "--params: 'many' is not a count"),
        (("--params", "1M", "--config", "x.json"), "--params and --config both say how large the model is"),
        (("--arch", "gpt2", "--layout", "meta", "--params", "1M"), "the layout 'meta' does not exist for gpt2"),
        (("--config", "absent.json"), "no such file or folder"),
        (("--layout", "floppy"), "floppy"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = synth(tmp_path / "out", *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[0]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()

    done = synth(tmp_path, "--params", "1M")

    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
