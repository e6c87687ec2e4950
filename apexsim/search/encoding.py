"""The least that the images of a request cost: on the replica that prefills it, or on a unit that does nothing else.

A batch of slices lasts Σ (seconds of each alone) · factor(how many they are), so a request's slices keep an encoder
busy for at least Σ alone · the smallest factor of a batch that it may make, whoever shares their batches. Under IRP the
slices are dealt to many units, of which one has ⌈slices / units⌉ at least. Embeddings travel in no time here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from apexsim.cost.vision import EncoderLaw
from apexsim.search.work import Lengths, Work
from apexsim.workload.trace import Floats


class Encode(NamedTuple):
    """Of a request of each of U lengths."""

    busy_s: Floats  # [U] seconds of an encoder, at least
    host_s: Floats  # [U] from the arrival until it can begin
    joules: Floats  # [U] above idle


def least_encoding(law: EncoderLaw | None, lengths: Lengths, most: int | None = None) -> Encode | None:
    """What the images of each of ``lengths`` cost in batches of at most ``most`` slices (None: any number); None where
    nobody brings one, or nobody encodes here."""
    if law is None or lengths.images is None or lengths.visual_tokens is None:
        return None
    alone_s = lengths.images * law.slice_s(lengths.visual_tokens)
    factor = float(law.batch[: None if most is None else most + 1].min())
    return Encode(factor * alone_s, law.host_s(lengths.images), alone_s / law.work.slice_s * law.work.joules)


def encoder_work(encode: Encode | None, lengths: Lengths, units: int) -> Work:
    """The least work at units that encode; the slices of a request are dealt to ``units`` of them at most."""
    nothing = np.zeros(len(lengths.input_tokens))
    busy_s, alone_s = nothing, nothing
    if encode is not None and lengths.images is not None:
        busy_s = encode.busy_s
        largest = np.ceil(lengths.images / units) / np.maximum(lengths.images, 1)  # the share of the fullest unit
        alone_s = encode.host_s + largest * busy_s
    return Work(("device",), busy_s[None, :], busy_s[None, :], alone_s, np.ones(len(nothing), np.bool_))
