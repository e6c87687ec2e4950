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
        hash_ids: block hashes of all prompts one after another, or None. Equal ids = equal prefix up to there.
        hash_offsets: int64[n + 1]; the hashes of request i are ``hash_ids[hash_offsets[i]:hash_offsets[i + 1]]``.
        hash_block_tokens: tokens of a hashed block (Mooncake 512).
        classes: names of the request classes (say "API log"), ``class_code`` indexes them.
        class_code: int64[n] or None.
        dropped: reason -> rows of the source that are not here.
        source: file and format it was read from, or the generator and its seed.
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
    dropped: Mapping[str, int] = field(default_factory=dict)
    source: str = ""

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

    def with_columns(self, **columns: Any) -> Trace:
        """The same trace with some columns replaced."""
        return replace(self, **columns)
