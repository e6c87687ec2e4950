"""A trace as an Arrow table: our own columns, and what does not fit in columns as metadata of the schema."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from apexsim.workload.trace import Ints, Trace

METADATA_KEY = b"apexsim"


def to_table(trace: Trace) -> pa.Table:
    """Our own columns (see ``formats/own.py``); ``block_hashes`` are lists, ``class``, ``client`` and ``adapter``
    dictionaries, the last with nulls."""
    columns: dict[str, pa.Array] = {
        "arrival_s": pa.array(trace.arrival_s),
        "input_tokens": pa.array(trace.input_tokens),
        "output_tokens": pa.array(trace.output_tokens),
    }
    if trace.session is not None:
        columns["session"] = pa.array(trace.session)
    if trace.shared_prefix_tokens is not None:
        columns["shared_prefix_tokens"] = pa.array(trace.shared_prefix_tokens)
    if trace.hash_ids is not None and trace.hash_offsets is not None:
        columns["block_hashes"] = pa.LargeListArray.from_arrays(pa.array(trace.hash_offsets), pa.array(trace.hash_ids))
        columns["hash_block_tokens"] = pa.array(np.full(len(trace), trace.hash_block_tokens))
    if trace.class_code is not None:
        code = pa.array(trace.class_code.astype(np.int32))
        columns["class"] = pa.DictionaryArray.from_arrays(code, pa.array(trace.classes, pa.string()))
    if trace.priority is not None:
        columns["priority"] = pa.array(trace.priority)
    if trace.client_code is not None:
        code = pa.array(trace.client_code.astype(np.int32))
        columns["client"] = pa.DictionaryArray.from_arrays(code, pa.array(trace.clients, pa.string()))
    if trace.deadline_s is not None:
        columns["deadline_s"] = pa.array(trace.deadline_s)
    if trace.adapter_code is not None:
        code = pa.array(trace.adapter_code.astype(np.int32), mask=trace.adapter_code < 0)
        columns["adapter"] = pa.DictionaryArray.from_arrays(code, pa.array(trace.adapters, pa.string()))
    if trace.images is not None:
        columns["images"] = pa.array(trace.images)
    if trace.visual_tokens is not None:
        columns["visual_tokens"] = pa.array(trace.visual_tokens)
    return pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(_metadata(trace)).encode()})


def from_table(table: pa.Table) -> Trace:
    """The trace that ``to_table`` made this table of. For tables of ours only: nothing is checked.

    Raises:
        KeyError, ValueError: the table is none of ours.
    """
    metadata = json.loads((table.schema.metadata or {})[METADATA_KEY])
    present = set(table.column_names)
    hashes = table.column("block_hashes").combine_chunks() if "block_hashes" in present else None
    if isinstance(hashes, pa.ChunkedArray):
        hashes = pa.concat_arrays(hashes.chunks)
    return Trace(
        name=metadata["name"],
        arrival_s=_numpy(table, "arrival_s"),
        input_tokens=_numpy(table, "input_tokens"),
        output_tokens=_numpy(table, "output_tokens"),
        session=_numpy(table, "session") if "session" in present else None,
        shared_prefix_tokens=_numpy(table, "shared_prefix_tokens") if "shared_prefix_tokens" in present else None,
        hash_ids=None if hashes is None else hashes.flatten().to_numpy(),
        hash_offsets=None if hashes is None else hashes.offsets.to_numpy() - hashes.offsets[0].as_py(),
        hash_block_tokens=metadata["hash_block_tokens"],
        classes=tuple(metadata["classes"]),
        class_code=_codes(table, "class", metadata["classes"]) if "class" in present else None,
        priority=_numpy(table, "priority") if "priority" in present else None,
        clients=tuple(metadata["clients"]),
        client_code=_codes(table, "client", metadata["clients"]) if "client" in present else None,
        deadline_s=_numpy(table, "deadline_s") if "deadline_s" in present else None,
        adapters=tuple(metadata["adapters"]),
        adapter_code=_codes(table, "adapter", metadata["adapters"]) if "adapter" in present else None,
        images=_numpy(table, "images") if "images" in present else None,
        visual_tokens=_numpy(table, "visual_tokens") if "visual_tokens" in present else None,
        dropped=metadata["dropped"],
        source=metadata["source"],
        notes=tuple(metadata["notes"]),
    )


def _metadata(trace: Trace) -> dict[str, object]:
    return {
        "name": trace.name,
        "hash_block_tokens": trace.hash_block_tokens,
        "classes": list(trace.classes),
        "clients": list(trace.clients),
        "adapters": list(trace.adapters),
        "dropped": dict(trace.dropped),
        "source": trace.source,
        "notes": list(trace.notes),
    }


def _numpy(table: pa.Table, column: str) -> NDArray[Any]:
    return np.asarray(table.column(column).to_numpy())


def _codes(table: pa.Table, column: str, names: list[str]) -> Ints:
    index = pc.index_in(table.column(column).cast(pa.string()), pa.array(names, pa.string()))
    return np.asarray(pc.fill_null(index, -1).to_numpy(), np.int64)
