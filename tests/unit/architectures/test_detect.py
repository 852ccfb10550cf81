from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meminspect.architectures import ARCHITECTURES, Architecture, detect
from meminspect.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

LLAMA, GPT2 = ARCHITECTURES["llama"], ARCHITECTURES["gpt2"]
META = LLAMA.for_parameters(10**6, "meta")
HF = LLAMA.for_parameters(10**6, "hf")
Tensors = dict[str, tuple[tuple[int, ...], str]]


def stored(architecture: Architecture, dtype: str = "float16", files: int = 1) -> Tensors:
    """The headers of a checkpoint of this architecture, or of one of its slices."""
    tensors: Tensors = {}
    for p in architecture.parameters:
        shape = [size // files if index == p.split_dim else size for index, size in enumerate(p.shape)]
        tensors[p.name] = (tuple(shape), p.dtype or dtype)
    return tensors


def tensors_of(family: str, config: Mapping[str, object], naming: str) -> Tensors:
    return stored(ARCHITECTURES[family].architecture(config, naming))


@pytest.mark.parametrize(
    ("family", "naming"), [(family.id, naming) for family in ARCHITECTURES.values() for naming in family.namings]
)
def test_a_checkpoint_with_its_config_is_recognised(family: str, naming: str) -> None:
    config = ARCHITECTURES[family].for_parameters(10**6, naming)
    expected = ARCHITECTURES[family].architecture(config, naming)
    found = detect(config, stored(expected))
    assert found.architecture == expected
    assert found.note == ""


@pytest.mark.parametrize("naming", GPT2.namings)
def test_gpt2_without_a_config_is_recognised_with_its_assumption(naming: str) -> None:
    expected = GPT2.architecture(GPT2.for_parameters(10**6, naming), naming)
    found = detect(None, stored(expected))
    assert found.architecture.parameters == expected.parameters
    assert "number of heads" in found.note


@pytest.mark.parametrize("naming", LLAMA.namings)
def test_llama_without_a_config_is_recognised_only_in_a_published_size(naming: str) -> None:
    published = LLAMA.architecture(LLAMA.for_parameters(70 * 10**9, naming), naming)
    assert detect(None, stored(published)).architecture.parameters == published.parameters
    unknown = detect(None, tensors_of("llama", LLAMA.for_parameters(10**6, naming), naming))
    assert unknown.architecture.id == "skeleton"
    assert "looks like llama" in unknown.note


@pytest.mark.parametrize("files", [2, 4, 8])
def test_slices_of_a_llama_are_joined(files: int) -> None:
    config = {"dim": 128, "n_layers": 2, "n_heads": 8, "vocab_size": 96, "multiple_of": 64}
    whole = LLAMA.architecture(config, "meta")
    found = detect({**config, "vocab_size": -1}, stored(whole, files=files), parallel_files=files)
    assert found.architecture.parameters == whole.parameters


def test_slices_of_something_unknown_are_refused() -> None:
    with pytest.raises(CheckpointError, match="slices"):
        detect(None, {"a.weight": ((2, 2), "float16")}, parallel_files=2)
    tensors = stored(LLAMA.architecture(META, "meta"), files=2) | {"extra": ((2,), "float16")}
    with pytest.raises(CheckpointError, match="'extra'"):
        detect(META, tensors, parallel_files=2)


def test_rotary_buffers_of_old_checkpoints_are_part_of_the_model() -> None:
    tensors = tensors_of("llama", HF, "hf")
    layers = HF["num_hidden_layers"]
    assert isinstance(layers, int)
    tensors |= {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": ((32,), "float32") for i in range(layers)}
    found = detect(HF, tensors)
    assert found.architecture.id == "llama"
    assert sum(p.buffer for p in found.architecture.parameters) == layers


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model.layers.0.extra": ((1,), "float16")}, "no tensor 'model.layers.0.extra'"),
        ({"model.norm.weight": ((65,), "float16")}, "is \\[65\\] and should be"),
        ({"model.norm.weight": ((64,), "int8")}, "stored as int8"),
    ],
)
def test_other_tensors_than_the_models_make_a_skeleton(change: Tensors, reason: str) -> None:
    tensors = tensors_of("llama", HF, "hf") | change
    found = detect(HF, tensors)
    assert found.architecture.id == "skeleton"
    assert [p.name for p in found.architecture.parameters] == list(tensors)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(found.note)


def test_a_missing_tensor_makes_a_skeleton() -> None:
    tensors = tensors_of("llama", HF, "hf")
    del tensors["lm_head.weight"]
    assert "has no tensor 'lm_head.weight'" in detect(HF, tensors).note


@pytest.mark.parametrize(
    "config",
    [
        {**HF, "model_type": "mistral"},
        {**HF, "hidden_act": "gelu"},
        {**HF, "rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
    ],
)
def test_models_that_compute_something_else_under_the_same_names_are_no_llama(config: dict[str, object]) -> None:
    found = detect(config, tensors_of("llama", HF, "hf"))
    assert found.architecture.id == "skeleton"
    assert found.note


def test_tied_heads_follow_the_config_else_the_storage() -> None:
    config: dict[str, object] = GPT2.for_parameters(10**6, "hf")
    tensors = tensors_of("gpt2", config, "hf")
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"]
    tied = [("transformer.wte.weight", "lm_head.weight")]
    for given_config, groups, expected in (
        (config, (), "transformer.wte.weight"),
        (config, tied, "transformer.wte.weight"),
        ({**config, "tie_word_embeddings": False}, (), None),
        (None, tied, "transformer.wte.weight"),
        (None, (), None),
    ):
        found = detect(given_config, tensors, groups)
        assert found.architecture.id == "gpt2"
        assert found.architecture.parameters[-1].tied_to == expected


def test_qwen_like_names_without_positions_make_a_skeleton() -> None:
    tensors = {
        "transformer.wte.weight": ((8, 64), "float16"),
        "transformer.h.0.attn.c_attn.weight": ((64, 192), "float16"),
    }
    assert detect(None, tensors).architecture.id == "skeleton"


def test_skeleton_keeps_order_dtypes_and_ties() -> None:
    tensors: Tensors = {
        "b.weight": ((2, 3), "float16"),
        "a.weight": ((2, 3), "float16"),
        "a.running": ((), "int64"),
        "a.flags": ((4,), "bool"),
    }
    found = detect(None, tensors, tied=[("a.weight", "b.weight")]).architecture
    assert [(p.name, p.buffer, p.dtype, p.tied_to) for p in found.parameters] == [
        ("b.weight", False, None, None),
        ("a.weight", False, None, "b.weight"),
        ("a.running", True, "int64", None),
        ("a.flags", True, "bool", None),
    ]


@pytest.mark.parametrize("names", [("a", "a.b"), ("a.b.c", "a.b")])
def test_a_name_that_others_begin_with_is_a_tensor_like_any_other(names: tuple[str, ...]) -> None:
    found = detect(None, dict.fromkeys(names, ((1,), "float32"))).architecture
    assert [parameter.name for parameter in found.parameters] == list(names)


def test_a_name_of_thousands_of_dots_is_refused() -> None:
    with pytest.raises(CheckpointError) as raised:
        detect(None, {"x" + ".x" * 5000: ((1,), "float32")})
    assert len(raised.value.message) < 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@given(data=st.data())
def test_no_config_breaks_detection_otherwise_than_with_one_line(data: st.DataObject) -> None:
    base, naming = data.draw(st.sampled_from([(META, "meta"), (HF, "hf")]))
    field = data.draw(st.sampled_from([*base, "n_kv_heads", "rope_parameters", "rope_scaling", "head_dim"]))
    config: dict[str, Any] = {**base, field: data.draw(JSON)}
    try:
        complaint = detect(config, tensors_of("llama", base, naming)).note
    except CheckpointError as error:
        complaint = error.message
    assert "\n" not in complaint


def test_litgpts_names_without_its_config_or_with_what_is_not_computed_make_a_skeleton() -> None:
    config = ARCHITECTURES["litgpt"].for_parameters(10**6, "litgpt")
    tensors = tensors_of("litgpt", config, "litgpt")
    assert "no model_config.yaml" in detect(None, tensors).note
    assert "sliding_window_size is not supported" in detect({**config, "sliding_window_size": 4096}, tensors).note
    with pytest.raises(CheckpointError, match="mlp_class_name"):
        detect({**config, "mlp_class_name": "Other"}, tensors)


def test_lit_llamas_names_are_named() -> None:
    names = ("lm_head", "transformer.wte", "transformer.h.0.rms_1", "transformer.h.0.attn.c_attn",
             "transformer.h.0.attn.c_proj", "transformer.h.0.rms_2", "transformer.h.0.mlp.c_fc1",
             "transformer.h.0.mlp.c_fc2", "transformer.h.0.mlp.c_proj", "transformer.ln_f")  # fmt: skip
    tensors: Tensors = {
        f"{name}.scale" if "rms" in name or name.endswith("ln_f") else f"{name}.weight": ((8, 8), "float16")
        for name in names
    }

    found = detect(None, tensors)

    assert found.architecture.id == "skeleton"
    assert found.note.startswith("it has the names of Lit-LLaMA, which no architecture here has")
    assert found.note.endswith("unless --model names its class")


@pytest.mark.parametrize(
    ("config", "hint"),
    [
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, ", as transformers:Qwen2ForCausalLM"),
        ({"model_type": "qwen2", "architectures": ["Qwen2; rm"]}, ""),
        ({"model_type": "qwen2", "architectures": "Qwen2ForCausalLM"}, ""),
        ({"model_type": "qwen2", "architectures": []}, ""),
        ({"architectures": ["Net"]}, ""),
    ],
)
def test_the_class_that_transformers_has_for_it_is_named(config: dict[str, object], hint: str) -> None:
    found = detect(config, {"a.weight": ((8, 8), "float16")})

    assert found.note.endswith(f"unless --model names its class{hint}")
