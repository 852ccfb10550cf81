from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from meminspect.checkpoint import read_checkpoint
from meminspect.strategies import LoadOptions
from meminspect.strategies.task import task_for
from meminspect.synthesis import tiny_checkpoint
from meminspect.worker import models
from meminspect.worker.forward import first_forward, warm_up

if TYPE_CHECKING:
    from pathlib import Path

    from worker_doubles import Recording

from meminspect.capture.records import EventKind


@pytest.fixture(autouse=True)
def books(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording.recorder, "books", lambda: {"read_bytes": 1, "major_faults": 2, "minor_faults": 3})


def reported(recording: Recording, model: nn.Module) -> tuple[list[str], dict[str, Any]]:
    """The names of phases and readings, and the report."""
    first_forward(model, recording.recorder)
    events = recording.events()
    reports = [json.loads(event.detail) for event in events if event.kind is EventKind.REPORT]
    assert len(reports) == 1
    return [event.name for event in events if event.kind is not EventKind.REPORT], reports[0]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("architecture", "naming", "layout"), [("llama", "hf", "safetensors"), ("llama", "meta", "meta"),
                                           ("gpt2", "hf", "safetensors")],
)  # fmt: skip
def test_models_of_every_architecture_and_dtype_are_called(
    architecture: str, naming: str, layout: str, dtype: str, recording: Recording, tmp_path: Path
) -> None:
    path = tiny_checkpoint(architecture, naming, layout, dtype, tmp_path / "tiny")
    model = models.build(task_for(read_checkpoint(path), LoadOptions()).architecture).to(getattr(torch, dtype))
    names, report = reported(recording, model)
    assert names == ["first forward", "forward begins", "forward ends"]
    assert report["s"] > 0
    assert report["resets"] is True
    assert report["before"] == report["after"] == {"read_bytes": 1, "major_faults": 2, "minor_faults": 3}
    assert all(parameter.grad is None for parameter in model.parameters())


class Positions(nn.Module):
    """A model with two positions only."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(9, 4), nn.Embedding(2, 4)
        self.seen: list[int] = []

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        self.seen += tokens.flatten().tolist()
        return self.tokens(tokens) + self.positions(torch.arange(tokens.shape[-1]))  # type: ignore[no-any-return]


def test_no_more_tokens_are_given_than_there_are_positions(recording: Recording) -> None:
    model = Positions()
    assert "s" in reported(recording, model)[1]
    assert model.seen == [0, 1]


class Broken(Positions):
    """A model that some kernel is missing for."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("\"addmm\" not implemented for 'Half'")


def test_a_pass_that_raises_is_reported_and_nothing_is_raised(recording: Recording) -> None:
    names, report = reported(recording, Broken())
    assert names == ["first forward", "forward begins"]
    assert report == {"error": "RuntimeError: \"addmm\" not implemented for 'Half'"}
    warm_up(Broken())


def test_a_skeleton_has_no_pass_and_a_reason(recording: Recording) -> None:
    names, report = reported(recording, models.skeleton.Skeleton())
    assert names == []
    assert "no forward pass" in report["reason"]
    warm_up(models.skeleton.Skeleton())
