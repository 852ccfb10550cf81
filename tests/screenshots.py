"""Draws the pictures in screenshots/ from real runs of the installed command: `python -m tests.screenshots`.

SVG by rich, PNG by a headless Chromium where there is one. The demo checkpoint is what they show.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

FOLDER: Final = Path(__file__).parents[1] / "screenshots"
COLUMNS: Final = 100
SCENARIOS: Final = {
    "inspect": ["inspect", "--demo"],
    "plan": ["plan", "--demo"],
    "run": ["run", "--demo", "-s", "all"],
}


def draw(name: str, arguments: list[str], home: Path) -> None:
    environment = {
        **os.environ,
        "HOME": str(home),
        "XDG_DATA_HOME": str(home / ".local/share"),
        "XDG_CACHE_HOME": str(Path("~/.cache").expanduser()),
        "COLUMNS": str(COLUMNS),
        "FORCE_COLOR": "1",
        "TERM": "xterm-256color",
    }
    command = [sys.executable, "-m", "meminspect", *arguments]
    finished = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    )
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123 - till we exit
    console.print(Text("$ meminspect " + " ".join(arguments), style="bold"))
    console.print(Text.from_ansi(finished.stdout.rstrip()), soft_wrap=True)
    svg = FOLDER / f"{name}.svg"
    console.save_svg(str(svg), title="meminspect", unique_id="meminspect")
    to_png(svg, home)


def to_png(svg: Path, profile: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg.read_text())
    if chromium is None or size is None:
        return
    width, height = (int(float(side)) + 2 for side in size.groups())
    options = (
        "--headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --disable-background-networking "
        f"--disable-component-update --disable-sync --user-data-dir={profile / 'chromium'} "
        f"--window-size={width},{height} --default-background-color=00000000 --screenshot={svg.with_suffix('.png')}"
    )
    subprocess.run([chromium, *options.split(), svg.as_uri()], check=True, stderr=subprocess.DEVNULL)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        for name, arguments in SCENARIOS.items():
            draw(name, arguments, Path(home))


if __name__ == "__main__":
    main()
