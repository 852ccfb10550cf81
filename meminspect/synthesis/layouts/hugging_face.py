"""What the two Hugging Face layouts have in common: config.json, the names of shards and their index.

Source: https://github.com/huggingface/huggingface_hub, serialization/_base.py (`StateDictSplit`) and _torch.py
(`save_torch_state_dict`); transformers, modeling_utils.py (`save_pretrained`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meminspect.synthesis.plan import Plan, PlannedFile, balanced, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meminspect.synthesis.output import Output
    from meminspect.synthesis.plan import PlannedTensor, SynthesisSpec

    WriterOf = Callable[[str, tuple[PlannedTensor, ...]], Callable[[Output], None]]

__all__ = ["NAMINGS", "config_of", "plan_shards"]

NAMINGS: Final = {"llama": ("hf",), "gpt2": ("hf", "teaching")}

_MODEL_CLASSES: Final = {"llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel"}


def plan_shards(spec: SynthesisSpec, stem: str, suffix: str, writer_of: WriterOf, *, keep_ties: bool = False) -> Plan:
    """Plan `stem.suffix`, or `stem-00001-of-0000N.suffix` … with their index.

    Args:
        spec: what is wanted.
        stem: "model" or "pytorch_model".
        suffix: with its dot.
        writer_of: gives, for a file's name without suffix and its tensors, the function that writes them.
        keep_ties: whether the files have tied tensors under their second names too.
    """
    groups = balanced(tuple(whole(spec)), spec.shards)
    stems = [stem] if spec.shards == 1 else [f"{stem}-{i:05}-of-{spec.shards:05}" for i in range(1, spec.shards + 1)]
    files = tuple(
        PlannedFile(f"{name}{suffix}", tensors, writer_of(name, tensors))
        for name, tensors in zip(stems, groups, strict=True)
    )
    texts = {"config.json": config_of(spec)}
    if spec.shards > 1:
        texts[f"{stem}{suffix}.index.json"] = _index(spec, files, keep_ties)
    return Plan(files, texts)


def _index(spec: SynthesisSpec, files: Sequence[PlannedFile], keep_ties: bool) -> dict[str, object]:
    weight_map = {tensor.name: file.name for file in files for tensor in file.tensors}
    for parameter in spec.architecture.parameters:
        if keep_ties and parameter.tied_to is not None:
            weight_map[parameter.name] = weight_map[parameter.tied_to]
    total = sum(tensor.source.nbytes for file in files for tensor in file.tensors)
    metadata = {"total_parameters": spec.architecture.elements, "total_size": total}
    return {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}


def config_of(spec: SynthesisSpec) -> dict[str, object]:
    """Add what transformers needs to recognise the model; other namings keep their config as it is."""
    architecture = spec.architecture
    if architecture.naming != "hf":
        return dict(architecture.config)
    model = {"architectures": [_MODEL_CLASSES[architecture.id]], "model_type": architecture.id}
    # Of float8 the weights alone may be: torch builds no model in it, so that such configs name what it computes in.
    dtype = "bfloat16" if spec.dtype.startswith("float8") else spec.dtype
    config = {**model, **architecture.config, "torch_dtype": dtype}
    # Versions before 4.56 know only the name above, those after read either; two names could contradict each other.
    config.pop("dtype", None)
    return config
