"""`meminspect plan`: every strategy's theory against what there is. Nothing is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from meminspect.analysis.describe import plan_document
from meminspect.analysis.prospect import prospect_of
from meminspect.analysis.verdict import AIM_WORDS
from meminspect.cli import options, output
from meminspect.engine.own_model import with_model_described
from meminspect.renderables.cards import checkpoint_card, machine_card, warnings_card
from meminspect.renderables.plan_table import PlanTable
from meminspect.renderables.texts import safe
from meminspect.units import format_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from rich.text import Text

    from meminspect.analysis.plan import Plan
    from meminspect.analysis.verdict import Aim
    from meminspect.strategies import LoadOptions

__all__ = ["command"]


@click.command()
@options.checkpoint_options
@options.load_options
@click.option(
    "--ram", callback=options.as_size, metavar="SIZE", help="Plan for this much free RAM instead of this machine's."
)
@click.option("--vram", callback=options.as_size, metavar="SIZE", help="Plan for this much free device memory.")
@click.option(
    "--by",
    type=click.Choice(tuple(AIM_WORDS)),
    help="Sort by, and recommend, the least heap, the least device memory, or what is soonest resident: by the bytes "
    "to write, copy and touch until then.  [default: vram on a device, else heap]",
)
@options.decimal_option
@options.json_option
def command(
    ckpt: Path | None,
    load_options: LoadOptions,
    *,
    demo: bool,
    ram: int | None,
    vram: int | None,
    by: Aim | None,
    as_json: bool,
) -> None:
    """Which way of loading fits: the theory of every strategy, against this machine or against --ram.

    Only headers are read, nothing is loaded. Peaks are above the baseline: what the process takes before it loads.
    """
    options.tell_faults()
    checkpoint = options.open_checkpoint(ckpt, demo=demo)
    load_options = with_model_described(load_options, checkpoint)
    prospect = prospect_of(checkpoint, load_options, ram_bytes=ram, vram_bytes=vram, aim=by)
    subject, plan = prospect.subject, prospect.plan
    if as_json:
        output.print_json(plan_document(plan, subject.document, subject.machine.document()))
        return
    console = output.stdout()
    for line in (_answer(plan), *_about(plan), "", *checkpoint_card(subject)):
        console.print(line)
    console.print(machine_card(subject.machine))
    if ram is not None:
        console.print(safe(f"planned for {format_bytes(ram)} of usable RAM, as --ram says"))
    if vram is not None:
        console.print(safe(f"planned for {format_bytes(vram)} of free device memory, as --vram says"))
    if plan.shared:
        console.print(
            "host and device share one memory: heap, page cache and what is on the device are planned together"
        )
    if load_options.interpreter.python is not None:
        console.print(safe(f"loading in {load_options.interpreter.words()}"))
    for line in (*warnings_card(subject), ""):
        console.print(line)
    table = PlanTable(plan, width=console.width, ascii_only=output.ascii_only(console))
    for line in table.lines():
        console.print(line)


def _answer(plan: Plan) -> Text:
    strategy_id, why = plan.recommendation
    sentence = f"{why[0].upper()}{why[1:]}." if strategy_id is None else f"Take {strategy_id}: {why}."
    return safe(sentence, "answer")


def _about(plan: Plan) -> list[Text]:
    """What the recommended strategy does, and its price."""
    return [
        safe(f"It {row.strategy.summary}. But: {row.strategy.bad}.")
        for row in plan.rows
        if row.strategy.id == plan.recommendation.strategy_id
    ]
