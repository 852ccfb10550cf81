"""One load in a fresh process: `python one_load.py PATH CONTENDER FILES`, the first and the last in JSON.

Prints a line when it is ready, and loads once it is given one. Then prints one JSON document: seconds until every
tensor is in memory of its own, and how far VmHWM rose meanwhile; or why this contender cannot load here.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK_BYTES = 8 << 20
SECTOR_BYTES = 512
POPULATE_WRITE = 23


def status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def huge_memory(nbytes: int) -> mmap.mmap:
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def read_by_threads(
    files: list[Path], threads: int, place: Callable[[int, int], memoryview], flags: int = os.O_RDONLY
) -> None:
    """Every thread takes the next chunk of the files that nobody has taken: the queue is as deep as they are many."""
    turn, chunks = threading.Lock(), iter(list(every_chunk(files, flags)))

    def work() -> None:
        while True:
            with turn:
                chunk = next(chunks, None)
            if chunk is None:
                return
            descriptor, offset, nbytes, at = chunk
            asked = -(-nbytes // SECTOR_BYTES) * SECTOR_BYTES if flags & os.O_DIRECT else nbytes
            if os.preadv(descriptor, [place(at, asked)], offset) != nbytes:
                raise OSError("a short read")

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def every_chunk(files: list[Path], flags: int) -> Any:
    at = 0
    for path in files:
        descriptor, size = os.open(path, flags), path.stat().st_size
        for offset in range(0, size, CHUNK_BYTES):
            nbytes = min(CHUNK_BYTES, size - offset)
            yield descriptor, offset, nbytes, at
            at += nbytes


def copied(files: list[Path], threads: int, *, touched: bool) -> Callable[[], object]:
    """The machine's floor: the same bytes by the same number of threads, into one stretch of memory."""
    memory = huge_memory(sum(path.stat().st_size for path in files))
    view = memoryview(memory)
    if touched:
        memory.madvise(POPULATE_WRITE)

    def copy() -> object:
        read_by_threads(files, threads, lambda at, nbytes: view[at : at + nbytes])
        return memory

    return copy


def passed(files: list[Path], threads: int, flags: int) -> Callable[[], object]:
    """A sequential read at the same depth that keeps nothing."""
    buffers = threading.local()

    def place(_: int, nbytes: int) -> memoryview:
        if not hasattr(buffers, "mine"):  # made once: zeroing it for every chunk would slow what others are held to
            memory = huge_memory(2 * CHUNK_BYTES)  # small pages, each elsewhere, would make O_DIRECT's requests small
            memory.madvise(POPULATE_WRITE)
            buffers.mine = memoryview(memory)
        mine: memoryview = buffers.mine
        return mine[:nbytes]

    return lambda: read_by_threads(files, threads, place, flags)


def cloned(state_dict: dict[str, Any]) -> dict[str, Any]:
    for name in state_dict:
        state_dict[name] = state_dict[name].clone()
    return state_dict


def by_torch(files: list[Path], *, mapped: bool) -> Callable[[], object]:
    import torch

    def load() -> object:
        state_dict: dict[str, Any] = {}
        for file in files:
            part = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
            state_dict |= cloned(part) if mapped else part
        return state_dict

    return load


def by_safetensors(files: list[Path], *, mapped: bool) -> Callable[[], object]:
    from safetensors.torch import load_file

    def load() -> object:
        state_dict: dict[str, Any] = {}
        for file in files:
            state_dict |= cloned(load_file(file)) if mapped else load_file(file, backend="pread")
        return state_dict

    return load


def by_mapping(files: list[Path], read_ahead: str | None) -> Callable[[], object]:
    """Map, read ahead or not, and look at a byte of every page."""
    import torch
    from safetensors.torch import load_file

    from meminspect.stream import read_ahead as ahead

    def load() -> object:
        state_dict: dict[str, Any] = {}
        for file in files:
            safe = file.suffix == ".safetensors"
            state_dict |= load_file(file) if safe else torch.load(file, mmap=True, weights_only=True)
        if read_ahead is not None:
            ahead(state_dict, read_ahead)
        if read_ahead == "populate":  # it returns when all is there
            return state_dict
        for tensor in state_dict.values():
            tensor.flatten().view(torch.uint8)[:: mmap.PAGESIZE].sum()
        return state_dict

    return load


def by_fastsafetensors(files: list[Path]) -> Callable[[], object]:
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup

    def load() -> object:
        loader = SafeTensorsFileLoader(SingleGroup(), "cpu", nogds=True)
        loader.add_filenames({0: [str(file) for file in files]})
        buffer = loader.copy_files_to_device()
        return loader, buffer, {name: buffer.get_tensor(name) for name in buffer.key_to_rank_lidx}

    return load


def by_runai(files: list[Path]) -> Callable[[], object]:
    from runai_model_streamer import SafetensorsStreamer

    def load() -> object:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([str(file) for file in files])
            return {name: tensor.clone() for name, tensor in streamer.get_tensors()}  # it reuses its buffer

    return load


def by_us(folder: Path) -> Callable[[], object]:
    from meminspect.stream import load

    return lambda: load(None, folder)


def prepared(contender: str, folder: Path) -> Callable[[], object]:
    from meminspect.checkpoint import read_checkpoint
    from meminspect.staging import default_threads

    files, threads = [file.path for file in read_checkpoint(folder).files], default_threads()
    return {
        "floor": lambda: copied(files, threads, touched=False),
        "floor, touched": lambda: copied(files, threads, touched=True),
        "sequential read": lambda: passed(files, threads, os.O_RDONLY),
        "sequential read past the cache": lambda: passed(files, threads, os.O_RDONLY | os.O_DIRECT),
        "stream": lambda: by_us(folder),
        "torch.load": lambda: by_torch(files, mapped=False),
        "torch.load mapped, cloned": lambda: by_torch(files, mapped=True),
        "safetensors mapped, cloned": lambda: by_safetensors(files, mapped=True),
        "safetensors pread": lambda: by_safetensors(files, mapped=False),
        "mapped, touched": lambda: by_mapping(files, None),
        "mapped, populate": lambda: by_mapping(files, "populate"),
        "mapped, thread, touched": lambda: by_mapping(files, "thread"),
        "mapped, willneed, touched": lambda: by_mapping(files, "willneed"),
        "fastsafetensors": lambda: by_fastsafetensors(files),
        "runai-model-streamer": lambda: by_runai(files),
    }[contender]()


def main(contender: str, folder: Path) -> None:
    importlib.import_module("torch")
    try:
        load = prepared(contender, folder)
    except ImportError as error:
        print(json.dumps({"skipped": f"not installed: {error}"}))  # noqa: T201 - the benchmark reads it
        return
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins again here
    before_bytes, began_s = status("VmRSS"), time.perf_counter()
    kept = load()
    took_s = time.perf_counter() - began_s
    print(json.dumps({"s": took_s, "peak_bytes": status("VmHWM") - before_bytes}), flush=True)  # noqa: T201
    del kept


if __name__ == "__main__":
    sys.path[:] = [*json.loads(sys.argv[1]), *sys.path]
    main(sys.argv[2], Path(json.loads(sys.argv[3])))
