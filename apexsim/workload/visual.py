"""Images of a trace: what they add to its prompts.

``input_tokens`` of a trace are its text. The prompt that a model prefills is longer by ``images`` · ``visual_tokens``,
and the images stand before the text.
"""

from __future__ import annotations

import numpy as np

from apexsim.errors import InputError
from apexsim.workload.lengths import LengthLaw
from apexsim.workload.limits import generators
from apexsim.workload.trace import Trace


def has_images(trace: Trace) -> bool:
    """Whether any request brings an image."""
    return trace.images is not None and bool(trace.images.any())


def with_visual_tokens(trace: Trace, tokens_of_slice: int | None, model: str) -> Trace:
    """The trace as ``model`` prefills it: ``input_tokens`` hold the visual tokens; done once, however often asked.

    Args:
        tokens_of_slice: of one image slice, where the trace does not say; None of a model that reads text only.

    Raises:
        InputError: the trace has images, and the model reads none.
    """
    if trace.visual_counted or trace.images is None or not has_images(trace):
        return trace
    if tokens_of_slice is None:
        first = int(np.argmax(trace.images > 0)) + 1
        raise InputError(f"{trace.source or trace.name}: request {first} has images, and {model} reads text only "
                         "(allowed: a model with a vision encoder, or a trace without images)")
    visual = trace.visual_tokens
    visual = np.full(len(trace), tokens_of_slice, np.int64) if visual is None else visual
    return trace.with_columns(
        input_tokens=trace.input_tokens + trace.images * visual, visual_tokens=visual, visual_counted=True
    )


def with_images(trace: Trace, images: LengthLaw, seed: int = 0) -> Trace:
    """The trace with image slices for each request, drawn from a law."""
    return trace.with_columns(images=images.at(generators(seed, 4)[3].random(len(trace))))
