"""Our modules compute what transformers' do, given the same weights."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before the import that reads it

from typing import Any

import pytest
import torch

from meminspect.architectures import detect
from meminspect.worker.models import build

transformers = pytest.importorskip("transformers")

LLAMA: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 100,
    "max_position_embeddings": 64,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
GPT2: dict[str, Any] = {"vocab_size": 100, "n_positions": 32, "n_embd": 64, "n_layer": 2, "n_head": 4}


def assert_same_logits(reference: Any) -> None:
    with torch.no_grad():
        for parameter in reference.parameters():  # norms and biases too, which start as ones and zeros
            parameter.normal_(std=0.2)
    state = reference.state_dict()
    headers = {name: (tuple(value.shape), str(value.dtype).removeprefix("torch.")) for name, value in state.items()}
    pointers = [(name, other) for name in state for other in state if name < other]
    tied = [pair for pair in pointers if state[pair[0]].data_ptr() == state[pair[1]].data_ptr()]
    found = detect(reference.config.to_dict(), headers, tied)
    assert found.note == ""
    model = build(found.architecture).eval()
    model.load_state_dict(state)
    tokens = torch.randint(100, (2, 24))
    with torch.no_grad():
        assert torch.allclose(model(tokens), reference.eval()(tokens).logits, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"tie_word_embeddings": True},
        {"head_dim": 32, "attention_bias": True, "mlp_bias": True},
        {"rope_parameters": LLAMA3_ROPE},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0}},
        {"rope_theta": 100.0, "rms_norm_eps": 1e-3},
    ],
    ids=["plain", "tied", "biases", "llama3 rope", "linear rope", "old rope field"],
)
def test_llama(change: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**LLAMA, **change})
    assert_same_logits(transformers.LlamaForCausalLM(config))


@pytest.mark.parametrize(
    "change", [{}, {"n_inner": 96}, {"tie_word_embeddings": False}], ids=["tied", "inner", "untied"]
)
def test_gpt2(change: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(**{**GPT2, **change})
    assert_same_logits(transformers.GPT2LMHeadModel(config))


@pytest.mark.parametrize("parallel", [True, False])
def test_pythia_under_litgpts_names_is_gpt_neox(parallel: bool) -> None:
    neox = transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(
            vocab_size=128, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256,
            max_position_embeddings=64, use_parallel_residual=parallel,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in neox.parameters():
            parameter.normal_(std=0.2)
    # As litgpt/scripts/convert_hf_checkpoint.py renames them; both keep query, key and value of a head together.
    names = {
        "gpt_neox.embed_in": "transformer.wte", "gpt_neox.layers": "transformer.h", "embed_out": "lm_head",
        "input_layernorm": "norm_1", "post_attention_layernorm": "norm_2", "attention.query_key_value": "attn.attn",
        "attention.dense": "attn.proj", "mlp.dense_h_to_4h": "mlp.fc", "mlp.dense_4h_to_h": "mlp.proj",
        "gpt_neox.final_layer_norm": "transformer.ln_f",
    }  # fmt: skip
    state = {}
    for name, value in neox.state_dict().items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        state[name] = value
    config = {
        "name": "pythia", "n_embd": 64, "n_head": 4, "n_layer": 2, "vocab_size": 128, "padding_multiple": 128,
        "parallel_residual": parallel,
    }  # fmt: skip
    headers = {name: (tuple(value.shape), "float32") for name, value in state.items()}
    found = detect(config, headers)
    assert (found.note, found.architecture.id) == ("", "litgpt")
    model = build(found.architecture).eval()
    model.load_state_dict(state)
    tokens = torch.randint(128, (2, 24))
    with torch.no_grad():
        assert torch.allclose(model(tokens), neox(tokens).logits, atol=1e-4)
