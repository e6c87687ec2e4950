"""Images as the engine takes them: what they cost whom, and the arrays of ``encoding.py`` and ``visuals.py``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from apexsim.engine.encoding import ENCODER, PICTURE, TASK, TIMER, Encoding
from apexsim.engine.pool import BY_LORA, BY_PREFIX
from apexsim.engine.result import Encoded
from apexsim.engine.routers import Choice, Offered, PlugInRouter
from apexsim.engine.routers import router as named_router
from apexsim.engine.state import NONE, rows
from apexsim.engine.visuals import Visuals, new_visuals
from apexsim.errors import UsageError
from apexsim.workload.trace import Trace
from apexsim.workload.visual import has_images


class Encoder(Protocol):
    """What the engine reads of an encoder (``cost.vision.EncoderLaw``)."""

    @property
    def batch(self) -> NDArray[np.float64]:
        """[k + 1] seconds of a batch of slices over the sum of those of each alone, by their number."""

    def slice_s(self, visual_tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """[n] seconds of a slice alone that gives so many visual tokens."""


@dataclass(frozen=True, slots=True)
class ImageSetup:
    """How the images of a trace are encoded.

    Attributes:
        host_s: [n] seconds of each request's images before they can be encoded.
        units: that encode and do nothing else; 0 where those that prefill do it themselves.
        encoder: of such a unit.
        slice_bytes: [n] embeddings of a slice on their way to the unit that prefills.
        irp: the slices of a request are dealt to all units; else one of them encodes all.
        most: slices of a batch.
        router: how requests are spread over the units.
    """

    host_s: NDArray[np.float64]
    units: int = 0
    encoder: Encoder | None = None
    slice_bytes: NDArray[np.float64] | None = None
    irp: bool = False
    most: int = 1
    router: str = "least-loaded"


def check_counted(trace: Trace) -> None:
    """Raise where visual tokens have not been added to the prompts: whoever calls the engine does that."""
    if has_images(trace) and not trace.visual_counted:
        raise ValueError(f"{trace.name}: with_visual_tokens() comes before the engine")


def visuals_of(trace: Trace, encoder: Encoder | None, units: int, ranks: int) -> Visuals:
    """What replicas of a pool encode themselves; nothing without an ``encoder`` or images."""
    if encoder is None or not has_images(trace):
        return new_visuals(None, None, None, None, units)
    if ranks > 1:
        raise UsageError("images: not simulated where ranks run attention in data parallel")
    assert trace.visual_tokens is not None
    return new_visuals(
        trace.images, np.maximum(trace.visual_tokens, 1), encoder.slice_s(trace.visual_tokens), encoder.batch, units
    )


def most_tasks(trace: Trace, setup: ImageSetup | None) -> int:
    """Tasks that all requests may need together."""
    if setup is None or setup.units == 0 or trace.images is None:
        return 0
    return int(np.minimum(trace.images, setup.units if setup.irp else 1).sum())


def new_encoding(trace: Trace, setup: ImageSetup | None, offered: Offered, first: int, seed: int) -> Encoding:
    """Before the first arrival; ``first`` is the number of the first unit that encodes.

    Raises:
        UsageError: an unknown router, or one that looks at what units that encode do not have.
    """
    wanted = setup is not None and has_images(trace)
    units = setup.units if setup is not None and wanted else 0
    n = len(trace) if wanted else 0
    pictures, encoders = rows(PICTURE, n), rows(ENCODER, units)
    encoders.head = encoders.tail = NONE
    encoders.end_s = np.inf
    for name in ("prepared_s", "encoded_s", "landed_s"):
        pictures[name] = np.nan
    choice, batch = Choice(np.zeros((1, 0), np.int64), 0), np.ones(1)
    if setup is not None and wanted:
        assert trace.visual_tokens is not None
        pictures.images, pictures.host_s = trace.images, setup.host_s
        if setup.encoder is not None and units:
            pictures.slice_s = setup.encoder.slice_s(trace.visual_tokens)
            pictures.slice_bytes = setup.slice_bytes
            choice, batch = _choice(setup, offered, seed), setup.encoder.batch
    return Encoding(
        pictures, rows(TASK, max(most_tasks(trace, setup), 1)), encoders, rows(TIMER, max(n, 1)),
        np.zeros(2, np.int64), np.ascontiguousarray(choice.candidates, np.int64),
        np.ascontiguousarray(batch, np.float64), int(choice.load), bool(setup is not None and setup.irp),
        int(setup.most if setup is not None else 1), int(first),
    )  # fmt: skip


def _choice(setup: ImageSetup, offered: Offered, seed: int) -> Choice:
    router = named_router(setup.router)
    if isinstance(router, PlugInRouter):
        raise UsageError(f"router {setup.router!r}: plug-in routers serve one pool only (allowed: a built-in one)")
    choice = router.candidates(offered, setup.units, seed)
    if choice.load in (BY_PREFIX, BY_LORA):
        raise UsageError(f"router {setup.router!r} before role=encode: an encoder has no prefixes and no adapters "
                         "(allowed: one that compares loads)")
    return choice


def encoded_of(encoding: Encoding, origin_s: float) -> Encoded | None:
    """What was encoded, by the trace's clock; None where no request brought an image."""
    pictures, encoders = encoding.pictures, encoding.encoders
    if len(pictures) == 0:
        return None
    return Encoded(
        images=pictures.images.copy(), prepared_s=pictures.prepared_s + origin_s,
        encoded_s=pictures.encoded_s + origin_s, landed_s=pictures.landed_s + origin_s, units=len(encoders),
        busy_s=float(encoders.busy_s.sum()), alone_s=float(encoders.alone_s.sum()),
        batches=int(encoders.batches.sum()), slices=int(encoders.encoded.sum()),
    )  # fmt: skip
