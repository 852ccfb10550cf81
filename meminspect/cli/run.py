"""`meminspect run`: load with one or several strategies, and show what it took."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meminspect.analysis.repeats import summary
from meminspect.analysis.run import run_document
from meminspect.analysis.subject import read_subject
from meminspect.capture.library import default_folder, new_path
from meminspect.capture.store import SUFFIX, CaptureReader
from meminspect.cli import options, output, results, script
from meminspect.cli.following import follow
from meminspect.devices import kind_of
from meminspect.engine.own_model import with_model_described
from meminspect.engine.preflight import require_device
from meminspect.engine.script import SCRIPT, script_of
from meminspect.engine.session import Session
from meminspect.engine.spec import RunSpec
from meminspect.errors import ExitCode, UsageError
from meminspect.sampling.machine import read_machine
from meminspect.strategies.task import task_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meminspect.analysis.subject import Subject
    from meminspect.checkpoint import Checkpoint
    from meminspect.engine.preparation import CacheState
    from meminspect.strategies import LoadOptions

__all__ = ["command"]

_OF_MEMORY = ("oom_killed", "out_of_memory")


# What stands behind a script's name is the script's.
@click.command(context_settings={"allow_interspersed_args": False})
@options.checkpoint_options
@options.strategies_option
@options.load_options
@click.option(
    "--repeat",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Rounds: all take turns, and who goes first changes.",
)
@click.option("--cold", is_flag=True, help="Drop the checkpoint from the page cache before each run.")
@click.option("--warm", is_flag=True, help="Read the checkpoint into the page cache before each run.")
@click.option(
    "--limit",
    metavar="SIZE",
    callback=options.as_limit,
    help="Give the worker so much memory, as 8GiB, in a cgroup of its own; the checkpoint is read from cold.",
)
@click.option(
    "--timeout",
    metavar="TIME",
    callback=options.as_time,
    help="End a run that takes longer, as 90s, 10min or 1h; imports, warm-up and verification count.",
)
@click.option("--forward", is_flag=True, help="Call the loaded model once, and measure that apart from the load.")
@click.option(
    "--allocator-history",
    is_flag=True,
    help="Record what torch's allocator does on the device, with tensors' names, for `export --to torch-snapshot`.",
)
@click.option("--force", is_flag=True, help="Run although it is predicted not to fit.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help=f"Where captures go: a folder, or a file that ends in {SUFFIX}.  [default: the user's data folder]",
)
@click.option(
    "--entry", metavar="MODULE:FUNCTION", help="With -s script: call this function rather than running a script."
)
@options.decimal_option
@options.json_option
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[-- SCRIPT ARGS...]")
@click.pass_context
def command(
    ctx: click.Context,
    ckpt: Path | None,
    strategies: Sequence[str],
    load_options: LoadOptions,
    *,
    demo: bool,
    repeat: int,
    cold: bool,
    warm: bool,
    limit: int | None,
    timeout: float | None,
    forward: bool,
    allocator_history: bool,
    force: bool,
    out: Path | None,
    entry: str | None,
    words: tuple[str, ...],
    as_json: bool,
) -> int:
    """Load the checkpoint in a worker process, one strategy after the other, and measure it.

    Peaks are above the baseline: the worker after its imports and a warm-up. They are held against the theory.

    -s script runs code of yours instead, as it is: `-- load.py ARGS...` or --entry. Then the exit status is the
    script's, its streams are ours, the result goes to stderr, and --ckpt is optional.
    """
    cache = _cache(cold=cold, warm=warm)
    if script.wanted(strategies, words, entry):
        script.refuse_others(ctx, has_checkpoint=demo or ckpt is not None)
        own = script_of(words, entry)
        asked = RunSpec(
            None, SCRIPT, Path(), load_options, cache=cache, limit_bytes=limit, timeout_s=timeout, repeat_of=repeat,
            script=own,
        )  # fmt: skip
        found = None if ckpt is None and not demo else options.open_checkpoint(ckpt, demo=demo)
        return _run_script(asked, found, out, as_json=as_json)
    chosen = options.chosen_strategies(strategies)
    checkpoint = options.open_checkpoint(ckpt, demo=demo)
    load_options = with_model_described(load_options, checkpoint)
    task = task_for(checkpoint, load_options)
    chosen = options.able_strategies(chosen, task)
    subject = read_subject(checkpoint, task.architecture, task.note)
    require_device(task, subject.machine)
    if allocator_history and kind_of(load_options.device) not in ("cuda", "xpu"):
        where = f"and the load is on {'the ' * (load_options.device == 'cpu')}{load_options.device}"
        raise UsageError(f"--allocator-history is of an allocator that records one, {where}", "--device cuda or xpu")
    asked = RunSpec(
        checkpoint.path, chosen[0], Path(), load_options, force=force, cache=cache, limit_bytes=limit, forward=forward,
        timeout_s=timeout, allocator_history=allocator_history, repeat_of=repeat,
    )  # fmt: skip
    specs = list(_specs(asked, chosen, out))
    for warning in subject.document["warnings"]:
        output.status(f"note: {warning}")
    runs: list[dict[str, Any]] = []
    interrupted = False
    for spec in specs:
        interrupted = _run(spec)
        with CaptureReader(spec.capture) as capture:
            runs.append(run_document(capture))
        if interrupted:
            break
    if as_json:
        _print_document(subject, runs)
    else:
        results.show(runs)
    if interrupted:
        output.status("meminspect: interrupted")
        return ExitCode.INTERRUPTED
    return _exit_code(runs)


def _run_script(asked: RunSpec, checkpoint: Checkpoint | None, out: Path | None, *, as_json: bool) -> int:
    """Run the user's own code, as often as is asked, and tell what it took where it does not print to."""
    subject = None
    if checkpoint is not None:
        task = task_for(checkpoint, asked.options)
        asked = replace(asked, checkpoint=checkpoint.path)
        subject = read_subject(checkpoint, task.architecture, task.note)
    runs: list[dict[str, Any]] = []
    interrupted = False
    for spec in list(_specs(asked, [SCRIPT], out)):
        interrupted = script.run(spec, as_json=as_json)
        with CaptureReader(spec.capture) as capture:
            runs.append(run_document(capture))
        if interrupted:
            break
    if as_json:
        _print_document(subject, runs)
    else:
        results.show(runs, output.stderr())
    if interrupted:
        output.status("meminspect: interrupted")
        return ExitCode.INTERRUPTED
    return script.exit_status(runs)


def _print_document(subject: Subject | None, runs: Sequence[dict[str, Any]]) -> None:
    """The document of all runs; a script's may be of no checkpoint."""
    machine = read_machine() if subject is None else subject.machine
    output.print_json(
        {
            "schema": "meminspect.run/1",
            "checkpoint": None if subject is None else subject.document,
            "machine": machine.document(),
            "runs": runs,
            "summary": summary(runs),
        }
    )


def _cache(*, cold: bool, warm: bool) -> CacheState | None:
    if cold and warm:
        raise UsageError("--cold and --warm contradict each other", "leave one of them out")
    return "cold" if cold else "warm" if warm else None


def _specs(asked: RunSpec, chosen: Sequence[str], out: Path | None) -> Iterator[RunSpec]:
    """What is asked of every run, for each in turn; its strategy and capture are filled in."""
    repeat = asked.repeat_of
    one_file = out is not None and out.suffix == SUFFIX
    if out is not None and one_file:
        if len(chosen) * repeat > 1:
            raise UsageError(f"--out {out} is one file, but this is more than one run", "name a folder")
        if out.exists():
            raise UsageError(f"--out {out} exists already", "name another file, or remove it")
    folder = default_folder() if out is None else out
    for index in range(1, repeat + 1):  # in turn, so that a change of the machine's mood meets all strategies alike
        for strategy in _turns(chosen, index):
            name = f"{strategy}-{index}" if repeat > 1 else strategy
            subject = Path(asked.script.name) if asked.script else asked.checkpoint
            assert subject is not None  # noqa: S101 - only a script may do without a checkpoint
            capture = folder if one_file else new_path(folder, subject, name)
            yield replace(asked, strategy=strategy, capture=capture, repeat_index=index)


def _turns(chosen: Sequence[str], index: int) -> list[str]:
    """A round's order: each takes every place in turn, so that what it is to run first, or last, is not one's own."""
    first = (index - 1) % len(chosen)
    return [*chosen[first:], *chosen[:first]]


def _run(spec: RunSpec) -> bool:
    """Run to the end, or to Ctrl-C, with the capture in order in both cases; True for the latter."""
    session = Session(spec)
    try:
        follow(session)
    except KeyboardInterrupt:
        return True
    finally:
        session.cancel()
        session.wait()
    return False


def _exit_code(runs: Sequence[dict[str, Any]]) -> ExitCode:
    outcomes = {run["outcome"] for run in runs}
    if outcomes & set(_OF_MEMORY):
        return ExitCode.OUT_OF_MEMORY
    return ExitCode.OK if outcomes == {"completed"} and not _wrong(runs) else ExitCode.FAILED


def _wrong(runs: Sequence[dict[str, Any]]) -> bool:
    """Whether a run that completed loaded something else than the checkpoint."""
    return any(run["tensors"]["mismatched"] for run in runs)
