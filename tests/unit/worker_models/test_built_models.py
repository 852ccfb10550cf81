from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from meminspect.architectures import ARCHITECTURES, Architecture, Headers, detect
from meminspect.errors import CheckpointError
from meminspect.worker.models import BUILDERS, build

META: dict[str, object] = {"dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 100, "multiple_of": 32}
HF: dict[str, object] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 100,
}
GPT2_HF: dict[str, object] = {"vocab_size": 100, "n_positions": 16, "n_embd": 64, "n_layer": 2, "n_head": 4}
TEACHING: dict[str, object] = {"vocab_size": 100, "context_length": 16, "emb_dim": 64, "n_heads": 4, "n_layers": 2}
LITGPT: dict[str, object] = {
    "n_embd": 64, "n_head": 4, "n_layer": 2, "padded_vocab_size": 100, "intermediate_size": 96, "bias": False,
    "norm_class_name": "RMSNorm", "mlp_class_name": "LLaMAMLP", "parallel_residual": False, "rotary_percentage": 1.0,
    "n_query_groups": 2,
}  # fmt: skip
PYTHIA: dict[str, object] = {"n_embd": 64, "n_head": 4, "n_layer": 2, "padded_vocab_size": 100}
FUSED_BEFORE = {"transformer.h.0.attn.attn.weight": ((192, 64), "float32")}
MASKS = {f"h.{i}.attn.{name}": (shape, "bool") for i in range(2) for name, shape in [("bias", (1, 1, 16, 16))]}
VALUES = {f"h.{i}.attn.masked_bias": ((), "float32") for i in range(2)}

CASES: dict[str, tuple[str, str, dict[str, object], dict[str, Any]]] = {
    "meta": ("llama", "meta", META, {}),
    "meta grouped": ("llama", "meta", {**META, "n_kv_heads": 2}, {}),
    "meta scaled rope": ("llama", "meta", {**META, "use_scaled_rope": True}, {}),
    "meta rope once": ("llama", "meta", META, {"rope.freqs": ((8,), "bfloat16")}),
    "meta rope each": (
        "llama",
        "meta",
        META,
        {f"layers.{i}.attention.inner_attention.rope.freqs": ((8,), "float32") for i in range(2)},
    ),
    "hf": ("llama", "hf", HF, {}),
    "hf grouped and wide": ("llama", "hf", {**HF, "num_key_value_heads": 2, "head_dim": 32}, {}),
    "hf biased": ("llama", "hf", {**HF, "attention_bias": True, "mlp_bias": True}, {}),
    "hf tied, absent": ("llama", "hf", {**HF, "tie_word_embeddings": True}, {}),
    "hf tied, present": (
        "llama",
        "hf",
        {**HF, "tie_word_embeddings": True},
        {"lm_head.weight": ((100, 64), "float32")},
    ),
    "hf frequencies": (
        "llama",
        "hf",
        HF,
        {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": ((8,), "float32") for i in range(2)},
    ),
    "gpt2": ("gpt2", "hf", GPT2_HF, {}),
    "gpt2 tied, present": ("gpt2", "hf", GPT2_HF, {"lm_head.weight": ((100, 64), "float32")}),
    "gpt2 untied": ("gpt2", "hf", {**GPT2_HF, "tie_word_embeddings": False}, {}),
    "gpt2 bare": ("gpt2", "hf", GPT2_HF, {"wte.weight": ((100, 64), "float32"), **MASKS, **VALUES}),
    "gpt2 bare, head": (
        "gpt2",
        "hf",
        GPT2_HF,
        {"wte.weight": ((100, 64), "float32"), "lm_head.weight": ((100, 64), "float32")},
    ),
    "teaching": ("gpt2", "teaching", TEACHING, {}),
    "litgpt": ("litgpt", "litgpt", LITGPT, {}),
    "litgpt pythia": ("litgpt", "litgpt", PYTHIA, {}),
    "litgpt interleaved": ("litgpt", "litgpt", PYTHIA, FUSED_BEFORE),
    "litgpt shared norm": ("litgpt", "litgpt", {**PYTHIA, "shared_attention_norm": True, "lm_head_bias": True}, {}),
    "teaching, no bias": ("gpt2", "teaching", {**TEACHING, "qkv_bias": False}, {}),
}


def architecture_of(case: str) -> Architecture:
    family, naming, config, tensors = CASES[case]
    return ARCHITECTURES[family].architecture(config, naming, Headers(tensors=tensors))


def built_with_registrations(architecture: Architecture) -> tuple[nn.Module, list[int]]:
    """The module and the ids of its tensors in the order in which they were registered."""
    registered: list[int] = []
    keep: list[object] = []  # so that no id is used twice

    def record(module: nn.Module, name: str, value: Any) -> None:
        keep.append(value)
        registered.append(id(value))

    hooks = [
        nn.modules.module.register_module_parameter_registration_hook(record),
        nn.modules.module.register_module_buffer_registration_hook(record),
    ]
    try:
        return build(architecture), registered
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("case", CASES)
def test_module_has_the_declared_tensors_in_the_declared_order(case: str) -> None:
    architecture = architecture_of(case)
    module, registered = built_with_registrations(architecture)
    named = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    assert {name: tuple(value.shape) for name, value in named.items()} == {
        p.name: p.shape for p in architecture.parameters
    }
    assert set(module.state_dict()) == set(named), "non-persistent buffers"
    assert {p.name for p in architecture.parameters if p.buffer} == {name for name, _ in module.named_buffers()}
    order = sorted(named, key=lambda name: registered.index(id(named[name])))
    expected = [p.name for p in architecture.parameters]
    owned = [name for name in expected if not next(p for p in architecture.parameters if p.name == name).tied_to]
    assert [name for name in order if name in owned] == owned


@pytest.mark.parametrize("case", CASES)
def test_tied_tensors_are_one_and_elements_agree(case: str) -> None:
    architecture = architecture_of(case)
    module = build(architecture)
    tensors = dict(module.named_parameters(remove_duplicate=False))
    for parameter in architecture.parameters:
        if parameter.tied_to:
            assert tensors[parameter.name] is tensors[parameter.tied_to]
    unique = {id(value): value.numel() for value in [*module.parameters(), *module.buffers()]}
    assert sum(unique.values()) == architecture.elements


@pytest.mark.parametrize("case", CASES)
def test_forward_gives_finite_causal_logits(case: str) -> None:
    torch.manual_seed(0)
    model = build(architecture_of(case)).eval()
    tokens = torch.randint(100, (2, 8))
    with torch.no_grad():
        logits = model(tokens)
        changed = model(torch.cat([tokens[:, :-1], tokens[:, -1:] ^ 1], dim=1))
    assert logits.shape == (2, 8, 100)
    assert logits.isfinite().all()
    assert torch.allclose(logits[:, :-1], changed[:, :-1], atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_meta_build_is_complete_once_a_state_dict_is_assigned(case: str) -> None:
    architecture = architecture_of(case)
    with torch.device("meta"):
        model = build(architecture)
    assert all(value.is_meta for value in [*model.parameters(), *model.buffers()])
    source = build(architecture).eval()
    model.load_state_dict(source.state_dict(), assign=True)
    tokens = torch.randint(100, (1, 8))
    with torch.no_grad():
        assert torch.equal(model.eval()(tokens), source(tokens))


@pytest.mark.parametrize("case", CASES)
def test_default_dtype_is_honoured(case: str) -> None:
    architecture = architecture_of(case)
    torch.set_default_dtype(torch.bfloat16)
    try:
        module = build(architecture)
        logits = module(torch.zeros(1, 4, dtype=torch.long))
    finally:
        torch.set_default_dtype(torch.float32)
    assert logits.dtype == torch.bfloat16
    named = dict(module.named_parameters()) | dict(module.named_buffers())
    for p in architecture.parameters:
        if p.tied_to is None:
            assert named[p.name].dtype == (torch.bfloat16 if p.dtype is None else getattr(torch, p.dtype))


@pytest.mark.parametrize(
    ("family", "naming", "count"), [("llama", "meta", 70 * 10**9), ("gpt2", "teaching", 1558 * 10**6)]
)
def test_the_largest_models_build_on_meta(family: str, naming: str, count: int) -> None:
    entry = ARCHITECTURES[family]
    architecture = entry.architecture(entry.for_parameters(count, naming), naming)
    with torch.device("meta"):
        model = build(architecture)
    assert sum(value.numel() for value in [*model.parameters(), *model.buffers()]) == architecture.elements


def test_litgpt_computes_what_llama_does_under_hugging_faces_names() -> None:
    torch.manual_seed(0)
    theta = {"rope_base": 500, "norm_eps": 1e-6}
    lit = build(ARCHITECTURES["litgpt"].architecture({**LITGPT, **theta}, "litgpt")).eval()
    config = {**HF, "num_key_value_heads": 2, "intermediate_size": 96, "rope_theta": 500.0}
    hf = build(ARCHITECTURES["llama"].architecture(config, "hf")).eval()
    theirs = hf.state_dict()
    ours = {"lm_head.weight": theirs["lm_head.weight"], "transformer.wte.weight": theirs["model.embed_tokens.weight"],
            "transformer.ln_f.weight": theirs["model.norm.weight"]}  # fmt: skip
    for index in range(2):
        layer, here = f"model.layers.{index}", f"transformer.h.{index}"
        fused = [theirs[f"{layer}.self_attn.{name}_proj.weight"] for name in "qkv"]
        ours |= {
            f"{here}.norm_1.weight": theirs[f"{layer}.input_layernorm.weight"],
            f"{here}.norm_2.weight": theirs[f"{layer}.post_attention_layernorm.weight"],
            f"{here}.attn.qkv.weight": torch.cat(fused),
            f"{here}.attn.proj.weight": theirs[f"{layer}.self_attn.o_proj.weight"],
            f"{here}.mlp.fc_1.weight": theirs[f"{layer}.mlp.gate_proj.weight"],
            f"{here}.mlp.fc_2.weight": theirs[f"{layer}.mlp.up_proj.weight"],
            f"{here}.mlp.proj.weight": theirs[f"{layer}.mlp.down_proj.weight"],
        }
    lit.load_state_dict(ours)
    tokens = torch.randint(100, (2, 12))
    with torch.no_grad():
        assert torch.allclose(lit(tokens), hf(tokens), atol=1e-5)


def test_builders_cover_the_registry() -> None:
    assert set(BUILDERS) == {*ARCHITECTURES, "skeleton"}


def test_meta_and_hf_compute_the_same_under_the_known_permutation() -> None:
    # Given Meta's weights, and the rows of q and k reordered as transformers' conversion script does
    torch.manual_seed(0)
    meta = build(ARCHITECTURES["llama"].architecture({**META, "n_kv_heads": 2, "norm_eps": 1e-6}, "meta"))
    hf = build(ARCHITECTURES["llama"].architecture({**HF, "num_key_value_heads": 2}, "hf"))

    def permuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
        rows, columns = weight.shape
        return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)

    state = dict(zip(hf.state_dict(), meta.state_dict().values(), strict=True))
    state = {
        name.replace("down_proj", "UP").replace("up_proj", "down_proj").replace("UP", "up_proj"): value
        for name, value in state.items()
    }
    for name in state:
        if "q_proj" in name or "k_proj" in name:
            state[name] = permuted(state[name], 4 if "q_proj" in name else 2)
    hf.load_state_dict(state)
    # When both see the same tokens, then they agree
    tokens = torch.randint(100, (2, 12))
    with torch.no_grad():
        assert torch.allclose(meta(tokens), hf(tokens), atol=1e-5)


SKELETON: dict[str, tuple[tuple[int, ...], str]] = {
    "conv.0.weight": ((4, 3, 3), "float16"),
    "tied": ((4, 3, 3), "float16"),
    "scale": ((), "float32"),
    "bn.count": ((), "int64"),
    "half.weight": ((2,), "float32"),  # a method's name
    "to": ((2,), "uint8"),
    "a..b": ((1,), "float32"),
    "flags": ((0,), "bool"),
}


def test_skeleton_has_the_checkpoints_names_shapes_and_ties() -> None:
    architecture = detect(None, SKELETON, [("conv.0.weight", "tied")]).architecture
    for device in ("cpu", "meta"):
        with torch.device(device):
            module = build(architecture)
        state = module.state_dict()
        assert {name: tuple(value.shape) for name, value in state.items()} == {
            name: shape for name, (shape, _) in SKELETON.items()
        }
        assert {str(value.dtype) for name, value in state.items() if name in ("bn.count", "to", "flags")} == {
            "torch.int64",
            "torch.uint8",
            "torch.bool",
        }
        parameters = dict(module.named_parameters(remove_duplicate=False))
        assert parameters["tied"] is parameters["conv.0.weight"]


@pytest.mark.parametrize("assign", [False, True])
def test_skeleton_loads_its_checkpoint(assign: bool) -> None:
    module = build(detect(None, SKELETON).architecture)
    state = {name: torch.ones(shape, dtype=getattr(torch, dtype)) for name, (shape, dtype) in SKELETON.items()}
    module.load_state_dict(state, assign=assign)
    assert all((value == 1).all() for value in module.state_dict().values())


def test_skeleton_computes_nothing() -> None:
    with pytest.raises(NotImplementedError, match="no forward"):
        build(detect(None, SKELETON).architecture)(torch.zeros(1))


@pytest.mark.parametrize(("name", "dtype"), [("training", "float32"), ("_parameters.x", "float32"), ("x", "qint8")])
def test_skeleton_refuses_what_torch_cannot_hold(name: str, dtype: str) -> None:
    with pytest.raises(CheckpointError):
        build(detect(None, {name: ((1,), dtype)}).architecture)


@pytest.mark.parametrize("case", CASES)
def test_an_architecture_tells_which_weights_are_those_of_linear_layers_and_which_of_heads(case: str) -> None:
    architecture = architecture_of(case)
    with torch.device("meta"):
        model = build(architecture)

    told = {parameter.name: parameter for parameter in architecture.parameters if parameter.linear}

    built = {
        f"{name}.weight": module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    }
    assert told.keys() == built.keys()
    for name, module in built.items():
        head = name.rpartition(".")[0] in ("output", "lm_head", "out_head")
        within = "attention" if any(part in name for part in ("attention", "attn", "att.")) else "feed-forward"
        assert told[name].linear == ("head" if head else within)
        assert told[name].transposed != isinstance(module, nn.Linear)
