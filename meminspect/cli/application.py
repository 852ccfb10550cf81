"""The root command: its help, its version, and the verbs, which are imported when they are called."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from meminspect import __version__
from meminspect.cli.environment import decimal_option, environment_options
from meminspect.cli.registry import VERBS
from meminspect.errors import ExitCode, UsageError
from meminspect.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.architectures.own import OwnModel
    from meminspect.sampling.interpreter import Interpreter

__all__ = ["EXIT_CODES", "PIPE_CLOSED", "PROGRAM", "root"]

PROGRAM: Final = "meminspect"

EXIT_CODES: Final[dict[ExitCode, str]] = {
    ExitCode.OK: "done",
    ExitCode.USAGE: "the command line makes no sense, or a file cannot be read",
    ExitCode.OUT_OF_MEMORY: "a run died of memory",
    ExitCode.FAILED: "a run or the program failed otherwise",
    ExitCode.BUDGET_EXCEEDED: "kept for budgets that are exceeded",
    ExitCode.INTERRUPTED: "interrupted",
}

PIPE_CLOSED: Final = 128 + 13  # what a shell sees of a program that dies of SIGPIPE

# \b keeps click from rewrapping the lines that follow.
_EPILOG = (
    "\b\nExit codes:\n"
    + "\n".join(f"  {code.value:<4} {words}" for code, words in EXIT_CODES.items())
    + f'\n\n\b\nShell completion:\n  eval "$(_{PROGRAM.upper()}_COMPLETE=bash_source {PROGRAM})"   (or zsh_, fish_)'
)


class _LazyGroup(click.Group):
    """A group whose commands are listed from the registry and imported on call."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"meminspect.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in VERBS and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise UsageError(f"there is no command '{shown(args[0])}'", _suggestion(args[0]))
        return super().resolve_command(ctx, args)

    # When the reader of stdout goes away click ends with 1, like a failure; help is printed while arguments are parsed.

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        with _pipe_may_close():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _pipe_may_close():
            return super().invoke(ctx)


@contextlib.contextmanager
def _pipe_may_close() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise click.exceptions.Exit(PIPE_CLOSED) from error


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name, VERBS, n=1)
    if close:
        return f"did you mean '{close[0]}'?"
    if "\0" not in name and Path(name).exists():
        return f"a checkpoint is named with --ckpt: {PROGRAM} plan {_checkpoint_arguments(name)}"
    return f"choose from {', '.join(VERBS)}"


def _checkpoint_arguments(path: Path | str | None) -> str:
    return "--demo" if path is None else f"--ckpt {shown(shlex.quote(str(path)), 200)}"


@click.group(
    cls=_LazyGroup,
    invoke_without_command=True,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name=PROGRAM)
@click.option("--ckpt", type=click.Path(path_type=Path), metavar="PATH", help="A checkpoint file or its folder.")
@environment_options
@decimal_option
@click.pass_context
def root(
    ctx: click.Context,
    ckpt: Path | None,
    python: Interpreter | None,
    model: OwnModel | None,
    *,
    trust_pickle: bool,
) -> None:
    """Which way of loading a PyTorch checkpoint fits, how fast is it, and which tensor makes the peak?

    Without a command, in a terminal, it opens the app: on --ckpt, or to pick a checkpoint.
    """
    if ctx.invoked_subcommand is None:
        from meminspect.cli import app

        if ckpt is not None or app.has_terminal():
            ctx.exit(app.open_app(ckpt, python=python, model=model, trust_pickle=trust_pickle))
        click.echo(ctx.get_help())
        click.echo(f"\nStart with: {PROGRAM} plan --demo")
        click.echo(f"Then:       {PROGRAM} run --demo -s all")
    elif ckpt is not None:
        verb = ctx.invoked_subcommand
        raise UsageError("--ckpt belongs behind the command", f"{PROGRAM} {verb} {_checkpoint_arguments(ckpt)}")
    elif python is not None or model is not None or trust_pickle:
        raise UsageError(
            "--python, --model and --trust-pickle belong behind the command", f"{PROGRAM} {ctx.invoked_subcommand} …"
        )
