"""Mutated checkpoints are read or refused, and nothing else happens.

A longer run: `MEMINSPECT_TEST_MUTATIONS=100000 pytest --timeout=0 -k mutated tests/unit/checkpoint`.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
import torch
from checkpoint_archives import archive_of, state_dict, tensor
from checkpoint_files import f32, safetensors_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import deserialize

from meminspect.checkpoint import Checkpoint, read_checkpoint
from meminspect.checkpoint.flat_yaml import read_flat_yaml
from meminspect.checkpoint.torch_globals import Refused
from meminspect.checkpoint.torch_pickle import load_pickle
from meminspect.errors import CheckpointError

SAFETENSORS = safetensors_bytes({"__metadata__": {"a": "b"}, "a": f32(0, 8, 2), "b": f32(8, 12)}, bytes(12))
INDEX = json.dumps(
    {"metadata": {"total_size": 12}, "weight_map": {"a": "a.safetensors", "b": "a.safetensors"}}
).encode()
TORCH = archive_of(state_dict(w=tensor(), v=tensor((2, 2), (1, 2))), _0=bytes(16))
INTERESTING = st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF, *b'{}[]",:0-9.RQcbu(t\x85\x86'])
MUTATIONS = int(os.environ.get("MEMINSPECT_TEST_MUTATIONS", "200"))  # of each kind of header
FUZZ = settings(max_examples=MUTATIONS, deadline=None, suppress_health_check=list(HealthCheck))


def real_torch(*, zipped: bool = True) -> bytes:
    tensors = {"w": torch.ones(4), "h": torch.ones(2).half()[1:], "p": torch.nn.Parameter(torch.ones(2))}
    value = tensors if zipped else {"state_dict": tensors, "optimizer": [{0: torch.ones(3)}], "path": Path("x")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.pth"
        torch.save(value, path, _use_new_zipfile_serialization=zipped)
        return path.read_bytes()


@st.composite
def mutated(draw: st.DrawFn, valid: bytes) -> bytes:
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(["set", "set", "set", "insert", "delete", "cut", "copy"]))
        if kind == "set":
            content[at : at + 1] = bytes([draw(INTERESTING | st.integers(0, 255))])
        elif kind == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=9))
        elif kind == "delete":
            del content[at : at + draw(st.integers(1, 9))]
        elif kind == "cut":
            del content[at:]
        else:
            end = draw(st.integers(at, min(len(content), at + 64)))
            content[at:at] = content[at:end]
    return bytes(content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def read_or_refuse(path: Path) -> None:
    outcome: Checkpoint | CheckpointError
    try:
        outcome = read_checkpoint(path)
    except CheckpointError as error:
        outcome = error
    if isinstance(outcome, CheckpointError):
        assert outcome.message.isprintable()
        assert outcome.hint.isprintable()
    else:
        check(outcome)


def check(checkpoint: Checkpoint) -> None:
    for found in (*checkpoint.tensors, *checkpoint.beside):
        file = checkpoint.files[found.storage.file]
        assert 0 <= found.storage.offset <= found.storage.offset + found.storage.nbytes <= file.nbytes
        assert found.strides is not None or found.offset + found.nbytes <= found.storage.nbytes
    assert all(warning.isprintable() for warning in checkpoint.warnings)


@FUZZ
@given(content=mutated(SAFETENSORS))
def test_given_a_mutated_safetensors_file_then_it_is_read_or_refused(folder: Path, content: bytes) -> None:
    path = folder / "a.safetensors"
    path.write_bytes(content)
    read_or_refuse(path)


@FUZZ
@given(content=mutated(SAFETENSORS))
def test_given_a_mutated_safetensors_file_that_is_read_then_the_reference_reads_the_same(
    folder: Path, content: bytes
) -> None:
    path = folder / "a.safetensors"
    path.write_bytes(content)
    try:
        ours = read_checkpoint(path).tensors
    except CheckpointError:
        return
    read = deserialize(content)  # type: ignore[no-untyped-call]
    reference = {name: (tuple(tensor["shape"]), len(tensor["data"])) for name, tensor in read}
    assert {found.name: (found.shape, found.nbytes) for found in ours} == reference


@FUZZ
@given(content=mutated(INDEX))
def test_given_a_mutated_index_then_it_is_read_or_refused(folder: Path, content: bytes) -> None:
    (folder / "sharded").mkdir(exist_ok=True)
    (folder / "sharded" / "a.safetensors").write_bytes(SAFETENSORS)
    path = folder / "sharded" / "model.safetensors.index.json"
    path.write_bytes(content)
    read_or_refuse(path)


@FUZZ
@given(content=mutated(TORCH) | mutated(real_torch()))
def test_given_a_mutated_torch_archive_then_it_is_read_or_refused(folder: Path, content: bytes) -> None:
    path = folder / "consolidated.00.pth"
    path.write_bytes(content)
    read_or_refuse(path)


@FUZZ
@given(content=mutated(real_torch(zipped=False)))
def test_given_a_mutated_file_of_the_older_format_then_it_is_read_or_refused(folder: Path, content: bytes) -> None:
    path = folder / "a.pth"
    path.write_bytes(content)
    read_or_refuse(path)


@FUZZ
@given(content=st.binary(max_size=200) | st.text(alphabet="ab_: \n'\"1.e-+{}[]#é\x1b", max_size=200).map(str.encode))
def test_given_any_yaml_then_only_scalars_come_of_it(folder: Path, content: bytes) -> None:
    path = folder / "model_config.yaml"
    path.write_bytes(content)
    try:
        values = read_flat_yaml(path).values()
    except CheckpointError:
        return
    assert all(value is None or isinstance(value, (str, int, float, dict, list)) for value in values)


@FUZZ
@given(content=mutated(state_dict(w=tensor(), v=tensor((2, 2), (1, 2)))) | st.binary())
def test_given_a_mutated_pickle_then_it_is_interpreted_or_refused(content: bytes) -> None:
    message = ""
    try:
        load_pickle(content)
    except Refused as error:
        message = str(error)
    assert message.isprintable()
