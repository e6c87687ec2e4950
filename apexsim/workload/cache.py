"""Read once: a trace that was parsed is kept as Parquet in the user's cache folder.

Best effort by intent: a cache that cannot be read or written never fails a read, it only makes it slower. One
entry a file; a file that changed (time of modification, size) replaces its entry.

Where: ``APEXSIM_CACHE_DIR``, else ``$XDG_CACHE_HOME/apexsim/traces``, else ``~/.cache/apexsim/traces``.
``APEXSIM_NO_CACHE=1`` turns it off.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from apexsim.errors import ApexsimError
from apexsim.spec.files import write_atomically
from apexsim.workload.table import from_table, to_table
from apexsim.workload.trace import Trace

VERSION = 5
"""Part of the key: raise it when a reader reads differently or the columns change."""

SMALLEST_BYTES = 256 * 1024
"""Files below this parse in milliseconds and are not kept."""


def load(path: Path, format_name: str) -> Trace | None:
    """The cached trace of a file as it is now, or None."""
    entry = _entry(path, format_name)
    if entry is None or not entry.exists():
        return None
    try:
        return from_table(pq.read_table(entry))
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError, ApexsimError):
        return None


def store(path: Path, format_name: str, trace: Trace) -> None:
    """Keep what was read from a file; entries of its earlier states are removed."""
    entry = _entry(path, format_name)
    if entry is None:
        return
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        buffer = pa.BufferOutputStream()
        pq.write_table(to_table(trace), buffer, compression="zstd", compression_level=1)
        write_atomically(entry, buffer.getvalue().to_pybytes())
        for old in entry.parent.glob(f"{entry.name.split('-')[0]}-*.parquet"):
            if old != entry:
                old.unlink(missing_ok=True)
    except (OSError, pa.ArrowException, ApexsimError):
        return


def _entry(path: Path, format_name: str) -> Path | None:
    """Where the entry of a file lies; None where it is not to be cached."""
    if os.environ.get("APEXSIM_NO_CACHE", "0") not in ("", "0"):
        return None
    try:
        state = path.stat()
        folder = _folder()
    except (OSError, RuntimeError):
        return None
    if state.st_size < SMALLEST_BYTES or path.suffix == ".parquet":
        return None
    where = hashlib.sha256(f"{path.resolve()}\0{format_name}".encode()).hexdigest()[:16]
    what = hashlib.sha256(f"{VERSION}\0{state.st_mtime_ns}\0{state.st_size}".encode()).hexdigest()[:16]
    return folder / f"{where}-{what}.parquet"


def _folder() -> Path:
    if chosen := os.environ.get("APEXSIM_CACHE_DIR"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "apexsim" / "traces"
