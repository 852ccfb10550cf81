"""`meminspect fit`: the smallest memory limit at which each strategy still completes."""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meminspect.analysis.describe import theory_document
from meminspect.analysis.run import run_document
from meminspect.analysis.subject import read_subject
from meminspect.analysis.words import OUTCOME_WORDS
from meminspect.capture.library import default_folder, new_path
from meminspect.capture.store import SUFFIX, CaptureReader
from meminspect.cli import options, output
from meminspect.cli.following import follow
from meminspect.engine.fit import Fit, fit
from meminspect.engine.limits import LEAST_BYTES, require_limits
from meminspect.engine.own_model import with_model_described
from meminspect.engine.preflight import require_device
from meminspect.engine.session import Session
from meminspect.engine.spec import RunSpec
from meminspect.errors import ExitCode
from meminspect.renderables.fit_table import fit_sentence, fit_table
from meminspect.renderables.texts import safe
from meminspect.sampling.machine import read_machine
from meminspect.strategies import find
from meminspect.strategies.task import task_for
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meminspect.checkpoint import Checkpoint
    from meminspect.strategies import LoadOptions

__all__ = ["command"]

_TOLERANCE_BYTES = 16 << 20
_TOLERANCE_SHARE = 100  # or one part in so many of the checkpoint


@click.command()
@options.checkpoint_options
@options.strategies_option
@options.load_options
@click.option(
    "--tolerance",
    metavar="SIZE",
    callback=options.as_size,
    help="How close to the smallest limit.  [default: 1 % of the checkpoint, at least 16 MiB]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Where the capture at each smallest limit goes.  [default: the user's data folder]",
)
@options.decimal_option
@options.json_option
def command(
    ckpt: Path | None,
    strategies: Sequence[str],
    load_options: LoadOptions,
    *,
    demo: bool,
    tolerance: int | None,
    out: Path | None,
    as_json: bool,
) -> int:
    """Find the smallest memory limit at which each strategy still completes, and how slow it is there.

    By bisection: every probe loads the checkpoint from a cold page cache under a limit, as `run --limit` does. The
    limit is for the whole process, so that theory's is the peak of the heap and what the process takes besides.
    """
    require_limits()
    chosen = options.chosen_strategies(strategies)
    checkpoint = options.open_checkpoint(ckpt, demo=demo)
    load_options = with_model_described(load_options, checkpoint)
    task = task_for(checkpoint, load_options)
    chosen = options.able_strategies(chosen, task)
    subject = read_subject(checkpoint, task.architecture, task.note)
    require_device(task, subject.machine)
    tolerance = tolerance or max(_TOLERANCE_BYTES, checkpoint.nbytes // _TOLERANCE_SHARE)
    folder = default_folder() if out is None else out
    found, interrupted = [], False
    for strategy in chosen:
        theory = theory_document(find(strategy).theory(task))
        found.append(Fit(strategy, tolerance, read_machine().usable_bytes, theory=theory))
        interrupted = _search(found[-1], checkpoint, load_options, folder)
        if interrupted:
            break
    fits = [one.document() for one in found]
    if as_json:
        output.print_json(
            {
                "schema": "meminspect.fit/1",
                "checkpoint": subject.document,
                "machine": subject.machine.document(),
                "tolerance_bytes": tolerance,
                "fits": fits,
            }
        )
    else:
        _show(fits, tolerance)
    if interrupted:
        output.status("meminspect: interrupted")
        return ExitCode.INTERRUPTED
    return _exit_code(fits)


def _search(found: Fit, checkpoint: Checkpoint, load_options: LoadOptions, folder: Path) -> bool:
    """Fill in what there is to be known; True where Ctrl-C has ended it."""
    with _ending_in_order(), tempfile.TemporaryDirectory(prefix="meminspect-fit-") as passing:

        def probe(limit_bytes: int | None) -> dict[str, Any]:
            capture = Path(passing, f"{0 if limit_bytes is None else limit_bytes}-{len(found.probes)}{SUFFIX}")
            spec = RunSpec(
                checkpoint.path, found.strategy, capture, load_options, cache="cold", limit_bytes=limit_bytes
            )
            return _run(spec)

        try:
            fit(found, probe, LEAST_BYTES)
        except KeyboardInterrupt:
            return True
        finally:
            _keep(found, checkpoint, folder)
    return False


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """Let a signal that would end us on the spot end the probe first, and remove what is passing."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    deadly = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) == signal.SIG_DFL]  # not nohup's
    for one in deadly:
        signal.signal(one, leave)
    try:
        yield
    finally:
        for one in deadly:
            signal.signal(one, signal.SIG_DFL)


def _run(spec: RunSpec) -> dict[str, Any]:
    limit = "without a limit" if spec.limit_bytes is None else f"at {format_bytes(spec.limit_bytes)}"
    session = Session(spec)
    try:
        follow(session, f"{spec.strategy} {limit}")
    finally:
        session.cancel()
        session.wait()
    with CaptureReader(spec.capture) as capture:
        run = run_document(capture)
    output.status(f"{spec.strategy} {limit}: {OUTCOME_WORDS.get(run['outcome'], run['outcome'])}")
    return run


def _keep(found: Fit, checkpoint: Checkpoint, folder: Path) -> None:
    """Of all captures, the one at the smallest limit."""
    if found.best is None:
        return
    kept = new_path(folder, checkpoint.path, f"{found.strategy}-fit")
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(found.best["capture"], kept)
    found.best = {**found.best, "capture": str(kept)}


def _show(fits: Sequence[dict[str, Any]], tolerance: int) -> None:
    console = output.stdout()
    for one in fits:
        console.print(safe(fit_sentence(one), "answer" if one["answer"] == "found" else "trouble"))
    console.print()
    console.print(fit_table(fits))
    console.print()
    sources = {one["baseline"]["source"] for one in fits}
    process = (
        "as assumed" if sources == {"assumed"} else "as measured" if sources == {"measured"} else "mostly measured"
    )
    for line in (
        f"The smallest limit lies between the two ends, which are no more than {format_bytes(tolerance)} apart.",
        f"Theory: the heap's peak and the process besides, {process}. Times: until resident, one cold run each.",
    ):
        console.print(safe(line, "quiet"))
    kept = [one["capture"] for one in fits if one["capture"] is not None]
    for path in kept:
        console.print(safe(f"  {path}"), soft_wrap=True)


def _exit_code(fits: Sequence[dict[str, Any]]) -> ExitCode:
    answers = {one["answer"] for one in fits}
    if "failed" in answers:
        return ExitCode.FAILED
    return ExitCode.OK if answers == {"found"} else ExitCode.OUT_OF_MEMORY
