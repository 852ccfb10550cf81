"""Ready-made checkpoints: the demo that the picker offers, and tiny ones that strategies warm up on."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from meminspect.architectures import ARCHITECTURES
from meminspect.errors import UsageError
from meminspect.synthesis.choosing import architecture_for
from meminspect.synthesis.plan import SynthesisSpec
from meminspect.synthesis.writing import synthesise

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["demo_checkpoint", "remove_demo", "tiny_checkpoint"]

_DEMO: Final = "demo-1"  # counts up when the content changes, so that nobody measures a demo of an older version
_DEMO_PARAMETERS: Final = 250_000_000
_DEMO_LAYOUT: Final = "meta"
_SHARDED: Final = "-sharded"

# A few hundred bytes a matrix, two layers; each can be sliced or sharded for two files.
_TINY: Final[dict[tuple[str, str], dict[str, object]]] = {
    ("llama", "meta"): {
        "dim": 16, "n_layers": 2, "n_heads": 2, "vocab_size": 32, "multiple_of": 16, "norm_eps": 1e-5,
    },
    ("llama", "hf"): {
        "hidden_size": 16, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 2,
        "num_hidden_layers": 2, "vocab_size": 32, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
    ("gpt2", "hf"): {
        "n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 16, "vocab_size": 32,
        "bos_token_id": 31, "eos_token_id": 31,
    },
    ("litgpt", "litgpt"): {
        "n_embd": 16, "n_head": 2, "n_layer": 2, "padded_vocab_size": 32, "intermediate_size": 48,
        "norm_class_name": "RMSNorm", "mlp_class_name": "LLaMAMLP", "bias": False, "parallel_residual": False,
        "rotary_percentage": 1.0,
    },
    ("gpt2", "teaching"): {
        "emb_dim": 16, "n_heads": 2, "n_layers": 2, "context_length": 16, "vocab_size": 32,
        "drop_rate": 0.0, "qkv_bias": True,
    },
}  # fmt: skip


def demo_checkpoint(progress: Callable[[int, int], None] | None = None) -> Path:
    """Return the demo, a LLaMA of 250 million parameters in Meta's layout (about 500 MB), written on first use.

    Args:
        progress: see synthesise; not called when the demo is there already.

    Raises:
        UsageError: there is no cache folder, or the demo does not fit into it.
    """
    demo = _cache() / _DEMO
    if _is_complete(demo):
        return demo
    with contextlib.suppress(OSError):
        shutil.rmtree(demo)  # somebody removed a part of it
    architecture = architecture_for("llama", _DEMO_LAYOUT, parameters=_DEMO_PARAMETERS)
    try:
        return synthesise(SynthesisSpec(demo, architecture, _DEMO_LAYOUT), progress)
    except UsageError as error:
        if _is_complete(demo):  # another process was faster
            return demo
        hint = error.hint or "set XDG_CACHE_HOME to a folder that can be written"
        raise UsageError(error.message, hint) from error


def remove_demo() -> int:
    """Remove the demo, and what an interrupted process left of one; return the bytes that this frees.

    Raises:
        UsageError: there is no cache folder, or the demo cannot be removed.
    """
    freed, cache = 0, _cache()
    try:
        for folder in (cache / _DEMO, *cache.glob(f"{_DEMO}.partial-*")):
            if folder.is_dir():
                freed += sum(file.stat().st_size for file in folder.rglob("*"))
                shutil.rmtree(folder)
    except OSError as error:
        raise UsageError(f"cannot remove the demo in {cache}: {error.strerror or error}") from error
    return freed


def tiny_checkpoint(
    architecture_id: str, naming: str, layout_id: str, dtype: str, out: Path, *, shards: int = 1
) -> Path:
    """Write a checkpoint of a few kilobytes, two layers deep, that takes the same path through a loader as a big one.

    Args:
        architecture_id: a key of ARCHITECTURES.
        naming: one of that architecture's namings that the layout has.
        layout_id: a key of LAYOUTS, or with "-sharded" after it, as the readers call what has an index.
        dtype: one of DTYPES.
        out: a folder that does not exist or is empty.
        shards: 1 or 2; more are taken for 2.

    Raises:
        UsageError: there is no such combination, or it cannot be written.
    """
    config = _TINY.get((architecture_id, naming))
    if config is None:
        raise UsageError(f"there is no tiny {architecture_id} with '{naming}' tensor names")
    architecture = ARCHITECTURES[architecture_id].architecture(config, naming)
    layout = layout_id.removesuffix(_SHARDED)
    shards = 2 if layout != layout_id else min(shards, 2)
    return synthesise(SynthesisSpec(out, architecture, layout, dtype, shards))


def _cache() -> Path:
    # Only here, since nothing else of this package needs more than the standard library.
    import platformdirs

    try:
        cache = platformdirs.user_cache_path("meminspect")
    except RuntimeError:  # there is neither HOME nor an entry in passwd, in which case older versions return "~/…"
        cache = Path()
    if not cache.is_absolute():
        raise UsageError("there is no home folder to keep the demo in", "set XDG_CACHE_HOME or HOME")
    return cache


def _is_complete(demo: Path) -> bool:
    return all((demo / name).is_file() for name in ("params.json", "consolidated.00.pth"))
