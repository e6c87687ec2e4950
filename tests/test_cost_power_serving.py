"""The factors between power of kernels and of serving: found again where they are known, and held by real runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from apexsim.cost.power import power_model
from apexsim.cost.power_law import Serving, load_serving
from apexsim.spec import catalog
from apexsim.validation.power_fit import COMPUTE, committed, search
from tests.cost_worlds import compiled


@dataclass(frozen=True)
class Run:
    watts: float


@dataclass(frozen=True)
class Known:
    """A run whose watts follow from the factors by hand."""

    run: Run
    kernels: float
    attention: float
    communication: float

    def watts(self, attention: float, communicating: float) -> float:
        return 110.0 + self.kernels + attention * self.attention + communicating * self.communication


def test_known_factors_are_found_again() -> None:
    draws = np.random.default_rng(1)
    truth = Serving(float(COMPUTE[6]), 1.3, 0.25)
    saturation, attention, communication = draws.uniform((0.5, 20, 0), (20, 200, 150), (60, 3)).T

    def runs(compute: float) -> list[Known]:
        kernels = 400.0 * saturation * compute / (1 + saturation * compute)
        watts = [
            110.0 + 400.0 * s * truth.compute / (1 + s * truth.compute) + truth.attention * a + truth.communicating * c
            for s, a, c in zip(saturation, attention, communication, strict=True)
        ]
        return [
            Known(Run(w), k, a, c) for w, k, a, c in zip(watts, kernels, attention, communication, strict=True)
        ]

    found = search({compute: runs(compute) for compute in COMPUTE.tolist()}, np.ones(60, dtype=np.bool_))
    assert found.compute == truth.compute
    assert found.attention == pytest.approx(truth.attention, rel=1e-3)
    assert found.communicating == pytest.approx(truth.communicating, rel=1e-3)


def test_committed_factors_hold_on_models_left_out() -> None:
    file = load_serving(committed())
    assert 0 < file.factors.compute <= 1
    assert 0 < file.factors.communicating <= 0.5
    assert file.errors["left out"]["n"] == file.errors["all"]["n"] >= 100
    assert file.errors["all"]["median"] <= file.errors["left out"]["median"] < 0.08
    assert file.to_json() == committed().read_text()


def test_factors_change_watts_and_no_second() -> None:
    profile = catalog.device("h100-sxm")
    less, more = Serving(0.1, 1.0, 0.1), Serving(1.0, 1.0, 0.5)
    for small, large in ((power_model(profile, serving=less), power_model(profile, serving=more)),):
        law = small.law("gemm", "bf16")
        joules = [float(p.running_j(law, "bf16", 1.0, 2e13, 1e12)) for p in (small, large)]
        assert joules[0] < joules[1]
        assert float(small.communicating_j(1.0)) < float(large.communicating_j(1.0))
    assert compiled("Llama-3.1-8B").accounting.power.law("gemm", "bf16") == small.law("gemm", "bf16")
