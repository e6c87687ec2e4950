"""What the closed loop needs of a serving engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from apexsim.calibration.closed_loop.served import Served
from apexsim.workload.trace import Trace


@dataclass(frozen=True)
class EngineLimits:
    """Limits that the engine and its plan share."""

    max_num_batched_tokens: int = 512
    max_num_seqs: int = 32
    block_size: int = 32
    kv_tokens: int = 32_768


class ServingEngine(Protocol):
    """An engine that holds a model and serves the requests of a trace in real time.

    It must generate exactly the tokens that a trace asks for, whatever the model would say.
    """

    name: str
    versions: Mapping[str, str]  # library -> version; ``name`` among them
    limits: EngineLimits

    def warm_up(self) -> None:
        """Do once what a server does only in its first minutes: compile, allocate, fill caches of kernels."""
        ...

    def serve(self, trace: Trace, seed: int) -> Served:
        """Offer each request at its instant, with a prompt of random tokens, and wait for the last token."""
        ...

    def close(self) -> None:
        """Stop the engine."""
        ...
