"""What the user has chosen about how to load, beside the strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from meminspect.analysis.verdict import AIM_WORDS
from meminspect.engine.spec import RunSpec
from meminspect.strategies import QUANTISATIONS, LoadOptions
from meminspect.units import format_bytes, format_duration

if TYPE_CHECKING:
    from pathlib import Path

    from meminspect.analysis.verdict import Aim

__all__ = ["Cache", "Choices"]

# Under a limit the checkpoint is read from cold unless something else is chosen: see `engine.supervisor`.
_CACHE_WORDS: Final = {None: "page cache as it is", "cold": "cold page cache", "warm": "warm page cache"}

Cache = Literal["cold", "warm"]


class Choices(NamedTuple):
    """The options of the runs to come."""

    load: LoadOptions = LoadOptions()
    limit_bytes: int | None = None
    cache: Cache | None = None
    timeout_s: float | None = None
    forward: bool = False  # call the model once when it is loaded
    aim: Aim | None = None  # what strategies are sorted by; None for what suits the device

    def words(self) -> str:
        """In a line."""
        load = self.load
        return ", ".join(
            (
                load.device,
                load.dtype or "dtype as stored",
                *(("read to the host",) if load.device != "cpu" and load.read_to == "host" else ()),
                *(() if load.init_dtype == "float32" else (f"built in {load.init_dtype}",)),
                *(() if load.quantisation == QUANTISATIONS[0] else (f"quantised to {load.quantisation}",)),
                *(() if load.max_memory_bytes is None else (f"{format_bytes(load.max_memory_bytes)} may stay",)),
                *(() if load.read_ahead is None else (f"read ahead by {load.read_ahead}",)),
                "no limit" if self.limit_bytes is None else f"limit {format_bytes(self.limit_bytes)}",
                _CACHE_WORDS[self.cache or ("cold" if self.limit_bytes is not None else None)],
                *(() if self.timeout_s is None else (f"at most {format_duration(self.timeout_s)}",)),
                *(("then called once",) if self.forward else ()),
                *(() if load.interpreter.python is None else (f"in {load.interpreter.words()}",)),
                *(() if load.model is None else (f"into {load.model.name}",)),
                *(("PICKLES ARE TRUSTED",) if load.trust_pickle else ()),
                *(() if self.aim is None else (f"by {AIM_WORDS[self.aim]}",)),
            )
        )

    def spec(self, checkpoint: Path, strategy: str, capture: Path, *, force: bool) -> RunSpec:
        """One run with these options."""
        return RunSpec(
            checkpoint, strategy, capture, self.load, force=force, cache=self.cache, limit_bytes=self.limit_bytes,
            timeout_s=self.timeout_s, forward=self.forward,
        )  # fmt: skip
