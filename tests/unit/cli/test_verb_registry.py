from __future__ import annotations

import importlib
import pkgutil

import click

import meminspect.cli
from meminspect.cli.application import root
from meminspect.cli.registry import VERBS


def test_the_registry_lists_exactly_the_verbs_of_the_folder() -> None:
    names = [module.name for module in pkgutil.iter_modules(meminspect.cli.__path__)]
    verbs = [name for name in names if isinstance(getattr(_module(name), "command", None), click.Command)]

    assert sorted(verbs) == sorted(VERBS)


def test_every_verb_explains_itself() -> None:
    for name, summary in VERBS.items():
        command = _module(name).command
        assert command.help, name
        assert summary.endswith("."), name
        assert len(summary) <= 72, name


def test_the_root_command_finds_every_verb() -> None:
    context = click.Context(root)

    assert root.list_commands(context) == list(VERBS)
    assert all(root.get_command(context, name) is _module(name).command for name in VERBS)
    assert root.get_command(context, "options") is None


def _module(name: str):
    return importlib.import_module(f"meminspect.cli.{name}")
