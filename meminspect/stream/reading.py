"""Reads planned stretches of files with a few threads, each at positions of its own, into where they belong."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

from meminspect.staging import SECTOR_BYTES
from meminspect.stream.files import Files
from meminspect.stream.memory import Memory
from meminspect.stream.sending import PinnedBlock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from meminspect.checkpoint.model import StoredTensor
    from meminspect.stream.memory import Block

__all__ = ["Filling", "Observer", "Part", "Read", "read_all", "residue"]


class Part(NamedTuple):
    """Memory that comes to be: a tensor's, or that of several which share it; or a thread's staging."""

    name: str
    stored: StoredTensor | None  # where in the checkpoint the first of its bytes are; None for staging
    tensor: torch.Tensor
    pinned: bool = False  # page-locked


class Observer(Protocol):
    """Whoever watches a load. Called from the reading threads, but never by two at once."""

    def begins(self, part: Part) -> None:
        """Its memory is about to be written to for the first time."""

    def ends(self, part: Part) -> None:
        """The last of its bytes are there."""

    def drops(self, part: Part) -> None:
        """Staging is about to be given back: nothing is being read any more."""

    def assigned(self, name: str, tensor: torch.Tensor) -> None:
        """The model has taken a tensor over, by the first of its names in the model."""


@dataclass(slots=True, eq=False)
class Filling:
    """Parts that are filled together, and by how many reads that have not been carried out yet."""

    parts: tuple[Part, ...]
    reads_left: int = 0
    begun: bool = False


class Read(NamedTuple):
    """A stretch of a file, and where it goes: straight to `target`, or through staging to whatever `deliver` does."""

    file: int  # index into the files
    offset: int  # bytes from the start of the file
    nbytes: int
    filling: Filling
    target: memoryview | None
    deliver: Callable[[torch.Tensor, torch.Tensor], None] | None = None  # takes bytes, overwritten next, and scratch
    residue: int = 0  # where in a sector they begin in staging
    scratch_bytes: int = 0  # that `deliver` works in


def residue(offset: int, stored: torch.dtype) -> int:
    """Where in a sector bytes of a file begin, and begin in memory too, unless elements would lie askew then."""
    return 0 if offset % stored.itemsize else offset % SECTOR_BYTES


def read_all(
    paths: Sequence[Path],
    sizes: Sequence[int],
    reads: Sequence[Read],
    threads: int,
    done: Callable[[int], object],
    observer: Observer | None = None,
    *,
    pinned: bool = False,
) -> None:
    """Carry out all reads; return when the last is done, or when all threads have ended after the first that failed.

    Args:
        paths: the files.
        sizes: what each was long when its header was read.
        reads: what to read, in the order in which it is begun.
        threads: how many read at once.
        done: called, from any thread, with the number of bytes after each read.
        observer: is told what comes to be, in the order in which it begins.
        pinned: staging is page-locked.

    Raises:
        StreamError: a file cannot be read, or is not what it was when its header was read.
        MemoryError: there is no room.
    """
    files = Files(paths, sizes, Counter(read.file for read in reads))
    with contextlib.ExitStack() as stack:
        stack.callback(files.close)
        work = _Work(reads, files, threads, done, observer, pinned=pinned)
        stack.callback(work.close)
        pool = stack.enter_context(ThreadPoolExecutor(threads, thread_name_prefix="stream"))
        stack.callback(work.stop)  # whatever comes, Ctrl-C too: every thread ends before the files are closed
        pending = [pool.submit(work.carry_out) for _ in range(min(threads, len(reads)))]
        finished, _ = wait(pending, return_when=FIRST_EXCEPTION)
        for future in finished:
            future.result()


class _Work:
    """The reads that have not begun, which threads take one after the other."""

    def __init__(
        self,
        reads: Sequence[Read],
        files: Files,
        threads: int,
        done: Callable[[int], object],
        observer: Observer | None,
        *,
        pinned: bool,
    ) -> None:
        self._waiting = iter(reads)
        self._files = files
        self._done = done
        self._observer = observer
        self._turn = threading.Lock()
        self._torch_threads = torch.get_num_threads()
        staged = [read for read in reads if read.target is None]
        self._staging = [_Staging.of(number, staged, pinned=pinned) for number in range(min(threads, len(staged)))]
        self._unused = iter(self._staging)
        if observer is not None:
            for staging in self._staging:
                observer.begins(staging.part)
                observer.ends(staging.part)

    def stop(self) -> None:
        """Begin no more."""
        with self._turn:
            self._waiting = iter(())

    def close(self) -> None:
        """Give the staging back, the first before the second."""
        self._unused = iter(())
        while self._staging:
            if self._observer is not None:
                self._observer.drops(self._staging[0].part)
            del self._staging[0]

    def carry_out(self) -> None:
        """Read until nothing is left, or until somebody has failed."""
        staging: _Staging | None = None
        try:
            while (read := self._next()) is not None:
                if read.target is not None:
                    self._files.read(read, read.target)
                elif read.deliver is not None:
                    staging = staging or self._next_staging()
                    self._files.read(read, staging.block.view(staging.scratch_bytes + read.residue, read.nbytes))
                    read.deliver(*staging.filled(read))
                self._done(read.nbytes)
                self._end(read)
        except BaseException:
            self.stop()
            raise

    def _next_staging(self) -> _Staging:
        with self._turn:
            _convert_alone(self._torch_threads)
            return next(self._unused)

    def _next(self) -> Read | None:
        with self._turn:
            read = next(self._waiting, None)
            if read is None:
                return None
            self._files.begin(read.file)
            if self._observer is not None and not read.filling.begun:
                read.filling.begun = True
                for part in read.filling.parts:
                    self._observer.begins(part)
            return read

    def _end(self, read: Read) -> None:
        with self._turn:
            self._files.end(read.file)
            read.filling.reads_left -= 1
            if self._observer is not None and not read.filling.reads_left:
                for part in read.filling.parts:
                    self._observer.ends(part)


def _convert_alone(torch_threads: int) -> None:
    """Have torch do this thread's work in this thread: there is one like it for every processor already.

    Torch's threads wait for each other in a loop, and take processors from ours meanwhile.

    Args:
        torch_threads: how many other threads begin with, which a thread that sets its own number changes as well.
    """
    torch.get_num_threads()  # the first time, it takes the number that others begin with for this thread's own
    torch.set_num_threads(1)
    restoring = threading.Thread(target=torch.set_num_threads, args=(torch_threads,))
    restoring.start()
    restoring.join()


class _Staging(NamedTuple):
    """What one thread reads to that cannot read to its bytes' final place, behind what it works in."""

    block: Block | PinnedBlock
    part: Part
    scratch_bytes: int

    @classmethod
    def of(cls, number: int, reads: Sequence[Read], *, pinned: bool) -> _Staging:
        """That of a thread which may meet any of the reads."""
        scratch_bytes = max(read.scratch_bytes for read in reads)
        nbytes = scratch_bytes + max(read.nbytes for read in reads) + SECTOR_BYTES
        name = f"staging of reader {number + 1}"
        if pinned:
            locked = PinnedBlock(nbytes)
            return cls(locked, Part(name, None, locked.tensor, True), scratch_bytes)
        block = Memory(nbytes).block(nbytes)
        return cls(block, Part(name, None, block.tensor(torch.uint8, 0, nbytes)), scratch_bytes)

    def filled(self, read: Read) -> tuple[torch.Tensor, torch.Tensor]:
        """The bytes that have been read, and what else there is to work in."""
        start = self.scratch_bytes + read.residue
        return self.part.tensor[start : start + read.nbytes], self.part.tensor[: self.scratch_bytes]
