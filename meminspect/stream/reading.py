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

__all__ = ["Filling", "Observer", "Part", "Read", "read_all"]


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
    deliver: Callable[[torch.Tensor], None] | None = None  # takes the bytes, as uint8; they are overwritten afterwards
    residue: int = 0  # where in a sector they begin in staging


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
        staged = [read.nbytes for read in reads if read.target is None]
        self._staging = [_Staging.of(number, max(staged), pinned=pinned) for number in range(min(threads, len(staged)))]
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
                    self._files.read(read, staging.block.view(read.residue, read.nbytes))
                    read.deliver(staging.part.tensor[read.residue : read.residue + read.nbytes])
                self._done(read.nbytes)
                self._end(read)
        except BaseException:
            self.stop()
            raise

    def _next_staging(self) -> _Staging:
        with self._turn:
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


class _Staging(NamedTuple):
    """What one thread reads to that cannot read to its bytes' final place."""

    block: Block | PinnedBlock
    part: Part

    @classmethod
    def of(cls, number: int, nbytes: int, *, pinned: bool) -> _Staging:
        """That of a thread."""
        name, nbytes = f"staging of reader {number + 1}", nbytes + SECTOR_BYTES
        if pinned:
            locked = PinnedBlock(nbytes)
            return cls(locked, Part(name, None, locked.tensor, True))
        block = Memory(nbytes).block(nbytes)
        return cls(block, Part(name, None, block.tensor(torch.uint8, 0, nbytes)))
