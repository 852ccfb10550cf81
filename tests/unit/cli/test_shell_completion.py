"""What Tab offers, and what it takes: neither torch nor time."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMMAND = "import sys; sys.argv = ['meminspect']; from meminspect.cli import main; main()"


def asked(shell: str, words: str = "", **environment: str) -> str:
    code = f"import sys, atexit\natexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr))\n{COMMAND}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=False,
        env={"_MEMINSPECT_COMPLETE": shell, "COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), **environment},
    )  # fmt: skip
    assert not {"torch", "numpy", "textual"} & set(done.stderr.split()), done.stderr
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell: str) -> None:
    assert "_MEMINSPECT_COMPLETE" in asked(f"{shell}_source", PATH="/usr/bin:/bin")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("meminspect expo", ["plain,export"]),
        ("meminspect run -s m", ["plain,mmap-assign", "plain,meta-assign"]),
        ("meminspect run -s naive,sh", ["plain,naive,sharded"]),
        ("meminspect run --ckpt mod", ["file,mod"]),
        ("meminspect run --dtype bfl", ["plain,bfloat16"]),
    ],
)
def test_verbs_strategies_and_paths_are_completed(words: str, offered: list[str]) -> None:
    assert asked("bash_complete", words).split() == offered
