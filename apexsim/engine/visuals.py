"""Images that a replica encodes itself: the encoder runs before the prefill, in the iteration that needs its output.

Images stand before the text of a prompt. A chunk needs the slices whose tokens begin in it or reach into it, and these
are encoded as one batch at the beginning of its iteration, which lasts that much longer (vLLM's encoder inputs). What
was encoded is kept until the request ends: a preempted request's images are not encoded again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apexsim.engine.jit import rare_kernel

if TYPE_CHECKING:
    from apexsim.engine.state import State

VISUAL = np.dtype(
    [
        ("slice_s", "f8"),  # seconds of one slice alone
        ("images", "i4"),  # slices,
        ("tokens", "i4"),  # tokens of each in the prompt
        ("seen", "i4"),  # slices encoded so far
    ],
    align=True,
)

ENCODED = np.dtype([("busy_s", "f8"), ("alone_s", "f8"), ("slices", "i8")])
"""What a replica has encoded: its seconds, those of all slices if each were alone in its batch, how many."""


class Visuals(NamedTuple):
    """Images of n requests, and what R replicas have encoded; [0] where replicas encode nothing."""

    requests: Any  # VISUAL [n]
    replicas: Any  # ENCODED [R]
    batch: NDArray[np.float64]  # [k + 1] seconds of a batch over those of its slices alone, by their number


def new_visuals(
    images: NDArray[np.int64] | None, tokens: NDArray[np.int64] | None, slice_s: NDArray[np.float64] | None,
    batch: NDArray[np.float64] | None, replicas: int,
) -> Visuals:  # fmt: skip
    """Of requests with ``images`` slices of ``tokens`` tokens and ``slice_s`` seconds each; nothing where None."""
    n = 0 if images is None or slice_s is None else len(images)
    requests = np.zeros(n, VISUAL).view(np.recarray)
    if n and images is not None and tokens is not None and slice_s is not None:
        requests.images, requests.tokens, requests.slice_s = images, tokens, slice_s
    encoded = np.zeros(replicas if n else 0, ENCODED).view(np.recarray)
    return Visuals(requests, encoded, np.ones(1) if batch is None else np.ascontiguousarray(batch, np.float64))


@rare_kernel
def encode_s(state: State, g: int) -> float:
    """Seconds that the encoder runs in the iteration of group g that is being set off; books them."""
    visuals, begun = state.visuals, state.begun
    slices, alone_s = 0, 0.0
    for j in range(state.groups[g].prefills):
        i = begun[g, j].request
        if begun[g, j].tokens == 0 or visuals.requests[i].seen == visuals.requests[i].images:
            continue
        tokens = visuals.requests[i].tokens
        reached = (state.requests[i].computed + begun[g, j].tokens + tokens - 1) // tokens
        more = min(reached, visuals.requests[i].images) - visuals.requests[i].seen
        if more > 0:
            visuals.requests[i].seen += more
            slices += more
            alone_s += more * visuals.requests[i].slice_s
    if slices == 0:
        return 0.0
    busy_s: float = alone_s * visuals.batch[min(slices, visuals.batch.size - 1)]
    r = g // state.stage_free_s.shape[1]
    visuals.replicas[r].busy_s += busy_s
    visuals.replicas[r].alone_s += alone_s
    visuals.replicas[r].slices += slices
    return busy_s
