"""The README's plug-in, installed as a package is and run; and one that is broken beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from checkpoint_variants import Variants
    from command_line import Home

README = Path(__file__).parents[2] / "README.md"


def block(mark: str) -> str:
    """The block of code behind a mark of the README."""
    return README.read_text().partition(f"<!-- {mark} -->\n```")[2].partition("\n")[2].partition("```")[0]


def installed(site: Path, name: str, module: str, entry: str) -> None:
    """A package as pip leaves it: its module, and its metadata beside it."""
    metadata = site / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[meminspect.strategies]\n{entry}\n")
    (site / f"{name}.py").write_text(module)


def test_the_readmes_plug_in_is_planned_run_and_verified_and_a_broken_one_is_told(
    home: Home, variants: Variants, tmp_path: Path
) -> None:
    # given both on the import path, as if they were installed
    site = tmp_path / "site"
    entry = block("entry point").splitlines()[1].replace('"', "")
    installed(site, "clone_assign", block("plug-in"), entry)
    installed(site, "broken", "import no_such_library", "broken = broken:STRATEGY")
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))

    done = home.meminspect("run", "-s", "clone-assign", "--ckpt", variants["shards"], "--json", PYTHONPATH=path)

    run = done.run
    told = "plug-in 'broken' of broken 1.0 is left out: ModuleNotFoundError: No module named 'no_such_library'"
    assert f"note: {told}" in done.stderr.splitlines()
    assert (done.status, run["outcome"]) == (0, "completed"), run["message"]
    assert run["tensors"]["verified"] == run["tensors"]["expected"]
    theory = run["theory"]["peak_rss_bytes"]
    assert abs(run["peak"]["rss_bytes"] - theory) < max(0.03 * theory, 32 << 20)


def test_the_readmes_plug_in_is_short() -> None:
    assert len([line for line in block("plug-in").splitlines() if line]) <= 26
