"""A trace: which requests arrive when, as columns.

Nothing in apexsim holds an object per request; a trace of a million requests is a few NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apexsim.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order of their arrival. All arrays have the length n of the trace.

    Attributes:
        name: what reports call it.
        arrival_s: seconds, never decreasing, the first one is usually 0.
        input_tokens: prompt tokens, at least 1.
        output_tokens: tokens that the service generated, at least 1.
        session: id of the conversation a request belongs to, or -1; None where nothing is known.
        shared_prefix_tokens: leading prompt tokens that an earlier request has computed; None where unknown.
        hash_ids: block hashes of all prompts one after another, or None. Equal ids = equal prefix up to
            there.
        hash_offsets: int64[n + 1]; the hashes of request i are ``hash_ids[hash_offsets[i]:hash_offsets[i +
            1]]``.
        hash_block_tokens: tokens of a hashed block (Mooncake 512).
        classes: names of the request classes (say "API log"), ``class_code`` indexes them.
        class_code: int64[n] or None.
        priority: int64[n] or None; a smaller number is more urgent, as in vLLM.
        clients: names of the clients (tenants) that send the requests, ``client_code`` indexes them.
        client_code: int64[n] or None.
        deadline_s: seconds from arrival within which the first token is wanted; inf where a request has no
            such limit, None where none has.
        adapters: names of the LoRA adapters that requests ask for, ``adapter_code`` indexes them.
        adapter_code: int64[n], -1 where the base model alone is asked for; None where nothing is known.
        images: int64[n] image slices (tiles, frames) of each request, or None. ``input_tokens`` are the text.
        visual_tokens: int64[n] tokens of each of its slices in the prompt; None where the model says.
        visual_counted: whether ``input_tokens`` hold them already (``workload.visual``).
        dropped: reason -> rows of the source that are not here.
        source: file and format it was read from, or the generator and its seed.
        notes: what was done to it or assumed on the way here, in plain words.
    """

    name: str
    arrival_s: Floats
    input_tokens: Ints
    output_tokens: Ints
    session: Ints | None = None
    shared_prefix_tokens: Ints | None = None
    hash_ids: Ints | None = None
    hash_offsets: Ints | None = None
    hash_block_tokens: int = 0
    classes: tuple[str, ...] = ()
    class_code: Ints | None = None
    priority: Ints | None = None
    clients: tuple[str, ...] = ()
    client_code: Ints | None = None
    deadline_s: Floats | None = None
    adapters: tuple[str, ...] = ()
    adapter_code: Ints | None = None
    images: Ints | None = None
    visual_tokens: Ints | None = None
    visual_counted: bool = False
    dropped: Mapping[str, int] = field(default_factory=dict)
    source: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.arrival_s) == 0:
            raise InputError(f"{self.source or self.name}: the trace is empty (at least one request is needed)")

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def span_s(self) -> float:
        """Seconds from the first arrival to the last."""
        return float(self.arrival_s[-1] - self.arrival_s[0])

    @property
    def rate_rps(self) -> float:
        """Offered rate R0 = (n - 1) / (last - first); infinite where all requests arrive at once."""
        return (len(self) - 1) / self.span_s if self.span_s > 0 else float("inf")

    @property
    def hash_counts(self) -> Ints | None:
        """int64[n]: hashed blocks of each prompt, or None."""
        return None if self.hash_offsets is None else np.diff(self.hash_offsets)

    def with_columns(self, **columns: Any) -> Trace:
        """The same trace with some columns replaced."""
        return replace(self, **columns)

    def noted(self, *notes: str) -> Trace:
        """The same trace with more notes."""
        return replace(self, notes=self.notes + notes)

    def take(self, index: Ints) -> Trace:
        """The requests at these positions, in this order; every column follows, the ragged hashes too."""
        hash_ids, hash_offsets = self.hash_ids, self.hash_offsets
        if hash_ids is not None and hash_offsets is not None:
            hash_ids, hash_offsets = take_ragged(hash_ids, hash_offsets, index)
        return replace(
            self,
            arrival_s=self.arrival_s[index],
            input_tokens=self.input_tokens[index],
            output_tokens=self.output_tokens[index],
            session=None if self.session is None else self.session[index],
            shared_prefix_tokens=None if self.shared_prefix_tokens is None else self.shared_prefix_tokens[index],
            hash_ids=hash_ids,
            hash_offsets=hash_offsets,
            class_code=None if self.class_code is None else self.class_code[index],
            priority=None if self.priority is None else self.priority[index],
            client_code=None if self.client_code is None else self.client_code[index],
            deadline_s=None if self.deadline_s is None else self.deadline_s[index],
            adapter_code=None if self.adapter_code is None else self.adapter_code[index],
            images=None if self.images is None else self.images[index],
            visual_tokens=None if self.visual_tokens is None else self.visual_tokens[index],
        )


def take_ragged(values: Ints, offsets: Ints, index: Ints) -> tuple[Ints, Ints]:
    """Rows ``index`` of a ragged column (values, offsets): row i is ``values[offsets[i]:offsets[i + 1]]``."""
    counts = np.diff(offsets)[index]
    new_offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    # Position of each taken value: the start of its row, plus its place within the row.
    starts = np.repeat(offsets[:-1][index] - new_offsets[:-1], counts)
    return values[starts + np.arange(new_offsets[-1])], new_offsets
