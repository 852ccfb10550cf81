"""transformers' own model of a checkpoint's config.json."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.strategies.libraries.hugging_face import auto_class, folder_path

if TYPE_CHECKING:
    from torch import nn

    from meminspect.strategies.task import LoadTask

__all__ = ["build"]


def build(task: LoadTask) -> nn.Module:
    """The model that its recipes build, randomly initialised, on the device in context."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder_path(task))
    factory = getattr(transformers, auto_class(task))
    model: nn.Module = factory.from_config(config) if hasattr(factory, "from_config") else factory(config)
    return model
