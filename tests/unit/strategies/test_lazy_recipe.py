"""What the lazy recipe does to a model of the user's own: ties, rotary caches, adapters, and what nobody fills."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from meminspect.architectures import Architecture
from meminspect.checkpoint import read_checkpoint
from meminspect.strategies import STRATEGIES, LoadOptions
from meminspect.strategies.task import LoadTask

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WIDTH, WORDS = 4, 10


class Rotary(nn.Module):
    """A cache that no state dict has."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cache", torch.arange(WIDTH) * 1.5, persistent=False)

    def reset_parameters(self) -> None:
        self.register_buffer(
            "cache", torch.arange(WIDTH, device=self.get_buffer("cache").device) * 1.5, persistent=False
        )


class Adapted(nn.Linear):
    """A low-rank adapter in the module of its own base, which begins as no change at all."""

    def __init__(self) -> None:
        super().__init__(WIDTH, WIDTH, bias=False)
        self.down = nn.Parameter(torch.empty(2, WIDTH))
        self.up = nn.Parameter(torch.empty(WIDTH, 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if hasattr(self, "down"):
            nn.init.ones_(self.down)
            nn.init.zeros_(self.up)


class Tied(nn.Module):
    """A head whose weight is the embedding's."""

    def __init__(self, *parts: type[nn.Module]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.parts = nn.ModuleList(part() for part in parts)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.embedding.weight


def load(file: Path, build: Callable[[], nn.Module], **options: Any) -> Any:
    """Run the recipe for a file as it is pasted, with a model of one's own."""
    task = LoadTask(read_checkpoint(file), Architecture("skeleton", "checkpoint", {}, ()), LoadOptions(**options))
    names: dict[str, Any] = {"Model": lambda _: build(), "config": None}
    exec(STRATEGIES["lazy"].recipe(task), names)  # noqa: S102 - the text under test
    return names["model"]


WORDS_AS_STORED = torch.randn(WORDS, WIDTH, generator=torch.Generator().manual_seed(0)).half()


@pytest.fixture(params=["safetensors with one of the names", "pickle with both of the names"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    base = torch.full((WIDTH, WIDTH), 7.0).half()
    if "one" in request.param:
        save_file({"embedding.weight": WORDS_AS_STORED, "parts.0.weight": base}, tmp_path / "model.safetensors")
        return tmp_path / "model.safetensors"
    both = {"embedding.weight": WORDS_AS_STORED, "parts.0.weight": base, "head.weight": WORDS_AS_STORED}
    torch.save(both, tmp_path / "consolidated.00.pth")
    return tmp_path / "consolidated.00.pth"


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float16"])
def test_tied_weights_stay_tied_and_have_memory_of_their_own(file: Path, dtype: str | None) -> None:
    model = load(file, lambda: Tied(Adapted), dtype=dtype)

    assert model.head.weight is model.embedding.weight
    assert model.embedding.weight.requires_grad
    expected = WORDS_AS_STORED.to(getattr(torch, dtype or "float16"))
    assert torch.equal(model.embedding.weight, expected)
    assert model.embedding.weight.untyped_storage().nbytes() == WORDS * WIDTH * 2, "no view of the file"


def test_what_the_file_lacks_begins_as_its_module_makes_it_and_what_it_has_is_left_alone(file: Path) -> None:
    model = load(file, lambda: Tied(Adapted, Rotary))

    adapted, rotary = model.parts
    assert torch.equal(adapted.weight, torch.full((WIDTH, WIDTH), 7.0).half())
    assert isinstance(adapted.weight, nn.Parameter)
    assert torch.equal(adapted.down, torch.ones(2, WIDTH))
    assert torch.equal(adapted.up, torch.zeros(WIDTH, 2))
    assert torch.equal(rotary.cache, torch.arange(WIDTH) * 1.5)


def test_what_nobody_fills_is_named(file: Path) -> None:
    class Forgetful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(3))

    with pytest.raises(RuntimeError, match=r"^left on the meta device: parts\.1\.gain$"):
        load(file, lambda: Tied(Adapted, Forgetful))
