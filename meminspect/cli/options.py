"""Options that several verbs share, and what they come to."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from meminspect.checkpoint import read_checkpoint
from meminspect.cli import output
from meminspect.cli.environment import decimal_option, environment_options
from meminspect.engine.script import SCRIPT
from meminspect.errors import UsageError
from meminspect.sampling.interpreter import OURS
from meminspect.staging import READ_AHEADS
from meminspect.strategies import CASTABLE, PLUGGED_IN, QUANTISATIONS, READ_TO, STRATEGIES, LoadOptions, find
from meminspect.units import parse_bytes, parse_count, parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meminspect.architectures.own import OwnModel
    from meminspect.checkpoint import Checkpoint
    from meminspect.sampling.interpreter import Interpreter
    from meminspect.strategies import LoadTask

__all__ = [
    "able_strategies",
    "as_count",
    "as_limit",
    "as_size",
    "as_time",
    "checkpoint_options",
    "chosen_strategies",
    "decimal_option",
    "json_option",
    "load_options",
    "open_checkpoint",
    "strategies_option",
    "tell_faults",
]

_ALL = "all"

Verb = TypeVar("Verb", bound="Callable[..., Any]")
Quantity = TypeVar("Quantity", int, float)


def as_count(_: click.Context, param: click.Parameter, text: str | None) -> int | None:
    """Callback of an option that takes a count of things, as 1.3B."""
    return _quantity(parse_count, param, text)


def as_size(_: click.Context, param: click.Parameter, text: str | None) -> int | None:
    """Callback of an option that takes bytes, as 8GiB."""
    return _quantity(parse_bytes, param, text)


def as_limit(_: click.Context, param: click.Parameter, text: str | None) -> int | None:
    """Callback of an option that takes a limit on a process's memory."""
    from meminspect.engine.limits import parse_limit

    return _quantity(parse_limit, param, text)


def as_time(_: click.Context, param: click.Parameter, text: str | None) -> float | None:
    """Callback of an option that takes a time, as 10min."""
    return _quantity(parse_duration, param, text)


def _quantity(parse: Callable[[str], Quantity], param: click.Parameter, text: str | None) -> Quantity | None:
    """Parse, and put the option's name before a refusal."""
    if text is None:
        return None
    option = param.opts[0]
    try:
        return parse(text)
    except UsageError as error:
        raise UsageError(f"{option}: {error.message}", error.hint) from error


def checkpoint_options(verb: Verb) -> Verb:
    """Add --ckpt and --demo, which `open_checkpoint` takes."""
    verb = click.option(
        "--demo", is_flag=True, help="Use the demo checkpoint (about 500 MB, written to the cache on first use)."
    )(verb)
    return click.option(
        "--ckpt", type=click.Path(path_type=Path), metavar="PATH", help="A checkpoint file or its folder."
    )(verb)


def load_options(verb: Verb) -> Callable[..., Any]:
    """Add what says how to load, handed over as `load_options`, a LoadOptions."""

    @click.option(
        "--device",
        default="cpu",
        show_default=True,
        help="Where the loaded model shall be: cpu, cuda[:N], xpu[:N] or mps.",
    )
    @click.option("--dtype", type=click.Choice(CASTABLE), help="Its dtype.  [default: as stored]")
    @click.option(
        "--init-dtype",
        type=click.Choice(CASTABLE),
        default="float32",
        show_default=True,
        help="The dtype in which a strategy that builds a model with random weights builds it.",
    )
    @click.option(
        "--read-to",
        type=click.Choice(READ_TO),
        default="device",
        show_default=True,
        help="On a device: where a whole state dict is read to that is copied into the model.",
    )
    @click.option(
        "--quantisation",
        type=click.Choice(QUANTISATIONS),
        default=QUANTISATIONS[0],
        show_default=True,
        help="What a strategy that quantises makes of the linear layers.",
    )
    @click.option(
        "--max-memory",
        "max_memory_bytes",
        callback=as_size,
        metavar="SIZE",
        help="How much of the model may stay on its device; hf-device-map and accelerate-dispatch leave the rest on "
        "disk.  [default: all]",
    )
    @click.option(
        "--read-ahead",
        type=click.Choice(READ_AHEADS),
        help="How mmap-assign brings the pages in before they are touched: all before it returns, by a thread in the "
        "meantime, or as the kernel finds right.  [default: not at all]",
    )
    @environment_options
    @functools.wraps(verb)
    def gathered(
        *args: Any,
        device: str,
        dtype: str | None,
        init_dtype: str,
        read_to: str,
        quantisation: str,
        max_memory_bytes: int | None,
        read_ahead: str | None,
        python: Interpreter | None,
        model: OwnModel | None,
        trust_pickle: bool,
        **others: Any,
    ) -> Any:
        chosen = LoadOptions(
            device, dtype, init_dtype, read_to, quantisation, trust_pickle, python or OURS, model, max_memory_bytes,
            read_ahead,
        )  # fmt: skip
        return verb(*args, load_options=chosen, **others)

    return gathered


def strategies_option(verb: Verb) -> Verb:
    """Add -s, which `chosen_strategies` takes as `strategies`."""
    return click.option(
        "-s",
        "--strategy",
        "strategies",
        multiple=True,
        required=True,
        is_eager=True,  # --python asks what it is for
        metavar="ID",
        shell_complete=_completions,
        help=f"A way of loading, more than once or comma-separated; '{_ALL}' for each that can load it, in turn: "
        f"{', '.join(STRATEGIES)}.",
    )(verb)


def _completions(ctx: click.Context, _: click.Parameter, typed: str) -> list[CompletionItem]:
    """The ids that what stands behind the last comma may become, with what each does."""
    before, comma, beginning = typed.rpartition(",")
    words = {_ALL: "each in turn"} if not comma else {}
    if not comma and ctx.info_name == "run":
        words[SCRIPT] = "code of yours, as it is"
    words.update((id_, strategy.summary) for id_, strategy in STRATEGIES.items())
    return [
        CompletionItem(f"{before}{comma}{id_}", help=summary)
        for id_, summary in words.items()
        if id_.startswith(beginning)
    ]


def chosen_strategies(strategies: Sequence[str]) -> list[str]:
    """The ids that -s names, each once.

    Raises:
        UsageError: it names none, or one that there is not.
    """
    tell_faults()
    ids = [id_.strip() for chosen in strategies for id_ in chosen.split(",") if id_.strip()]
    if _ALL in ids:
        return list(STRATEGIES)
    if not ids:
        raise UsageError("no strategy is named", f"choose from {', '.join(STRATEGIES)}, or {_ALL}")
    return [find(id_).id for id_ in dict.fromkeys(ids)]


def tell_faults() -> None:
    """Say on stderr which plug-ins are left out, and why."""
    for fault in PLUGGED_IN.faults:
        output.status(f"note: {fault}")


def able_strategies(chosen: list[str], task: LoadTask) -> list[str]:
    """Of all strategies those that can load the task, with a note on each other; a choice among them is left as it is.

    What is named is refused where it cannot be done; 'all' means what can be.
    """
    if chosen != list(STRATEGIES):
        return chosen
    reasons = {id_: strategy.why_not(task) for id_, strategy in STRATEGIES.items()}
    able = [id_ for id_, why_not in reasons.items() if why_not is None]
    if not able:
        return chosen
    left_out: dict[str, list[str]] = {}
    for id_, why_not in reasons.items():
        if why_not is not None:
            left_out.setdefault(why_not, []).append(id_)
    for why_not, ids in left_out.items():
        output.status(f"note: {', '.join(ids)} {'is' if len(ids) == 1 else 'are'} left out: {why_not}")
    return able


def json_option(verb: Verb) -> Verb:
    """Add --json, handed over as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")(verb)


def open_checkpoint(ckpt: Path | None, *, demo: bool) -> Checkpoint:
    """Read the headers of the checkpoint that the options name; the demo is written first where need be.

    Raises:
        UsageError: none is named, or two are.
        CheckpointError: it cannot be read.
    """
    if demo and ckpt is not None:
        raise UsageError("--ckpt and --demo name two checkpoints", "leave one of them out")
    if demo:
        return read_checkpoint(demo_path())
    if ckpt is None:
        raise UsageError("no checkpoint is named", "--ckpt PATH, or --demo for one that meminspect writes itself")
    return read_checkpoint(ckpt)


def demo_path() -> Path:
    """The demo's folder; it is written, with progress on stderr, where it is not there yet."""
    from meminspect.synthesis import demo_checkpoint

    with output.byte_progress("writing the demo checkpoint") as progress:
        return demo_checkpoint(progress)
