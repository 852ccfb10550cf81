"""`meminspect explain`: what a strategy does, in which order, and what it is good and bad for. Nothing is loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import click

from meminspect.analysis.advice import better_than
from meminspect.analysis.describe import theory_document
from meminspect.analysis.explanation import explanation_of
from meminspect.cli import options, output
from meminspect.engine.own_model import with_model_described
from meminspect.errors import UsageError
from meminspect.renderables.explanation import Story
from meminspect.renderables.texts import heading, safe
from meminspect.renderables.timeline import ASCII, UNICODE
from meminspect.strategies import find
from meminspect.strategies.task import task_for
from meminspect.synthesis import imagined_checkpoint
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from meminspect.analysis.explanation import Explanation
    from meminspect.strategies import LoadOptions, LoadTask, Strategy

__all__ = ["command"]

_NEEDED: Final = (
    ("heap", "heap_bytes"),
    ("file pages that can be reclaimed", "file_bytes"),
    ("pinned memory", "pinned_bytes"),
    ("vram", "vram_allocated_bytes"),
)


@click.command()
@click.argument("strategy_id", metavar="STRATEGY")
@options.checkpoint_options
@options.load_options
@options.decimal_option
@options.json_option
def command(strategy_id: str, ckpt: Path | None, load_options: LoadOptions, *, demo: bool, as_json: bool) -> None:
    """What STRATEGY does, in which order, with what it holds meanwhile, and what to use instead.

    Without a checkpoint it is told of one that does not exist: LLaMA 7B in float16. The picture is theory's: bytes of
    work stand for time.
    """
    options.tell_faults()
    strategy = find(strategy_id)
    imagined = ckpt is None and not demo
    if imagined:
        checkpoint = imagined_checkpoint(per_tensor=strategy.id == "per-tensor-files")
    else:
        checkpoint = options.open_checkpoint(ckpt, demo=demo)
    task = task_for(checkpoint, with_model_described(load_options, checkpoint))
    why_not = replace(strategy, packages=()).why_not(task)  # what is explained need not be installed
    if why_not is not None:
        raise UsageError(f"{strategy.id} cannot load this: {why_not}", "meminspect plan names those that can")
    explanation = explanation_of(strategy, task)
    better = better_than(strategy.id, task, None)
    if as_json:
        output.print_json(_document(strategy, task, explanation, better))
        return
    console = output.stdout()
    subject = "LLaMA 7B in float16, which is imagined (--ckpt PATH for yours)" if imagined else str(checkpoint.path)
    console.print(safe(f"{strategy.id} {strategy.summary}.", "answer"))
    console.print(safe(f"for: {strategy.good}"))
    console.print(safe(f"but: {strategy.bad}"))
    console.print(safe(f"instead: {_instead(better)}"))
    console.print()
    console.print(heading(f"what happens, for {subject}"))
    glyphs = ASCII if output.ascii_only(console) else UNICODE
    console.print(Story(explanation, strategy.theory(task), glyphs))
    console.print()
    console.print(heading("the lines that are executed"))
    for code in strategy.recipe(task).splitlines():
        console.print(safe(code), soft_wrap=True)


def _instead(better: dict[str, Any] | None) -> str:
    if better is None:
        return "nothing needs noticeably less"
    held = " + ".join(f"{format_bytes(better['peak'][key])} of {pool}" for pool, key in _NEEDED if better["peak"][key])
    return f"{better['strategy']}, which needs {held or 'nothing'}"


def _document(
    strategy: Strategy, task: LoadTask, explanation: Explanation, better: dict[str, Any] | None
) -> dict[str, object]:
    return {
        "schema": "meminspect.explain/1",
        "strategy": strategy.id,
        "summary": strategy.summary,
        "good": strategy.good,
        "bad": strategy.bad,
        "instead": None if better is None else better["strategy"],
        "stages": [
            {
                "phases": list(stage.phases),
                "turns": stage.turns,
                "peak": {pool.name.lower(): nbytes for pool, nbytes in stage.peak.items()},
            }
            for stage in explanation.stages
        ],
        "theory": theory_document(strategy.theory(task)),
        "recipe": strategy.recipe(task),
    }
