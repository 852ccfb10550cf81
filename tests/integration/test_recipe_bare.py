"""A recipe does the same without us: the same tensors, at the same peak, in a plain interpreter."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from worker_runs import WorkerRun, run_worker

from meminspect.analysis.window import window
from meminspect.strategies import STRATEGIES, LoadOptions
from meminspect.synthesis import SynthesisSpec, architecture_for, naming_for, synthesise, tiny_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

PARAMETERS = 60_000_000
TOLERANCE = 0.02
TOLERANCE_BYTES = 16 << 20

pytestmark = pytest.mark.slow


class Combination(NamedTuple):
    strategy: str
    layout: str
    dtype: str | None

    def __str__(self) -> str:
        return f"{self.strategy} on {self.layout} as {self.dtype}"


COMBINATIONS = [
    Combination("naive", "meta", None),
    Combination("meta-assign", "safetensors", "bfloat16"),
    Combination("lazy-quantize", "safetensors", None),
    Combination("quantize-after", "meta", None),
    Combination("adapters", "meta", "bfloat16"),
    Combination("mmap-assign", "meta", "bfloat16"),
    Combination("sharded", "safetensors", None),
    Combination("naive-cast", "meta", "bfloat16"),
    Combination("direct-device", "safetensors", None),
    Combination("init-module", "meta", "bfloat16"),
    Combination("skip-init", "safetensors", "bfloat16"),
    Combination("sequential", "meta", None),
    Combination("lazy", "safetensors", "bfloat16"),
    Combination("lazy", "meta", "bfloat16"),
    Combination("stream", "safetensors", None),
    Combination("stream-quantize", "safetensors", None),
    Combination("stream", "meta", "bfloat16"),
]


class Outcome(NamedTuple):
    checkpoint: Path
    bare: dict[str, Any]
    worker: WorkerRun


def _write(layout: str, folder: Path) -> tuple[Path, Path]:
    """A checkpoint in a layout, and the tiny one to warm up on."""
    architecture = architecture_for("llama", layout, parameters=PARAMETERS)
    checkpoint = synthesise(SynthesisSpec(folder / layout, architecture, layout))
    return checkpoint, tiny_checkpoint(
        "llama", naming_for("llama", layout), layout, "float16", folder / f"tiny-{layout}"
    )


def _run(combination: Combination, checkpoint: Path, tiny: Path) -> Outcome:
    strategy, _, dtype = combination
    spec = {"strategy": strategy, "checkpoint": str(checkpoint), "tiny": str(tiny), "dtype": dtype or ""}
    program = Path(__file__).with_name("bare_recipe.py")
    done = subprocess.run(
        [sys.executable, str(program), json.dumps(sys.path), json.dumps(spec)],
        capture_output=True,
        text=True,
        check=True,
    )
    return Outcome(
        checkpoint, json.loads(done.stdout), run_worker(strategy, checkpoint, tiny, LoadOptions(dtype=dtype))
    )


@pytest.fixture(scope="module")
def outcome_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Combination], Outcome]:
    """What a combination came to, bare and instrumented; all are run when the first is asked for."""
    folder = tmp_path_factory.mktemp("recipe-bare")
    written = {layout: _write(layout, folder) for layout in {each.layout for each in COMBINATIONS}}
    outcomes: dict[Combination, Future[Outcome]] = {}
    with ThreadPoolExecutor(2) as executor:
        for combination in COMBINATIONS:
            outcomes[combination] = executor.submit(_run, combination, *written[combination.layout])
    return lambda combination: outcomes[combination].result()


@pytest.fixture(params=COMBINATIONS, ids=str)
def combination(request: pytest.FixtureRequest) -> Combination:
    found: Combination = request.param
    return found


def digests_of_the_files(outcome: Outcome, combination: Combination) -> dict[str, str]:
    """The checkpoint read by the libraries themselves, and cast to what the model shall hold."""
    files = [file.path for file in outcome.worker.task.checkpoint.files]
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        tensors |= load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
    # some leave the model in the dtype in which it was built; the rotary frequencies have none of their own
    kept = (combination.dtype or "float16") if STRATEGIES[combination.strategy].casts else "float32"
    dtype = getattr(torch, kept)
    return {
        name: hashlib.sha256(tensor.to(dtype).view(-1).view(torch.uint8).numpy()).hexdigest()
        for name, tensor in tensors.items()
    }


def test_the_bare_recipe_loads_the_tensors_of_the_files(
    combination: Combination, outcome_of: Callable[[Combination], Outcome]
) -> None:
    outcome = outcome_of(combination)
    assert outcome.bare["tensors"] == outcome.worker.reports["tensors"]
    if not STRATEGIES[combination.strategy].changes:
        assert outcome.bare["digests"] == digests_of_the_files(outcome, combination)


def test_the_worker_has_verified_the_same_tensors(
    combination: Combination, outcome_of: Callable[[Combination], Outcome]
) -> None:
    outcome = outcome_of(combination)
    tensors = outcome.worker.reports["tensors"]
    assert outcome.worker.status == 0
    assert tensors["verified"] == tensors["expected"] == len(outcome.worker.task.pieces)


def test_the_bare_recipe_peaks_where_the_instrumented_one_does_and_where_theory_says(
    combination: Combination, outcome_of: Callable[[Combination], Outcome]
) -> None:
    outcome = outcome_of(combination)
    cut = window(outcome.worker.events, [])
    assert cut is not None
    bare_bytes = outcome.bare["peak_bytes"]
    allowed = max(TOLERANCE * bare_bytes, TOLERANCE_BYTES)
    assert abs(cut.peak_rss_bytes - bare_bytes) <= allowed
    theory, reports = STRATEGIES[combination.strategy].theory(outcome.worker.task), outcome.worker.reports
    retained = reports["window"]["retained_at_peak_bytes"] - reports["baseline"]["retained_bytes"]
    assert abs(theory.peak_rss_bytes + retained - bare_bytes) <= allowed
