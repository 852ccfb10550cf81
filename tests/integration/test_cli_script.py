"""`run -s script`: code of the user's own runs as without us, and what it does is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from meminspect.capture.store import CaptureReader
from meminspect.cli import main

if TYPE_CHECKING:
    from command_line import Home

# Each prints what it sees, and ends in its own way.
EVERYTHING = """
import atexit, multiprocessing, os, sys, threading

def child(queue):
    queue.put((__name__, sys.argv))

if __name__ == "__main__":
    print(sys.argv, __file__, sys.path[0], os.getcwd(), "torch" in sys.modules, input(), input())
    atexit.register(print, "atexit")
    pid = os.fork()
    if not pid:
        sys.exit(5)
    print(os.waitpid(pid, 0)[1])
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    process = spawn.Process(target=child, args=(queue,))
    process.start()
    print(queue.get())
    process.join()
    for number in range(30_000):
        print("x" * 60, number)
    os.mkdir("deeper")
    os.chdir("deeper")
    os.rmdir("../deeper")
    print("err", file=sys.stderr)
    threading.Timer(0.05, print, ["a thread"]).start()
    sys.exit(3)
"""
WAYS = {
    "everything": EVERYTHING,
    "raises": "def load():\n    raise ValueError('no such thing')\nload()",
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
}
MORE_WAYS = {
    "says": "raise SystemExit('a message')",
    "syntax": "x = (\ny = 1",
    "at_once": "import os; print('bye', flush=True); os._exit(7)",
    "interrupted": "raise KeyboardInterrupt",
}
SIGNALLED = 128


@pytest.mark.parametrize("way", [*WAYS, *(pytest.param(way, marks=pytest.mark.slow) for way in MORE_WAYS)])
def test_a_script_prints_reads_and_ends_as_without_us(home: Home, tmp_path: Path, way: str) -> None:
    (tmp_path / f"{way}.py").write_text({**WAYS, **MORE_WAYS}[way])
    (tmp_path / "input").write_text("one\ntwo\n")
    with (tmp_path / "input").open() as stdin:
        without = subprocess.run(
            [sys.executable, f"{way}.py", "an", "--argument"], cwd=tmp_path, stdin=stdin, capture_output=True, text=True
        )

    inside = ("sh", "-c", f'cd "{tmp_path}" && exec "$@" < input', "sh")
    done = home.meminspect("run", "-s", "script", "--", f"{way}.py", "an", "--argument", wrapper=inside)

    assert done.stdout == without.stdout
    assert done.status == (without.returncode if without.returncode >= 0 else SIGNALLED - without.returncode)
    assert done.stderr.startswith(without.stderr)
    assert f"{way}.py-script-" in done.stderr  # the capture's name
    assert "Traceback" not in done.stderr.removeprefix(without.stderr)


LOADS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(1024, 1024, bias=False) for _ in range(8))

print("loading")
net = Net()
net.load_state_dict(torch.load("net.pth"))
"""
LAYER = 2 << 20  # bytes, in float16


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loader")
    (folder / "load.py").write_text(LOADS)
    layers = {f"layers.{index}.weight": torch.ones(1024, 1024, dtype=torch.float16) for index in range(8)}
    torch.save(layers, folder / "net.pth")
    return folder


def test_what_a_naive_script_does_is_named_with_its_bytes_and_its_remedy(home: Home, loader: Path) -> None:
    done = home.meminspect("run", "-s", "script", "--json", "--", "load.py", wrapper=("env", "-C", str(loader)))

    run = done.run
    assert (done.status, run["outcome"], run["theory"]) == (0, "completed", None)
    assert done.stderr.startswith("loading\n")  # stdout is the document's
    found = {one["pattern"]: (one["bytes"], one["strategy"]) for one in run["script"]["patterns"]}
    assert found == {
        "random_initialisation_overwritten": (16 * LAYER, "meta-assign"),
        "whole_state_dict_held": (8 * LAYER, "stream"),
        "float32_detour": (8 * LAYER, "stream"),
    }
    assert run["script"]["files"] == [str(loader / "net.pth")]
    assert (run["script"]["floor_bytes"], run["script"]["floor_of"]) == (16 * LAYER, "model")
    bill = {(line["item"], line["pool"]): line["bytes"] for line in run["bill"]}
    for item in ("floor", "dtype upcast", "duplicate state dict"):
        assert bill[item, "heap"] == 8 * LAYER
    assert bill["imported libraries", "heap"] > 32 << 20
    assert sum(bill.values()) == run["peak"]["rss_bytes"]
    assert run["peak_bracket_bytes"]["rss_bytes"] == 0  # exact, and nothing was reset
    assert run["tensors"]["materialised"] == 8
    with CaptureReader(Path(run["capture"])) as capture:
        assert capture.fact("recipe") == LOADS


@pytest.mark.slow
def test_a_script_with_a_checkpoint_has_the_checkpoints_floor(home: Home, loader: Path) -> None:
    inside = ("env", "-C", str(loader))

    done = home.meminspect("run", "-s", "script", "--ckpt", "net.pth", "--cold", "--", "load.py", wrapper=inside)

    assert (done.status, done.stdout) == (0, "loading\n")
    told = " ".join(done.stderr.split())
    assert "floor 16.00 MiB: the checkpoint's tensors as the model holds them" in told
    assert "→ 32.00 MiB of random weights were made" in told
    assert ", cold page cache (" in told


@pytest.mark.slow
def test_a_function_is_called_as_from_the_current_folder(home: Home, tmp_path: Path) -> None:
    (tmp_path / "package.py").write_text("import sys\ndef load():\n    print(sys.argv, __name__)\n    sys.exit(4)\n")
    inside = ("env", "-C", str(tmp_path))

    done = home.meminspect("run", "-s", "script", "--entry", "package:load", "--", "an", "--argument", wrapper=inside)

    assert (done.status, done.stdout) == (4, "['package:load', 'an', '--argument'] package\n")


@pytest.mark.slow
def test_a_function_that_is_not_there_fails_as_its_import_does(home: Home) -> None:
    absent = home.meminspect("run", "-s", "script", "--entry", "no_such:load")

    assert absent.status == 1
    assert absent.stderr.startswith("ModuleNotFoundError: No module named 'no_such'\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-s", "script"], "-s script runs code of yours, and none is named"),
        (["-s", "script", "--", "no_such.py"], "there is no script no_such.py"),
        (["-s", "script", "--", "."], ". is a folder, not a script"),
        (["-s", "script", "--entry", "nonsense"], "--entry: 'nonsense' is not module:function"),
        (["-s", "script,naive", "--", "load.py"], "-s script runs alone"),
        (["-s", "naive", "--", "load.py"], "'load.py' belongs to -s script"),
        (["-s", "script", "--forward", "--", "load.py"], "--forward says nothing to a script"),
        (["-s", "script", "--cold", "--", "load.py"], "--cold is about a checkpoint, and none is named"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(
    arguments: list[str],
    message: str,
    loader: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:

    monkeypatch.chdir(loader)

    assert main(["run", *arguments]) == 2

    error, hint = capsys.readouterr().err.splitlines()
    assert error == f"meminspect: error: {message}"
    assert hint.startswith("hint: ")
