"""The public schema of a capture file. `PRAGMA user_version` carries `VERSION`, `APPLICATION_ID` marks it as ours.

Times are nanoseconds since the run's start (`facts.started` has the wall clock). Sizes are bytes. NULL is 'unknown'.

History:
    1 (2026-11): first version.
    2 (2026-11): page_cache: of version 1, which has no such table, there are no rows. Events of kind `batch`. The time
        of a sample is its key, and not every sample has a mark.
    3 (2026-11): samples.total_bytes: where the system tells no pools, which are NULL then. Before, there were pools in
        every sample.
    4 (2026-11): device_samples: before, there are no rows. Of an operation on a device that has ended, events.detail
        has what its allocator counted.
"""

from __future__ import annotations

from typing import Final

__all__ = ["APPLICATION_ID", "DDL", "VERSION"]

VERSION: Final = 4
APPLICATION_ID: Final = 0x4D454D49  # "MEMI"

DDL: Final = """
-- One JSON document per name: spec, checkpoint, machine, environment, theory, baseline, returned, resident, outcome, …
-- preparing: what is being done to the page cache before the worker begins, in words; empty when that is over.
-- vram: why there are no readings of device memory, and theory's in their place. pools: why none of heap, file and
-- pinned memory. limit: the limit and what its cgroup counted. better: what would have done better, by theory. cache:
-- what the worker saw of the page cache at the baseline and at *resident*, file by file, and why it saw nothing.
-- pressure: what the kernel counted of it then. forward: the first forward pass. shortage: what a device had left when
-- it was out of memory. allocator_history: what torch's allocator did there, in the form of its own snapshots.
-- Of code of the user's own (spec.script): mark: what its baseline is; kept: what it held in tensors in the end;
-- opened: the checkpoint files that it opened, to which events' `file` counts; library: versions of what it imported;
-- floor: what the model of a checkpoint that was named must occupy.
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

-- What the supervisor saw from outside, every few milliseconds.
CREATE TABLE samples (
    t_ns INTEGER PRIMARY KEY,           -- when the reading began
    heap_bytes INTEGER,                 -- RssAnon
    file_bytes INTEGER,                 -- RssFile
    pinned_bytes INTEGER,               -- RssShmem
    swap_bytes INTEGER,
    high_water_bytes INTEGER,           -- largest RSS since the worker last reset the mark
    read_bytes INTEGER,                 -- storage reads caused by the process so far
    minor_faults INTEGER,
    major_faults INTEGER,
    vram_used_bytes INTEGER,            -- of the device, by the driver
    total_bytes INTEGER                 -- RSS, where the system tells no pools
);

-- What NVIDIA's driver told of each GPU that the worker sees, some times a second: device_samples.gpu is CUDA's number.
CREATE TABLE device_samples (
    t_ns INTEGER NOT NULL,
    gpu INTEGER NOT NULL,
    used_bytes INTEGER,                 -- by everybody
    free_bytes INTEGER,
    process_bytes INTEGER,              -- by the worker, its CUDA context included
    busy_percent INTEGER,               -- of the time, in which a kernel ran
    to_device_bytes_per_s INTEGER,      -- over PCIe
    from_device_bytes_per_s INTEGER
);
CREATE INDEX device_samples_by_time ON device_samples (t_ns);

-- What the worker reported from inside, in the order it happened.
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    t_ns INTEGER NOT NULL,
    kind TEXT NOT NULL,                 -- phase, begin, end, release, reading, report, batch
    operation TEXT NOT NULL,            -- none, materialise, copy, assign, touch
    pool TEXT NOT NULL,                 -- none, heap, file, pinned, vram
    id INTEGER NOT NULL,                -- ties begin, end and release together
    bytes INTEGER NOT NULL,
    file INTEGER NOT NULL,              -- index into the checkpoint's files, -1 for none
    file_offset INTEGER NOT NULL,
    exact INTEGER NOT NULL,             -- 1: high_water_bytes covers this tensor's operation and no other's
    heap_bytes INTEGER,
    file_bytes INTEGER,
    pinned_bytes INTEGER,
    high_water_bytes INTEGER,
    name TEXT NOT NULL,                 -- the tensor, the phase, the report
    -- begin: "float16 [4096, 4096]"; report: JSON; batch: many operations, as JSON; end of an operation on a device, or
    -- reading: what its allocator counted, as JSON: allocated_bytes, reserved_bytes, peak_bytes (since the last such)
    detail TEXT NOT NULL
);

-- How much of each of the checkpoint's files was in the page cache, now and then; a row is true until the next one of
-- its file. Of a file whose pages nobody may see there is none: `facts.cache` has the reason.
CREATE TABLE page_cache (
    t_ns INTEGER NOT NULL,
    file INTEGER NOT NULL,              -- index into the checkpoint's files
    cached_bytes INTEGER NOT NULL
);
CREATE INDEX page_cache_by_time ON page_cache (t_ns);

-- The strategy's theory: named allocations and releases, in order.
CREATE TABLE ledger (
    step INTEGER PRIMARY KEY,
    phase TEXT NOT NULL,
    operation TEXT NOT NULL,            -- materialise, copy, assign, touch, release
    pool TEXT NOT NULL,
    item TEXT NOT NULL,                 -- the line of the bill it belongs to
    tensor TEXT NOT NULL,
    bytes INTEGER NOT NULL
);

-- What the worker's code printed.
CREATE TABLE log (t_ns INTEGER NOT NULL, stream TEXT NOT NULL, text TEXT NOT NULL);
"""
