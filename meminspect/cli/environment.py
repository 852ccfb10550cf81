"""The options that the root command has too, for the app: where a worker runs, what it may do, and units of sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from meminspect.architectures.own import OwnModel
    from meminspect.sampling.interpreter import Interpreter

__all__ = ["decimal_option", "environment_options"]

Verb = TypeVar("Verb", bound="Callable[..., Any]")


def environment_options(verb: Verb) -> Verb:
    """Add --python, handed over as an Interpreter or None, --model as an OwnModel or None, and --trust-pickle."""
    verb = click.option(
        "--model",
        metavar="MODULE:FACTORY",
        callback=_named,
        help="Load into your own model: a class or function, imported by the worker with the current folder on its "
        "path, and called with nothing or with the checkpoint's config.",
    )(verb)
    verb = click.option(
        "--trust-pickle",
        is_flag=True,
        callback=_warned,
        help="Load pickles with weights_only=False: whoever wrote one can run any code as you.",
    )(verb)
    return click.option(
        "--python",
        metavar="PATH",
        callback=_opened,
        help="Load in this Python's environment: 3.10 or newer, with torch 2.1 or newer.  [default: meminspect's own]",
    )(verb)


def decimal_option(verb: Verb) -> Verb:
    """Add --decimal, which holds for all that this process prints or draws."""
    return click.option(
        "--decimal",
        is_flag=True,
        expose_value=False,
        callback=_sizes_chosen,
        help="Sizes in GB (10⁹) rather than GiB (2³⁰).",
    )(verb)


def _sizes_chosen(_: click.Context, __: click.Parameter, decimal: bool) -> None:
    if decimal:
        from meminspect.units import use_decimal

        use_decimal(True)


def _opened(ctx: click.Context, _: click.Parameter, name: str | None) -> Interpreter | None:
    if name is None or ctx.resilient_parsing:
        return None
    from meminspect.engine.script import SCRIPT
    from meminspect.sampling.interpreter import open_interpreter
    from meminspect.strategies import PLUGGED_IN

    chosen = ",".join(ctx.params.get("strategies") or ())  # eager: it has been read, wherever it stands
    return open_interpreter(name, needs_torch=chosen != SCRIPT, also=PLUGGED_IN.packages)


def _named(ctx: click.Context, _: click.Parameter, name: str | None) -> OwnModel | None:
    if name is None or ctx.resilient_parsing:
        return None
    from meminspect.engine.own_model import own_model

    return own_model(name)


def _warned(ctx: click.Context, _: click.Parameter, trusted: bool) -> bool:
    if trusted and not ctx.resilient_parsing:
        from meminspect.cli import output
        from meminspect.strategies.task import TRUSTS

        output.status(f"warning: {TRUSTS}")
    return trusted
