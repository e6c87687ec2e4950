"""What an engine did with the requests of a trace, as columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apexsim.workload.trace import Trace

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Served:
    """Requests in the order of their arrival; all instants in seconds on one clock, the first arrival at 0.

    Attributes:
        start_s: when the engine first took a request up.
        token_s: for each request the instants of its tokens.
        waited_share: share of its time that the thread of the engine was ready but had no processor: what other
            programs took from it. NaN where the system does not tell.
    """

    arrival_s: Floats
    start_s: Floats
    token_s: tuple[Floats, ...]
    input_tokens: NDArray[np.int64]
    waited_share: float

    @property
    def output_tokens(self) -> NDArray[np.int64]:
        """[n] tokens that came."""
        return np.array([len(tokens) for tokens in self.token_s], dtype=np.int64)

    @property
    def ttft_s(self) -> Floats:
        """[n] from arrival to the first token."""
        return np.array([tokens[0] for tokens in self.token_s]) - self.arrival_s

    @property
    def e2e_s(self) -> Floats:
        """[n] from arrival to the last token."""
        return np.array([tokens[-1] for tokens in self.token_s]) - self.arrival_s

    @property
    def tpot_s(self) -> Floats:
        """[n] mean gap between tokens; NaN where a request has only one."""
        gaps = self.output_tokens - 1
        return np.where(gaps > 0, (self.e2e_s - self.ttft_s) / np.maximum(gaps, 1), np.nan)

    @property
    def makespan_s(self) -> float:
        """From the first arrival to the last token."""
        return float(max(tokens[-1] for tokens in self.token_s) - self.arrival_s[0])

    def trace(self, name: str) -> Trace:
        """The requests as they really came, to be offered again."""
        return Trace(name, self.arrival_s, self.input_tokens, self.output_tokens, source="measured")
