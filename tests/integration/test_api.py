"""The README's Python: `run` and `record` return typed results, and leave captures that the command opens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

import meminspect
from meminspect.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from checkpoint_variants import Variants
    from command_line import Home

README = Path(__file__).parents[2] / "README.md"
TENSOR = 4 << 20  # bytes
LARGE = 12 << 20  # elements of 4 bytes: of what is larger than 32 MiB the allocator keeps nothing
FRESH = "import sys, meminspect; meminspect.mark(); sys.exit('torch' in sys.modules or 'sqlite3' in sys.modules)"


def test_importing_the_package_and_marking_costs_nothing() -> None:
    assert subprocess.run([sys.executable, "-c", FRESH]).returncode == 0


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    torch.save({f"layers.{index}.weight": torch.ones(1024, 1024) for index in range(4)}, "ck.pth")
    return tmp_path / "ck.pth"


@pytest.mark.usefixtures("saved")
def test_the_readmes_example_does_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    program = README.read_text().partition("<!-- api -->\n```python\n")[2].partition("```")[0]
    names: dict[str, object] = {}

    exec(program, names)  # noqa: S102 - our own README

    loaded, recorded = (line.split() for line in capsys.readouterr().out.splitlines())
    result = names["result"]
    assert isinstance(result, meminspect.result.RunResult)  # type: ignore[attr-defined]
    assert (loaded[0], loaded[3]) == ("completed", "4")
    assert result.theory is not None
    assert result.theory.floor_bytes == 4 * TENSOR // 2
    assert sum(line.nbytes for line in result.bill) == result.peak.rss_bytes
    assert recorded[1] in ("True", "False")  # what this process has freed before, it may use again
    assert Path(recorded[2]).parent == result.capture.parent


def test_a_recording_tells_what_this_process_did_and_is_a_capture_like_others(saved: Path, home: Home) -> None:
    with meminspect.record("recorded.meminspect") as recording:
        model = nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(4)))
        state_dict = {f"{index}.weight": tensor for index, tensor in enumerate(torch.load(saved).values())}
        model.load_state_dict(state_dict)

    result = recording.result
    assert result is not None
    assert (result.strategy, result.completed, result.theory) == ("record", True, None)
    assert {one.id: one.nbytes for one in result.patterns}["random_initialisation_overwritten"] == 4 * TENSOR
    assert result.floor_bytes is not None
    assert result.floor_bytes >= 4 * TENSOR  # other tests' models may be alive
    done = home.meminspect("export", saved.with_name("recorded.meminspect"), "--to", "json")
    exported = json.loads(done.stdout)["run"]
    assert exported["script"]["kind"] == "record"
    assert exported["script"]["notes"][0].startswith("recorded from inside: ")
    assert torch.load.__module__ == "torch.serialization"
    assert not hasattr(torch.load, "__wrapped__")


@pytest.mark.slow
@pytest.mark.usefixtures("saved")
def test_recordings_leave_nothing_open() -> None:
    open_files = []
    for number in range(3):
        with meminspect.record(f"{number}.meminspect"):
            pass
        open_files.append(len(list(Path("/proc/self/fd").iterdir())))

    assert open_files[1] == open_files[2]


@pytest.mark.slow
@pytest.mark.usefixtures("saved")
def test_marks_in_a_recording_say_where_a_load_begins_and_ends() -> None:
    with meminspect.record("marked.meminspect") as recording:
        kept = [torch.ones(LARGE)]
        meminspect.mark()
        kept.append(torch.ones(LARGE))
        meminspect.mark("loaded")
        kept.append(torch.ones(2 * LARGE))

    result = recording.result
    assert result is not None
    assert result.peak.rss_bytes is not None
    assert 3.8 * LARGE < result.peak.rss_bytes < 6 * LARGE, len(kept)


@pytest.mark.usefixtures("saved")
def test_what_is_raised_in_a_recording_is_its_outcome_and_goes_on_its_way() -> None:
    recording = meminspect.record("raised.meminspect")

    with pytest.raises(KeyError), recording:
        raise KeyError("wq")

    assert recording.result is not None
    assert (recording.result.outcome, recording.result.message) == ("failed", "KeyError: 'wq'")
    with pytest.raises(UsageError, match="exists already"):
        meminspect.record("raised.meminspect")


@pytest.mark.slow
@pytest.mark.usefixtures("saved")
def test_a_script_of_ones_own_runs_from_python_and_what_it_prints_is_kept(tmp_path: Path) -> None:
    (tmp_path / "prints.py").write_text("import sys; print(sys.argv[1]); sys.exit(3)")

    result = meminspect.run(script=["prints.py", "something"])

    assert (result.strategy, result.outcome, result.message) == (
        "script",
        "failed",
        "the script ended with exit status 3",
    )
    exported = subprocess.run(
        [sys.executable, "-m", "meminspect", "export", result.capture, "--to", "json"],
        capture_output=True, check=True,
    )  # fmt: skip
    assert [line["text"] for line in json.loads(exported.stdout)["log"]] == ["something"]


def test_what_makes_no_sense_is_raised(variants: Variants) -> None:
    with pytest.raises(UsageError, match="run\\(\\) needs a checkpoint"):
        meminspect.run()
    with pytest.raises(UsageError, match="there is no strategy 'bogus'"):
        meminspect.run(variants["meta"], "bogus")
    with pytest.raises(CheckpointError):
        meminspect.run("/no/such/checkpoint")
