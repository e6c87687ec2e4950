"""Watts of a running kernel from how busy it keeps compute and memory: the law, and the file its parameters live in.

    x     = compute · u_c^compute_power + memory · u_m
    watts = idle + (limit - idle) · ceiling · x / (1 + x^sharpness)^(1/sharpness)

u_c is the share of the peak of the dtype that executes, u_m the share of the memory's bandwidth, both of useful work
over the kernel's own seconds. A byte costs the same however fast they come. A compute power below 1 stands for what is
paid as soon as anything runs (instruction issue, padded tiles); the saturating form is the board's limit, at which the
device lowers its clock.

``hardware_profiles/<device>/power.json`` holds one law for each operator and dtype that somebody metered.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apexsim.spec.files import read_json

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """Share of what lies between idle and the board's limit."""

    compute: float
    compute_power: float
    memory: float
    sharpness: float
    ceiling: float  # share of (limit - idle) at which a saturated kernel settles, at most 1

    def share(self, compute_use: ArrayLike, memory_use: ArrayLike) -> Floats:
        """[…] in [0, ceiling]; 0 where nothing is used, never falling in either use."""
        x = (
            self.compute * np.asarray(compute_use, dtype=np.float64) ** self.compute_power
            + self.memory * np.asarray(memory_use, dtype=np.float64)
        )
        # x / (1 + x^s)^(1/s) for any s without overflow: the smaller of x and 1, times what the knee takes
        low, high = np.minimum(x, 1.0), np.maximum(x, 1.0)
        return np.asarray(self.ceiling * low / (1.0 + (low / high) ** self.sharpness) ** (1.0 / self.sharpness))

    def times(self, factor: float) -> PowerLaw:
        """The law that draws ``factor`` times as much above idle, whatever the limit; its user caps it."""
        return replace(self, ceiling=self.ceiling * factor)


@dataclass(frozen=True, slots=True)
class PowerFit:
    """A law, and what it was fitted on."""

    operator: str
    dtype: str
    law: PowerLaw
    rows: int
    held_out: dict[str, float]  # of the law alone: n, median, p90, worst, bias (median signed)


@dataclass(frozen=True)
class PowerFile:
    """All power laws of a device."""

    source: str
    fitted: str  # date
    quantile: float  # of the readings at equal use that the laws follow
    fits: tuple[PowerFit, ...]

    def to_json(self) -> str:
        """The text of the file: one line a fit, so that a changed fit shows as one changed line."""
        lines = ",\n".join("  " + json.dumps(_dump(fit)) for fit in self.fits)
        head = json.dumps({"source": self.source, "fitted": self.fitted, "quantile": self.quantile}, indent=1)[:-2]
        return f'{head},\n "fits": [\n{lines}\n ]\n}}\n'


def _dump(fit: PowerFit) -> dict[str, Any]:
    return {
        "operator": fit.operator, "dtype": fit.dtype, "rows": fit.rows, "law": _short(asdict(fit.law)),
        "held_out": _short(fit.held_out),
    }


def _short(values: dict[str, float]) -> dict[str, float]:
    return {name: value if isinstance(value, int) else float(f"{value:.4g}") for name, value in values.items()}


@lru_cache(maxsize=64)
def load_power(path: Path) -> PowerFile:
    """The power file at ``path``.

    Raises:
        InputError: it is missing, truncated or no power file.
    """
    return read_json(path, "power laws", _parse)


def _parse(data: dict[str, Any]) -> PowerFile:
    fits = tuple(
        PowerFit(fit["operator"], fit["dtype"], PowerLaw(**fit["law"]), fit["rows"], fit["held_out"])
        for fit in data["fits"]
    )
    return PowerFile(data["source"], data["fitted"], data["quantile"], fits)


@dataclass(frozen=True, slots=True)
class Serving:
    """What ties laws of single kernels to a serving engine: three global factors, fitted on serving runs."""

    compute: float  # share of a kernel's use of compute that counts: loops of one kernel saturate the board sooner
    attention: float  # what attention draws over its law: the metered caches held no real values
    communicating: float  # share of what lies between idle and limit that a collective draws


@dataclass(frozen=True, slots=True)
class ServingFile:
    """``hardware_profiles/serving_power.json``, written by ``apexsim calibrate power``."""

    factors: Serving
    source: str
    fitted: str  # date
    errors: dict[str, dict[str, float]]  # "all" and "left out" (models one by one) -> n, median, p90, worst, bias

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"


@lru_cache(maxsize=4)
def load_serving(path: Path) -> ServingFile:
    """The factors at ``path``.

    Raises:
        InputError: missing, truncated or no such file.
    """
    return read_json(path, "factors of serving power", lambda data: ServingFile(
        Serving(**data["factors"]), data["source"], data["fitted"], data["errors"]
    ))
