"""The verbs of the command line: one module each, one line here, in the order in which the help shows them.

A verb's module is imported when it is called, so that `--help` and the app's first frame pay for none of them. It is
named after the verb and has its click command as `command`.
"""

from __future__ import annotations

from typing import Final

__all__ = ["VERBS"]

VERBS: Final[dict[str, str]] = {
    "inspect": "What a checkpoint is: layout, files, dtypes, tensors, file system.",
    "plan": "Which way of loading fits: every strategy's theory; nothing is loaded.",
    "explain": "What a strategy does, step by step, and what to use instead.",
    "run": "Load with one or several strategies, and measure it.",
    "fit": "The smallest memory limit at which each strategy still completes.",
    "view": "The app on saved captures; several are compared.",
    "export": "Write a capture in another format.",
    "synth": "Write a checkpoint of any size in a real tool's layout.",
    "demo": "Write, find or remove the demo checkpoint.",
}
