"""What all laws share: their interface, and the smooth maximum of a roofline's terms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.shapes import Work

Floats = NDArray[np.float64]
Sizes = Mapping[str, Floats]
"""Sizes of an operator by name: m, n, k of a GEMM, or blocks, tokens, group (and window) of attention."""


@dataclass(frozen=True, slots=True)
class Law(ABC):
    """Seconds of an operator from its work and sizes; a frozen dataclass whose fields are its parameters."""

    @abstractmethod
    def seconds(self, work: Work, sizes: Sizes, peak: float, bandwidth: float) -> Floats:
        """``peak`` in FLOP/s, ``bandwidth`` of the memory (of the link, for a collective) in B/s."""


def knee(sharpness: float, *terms: Floats) -> Floats:
    """(Σ term^p)^(1/p) without overflow for any p: close to the sum for p near 1, to the largest for a large p."""
    top = np.maximum(np.maximum.reduce(np.broadcast_arrays(*terms)), 1e-30)
    total = sum(((term / top) ** sharpness for term in terms), start=np.zeros_like(top))
    return np.asarray(top * total ** (1 / sharpness))
