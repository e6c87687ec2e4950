"""The three factors that tie the power laws of single kernels to a serving engine, fitted on measured serving runs.

Each run is simulated once, since the factors change no time; its watts then follow from what was counted in its
window. Runs count alike, and one that is far off linearly, not squared. ``left out`` is the error on each model's runs
with factors that were fitted on all other models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from apexsim.cost.accounting import Accounting
from apexsim.cost.power import committed_serving
from apexsim.cost.power_law import Serving, ServingFile
from apexsim.scenario import Prepared, prepare, replay
from apexsim.spec.catalog import data_root
from apexsim.spec.files import write_atomically
from apexsim.validation import window as windows
from apexsim.validation.case import Case
from apexsim.validation.errors import statistics
from apexsim.validation.simulate import offered, prepared_case
from apexsim.validation.window import Window

Floats = NDArray[np.float64]

POWER = "power_w_per_device"

COMPUTE = np.geomspace(0.05, 1.0, 14)
"""Values of ``Serving.compute`` that are tried in turn: the ledgers are made anew for each."""

SEARCH = {"attention": (1.4, 0.5, 3.0), "communicating": (0.3, 0.1, 0.5)}
"""Factor -> start, smallest, largest. A collective draws more than idle and far less than a busy device."""

LOSS_SCALE = 0.05


@dataclass(frozen=True)
class Metered:
    """A simulated run beside its measured watts a device."""

    case: Case
    watts: float
    window: Window
    devices: int

    def at(self, compute: float) -> Drawn:
        """What its window drew, by part, where a kernel's use of compute counts ``compute``."""
        now = committed_serving()
        serving = Serving(compute, now.attention, now.communicating)
        prepared = prepare(self.case.plan, model=self.case.model, host=self.case.host(None), serving=serving)
        assert isinstance(prepared, Prepared)
        return Drawn(self, prepared.compiled.accounting, serving)


@dataclass(frozen=True)
class Drawn:
    """Joules of a run by part, at given factors; attention and collectives can be scaled without new ledgers."""

    run: Metered
    accounting: Accounting
    serving: Serving

    def watts(self, attention: float, communicating: float) -> float:
        """Of one device."""
        parts = self.accounting.joules(self.run.window.counters, attention / self.serving.attention)
        power = self.accounting.power
        assert parts is not None
        assert power is not None
        sending = parts.communication * communicating / self.serving.communicating
        drawn = (parts.kernels + parts.attention + sending) / (self.run.devices * self.run.window.seconds)
        return float(min(power.idle_w + drawn, power.limit_w))


def committed() -> Path:
    """The file of the factors in force."""
    return data_root() / "hardware_profiles" / "serving_power.json"


def metered(cases: Iterable[Case]) -> list[Metered]:
    """Every case whose power was measured, and that this release simulates."""
    found = (_metered(case) for case in cases if POWER in case.measured)
    return [run for run in found if run is not None]


def _metered(case: Case) -> Metered | None:
    prepared = prepared_case(case)
    if isinstance(prepared, str) or prepared.compiled.accounting.power is None:
        return None
    trace = offered(case, prepared)
    result = replay(prepared, trace, concurrency=case.load.concurrency)
    window = windows.whole(result) if case.window == "all" else windows.steady(prepared, trace, result)
    return None if window is None else Metered(case, case.measured[POWER], window, prepared.plan.devices)


def fit_serving(runs: Sequence[Metered], source: str, fitted: str) -> ServingFile:
    """The factors that explain the runs best, with their errors, also on models left out."""
    drawn = {compute: [run.at(compute) for run in runs] for compute in COMPUTE.tolist()}
    everything = np.ones(len(runs), dtype=np.bool_)
    best = search(drawn, everything)
    model = np.array([run.case.model.name for run in runs])
    errors = {"all": _errors(_watts(drawn, best), runs)}
    if len(set(model)) > 1:
        apart = np.empty(len(runs))
        for name in sorted(set(model)):
            apart[model == name] = _watts(drawn, search(drawn, model != name))[model == name]
        errors["left out"] = _errors(apart, runs)
    factors = Serving(*(float(f"{getattr(best, field.name):.3g}") for field in fields(Serving)))
    return ServingFile(factors, source, fitted, errors)


def search(drawn: Mapping[float, Sequence[Drawn]], which: NDArray[np.bool_]) -> Serving:
    """The factors of the least loss over some of the runs."""
    start, low, high = (np.array(each) for each in zip(*SEARCH.values(), strict=True))
    best: tuple[float, Serving] | None = None
    for compute, runs in drawn.items():
        mine = [run for run, chosen in zip(runs, which, strict=True) if chosen]

        def residual(factors: Floats, mine: list[Drawn] = mine) -> Floats:
            return np.array([each.watts(*factors.tolist()) / each.run.watts - 1.0 for each in mine])

        found = least_squares(residual, start, bounds=(low, high), loss="soft_l1", f_scale=LOSS_SCALE)
        if best is None or found.cost < best[0]:
            best = (float(found.cost), Serving(compute, *found.x.tolist()))
    assert best is not None
    return best[1]


def _watts(drawn: Mapping[float, Sequence[Drawn]], serving: Serving) -> Floats:
    compute, attention, communicating = astuple(serving)
    return np.array([each.watts(attention, communicating) for each in drawn[compute]])


def _errors(predicted: Floats, runs: Sequence[Metered]) -> dict[str, float]:
    found = statistics((predicted / np.array([run.watts for run in runs]) - 1.0).tolist())
    assert found is not None
    figures = {"median": found.median_abs_error, "p90": found.p90_abs_error, "worst": found.worst_abs_error,
               "bias": found.bias}  # fmt: skip
    return {"n": found.n, **{name: float(f"{value:.4g}") for name, value in figures.items()}}


def write_serving(file: ServingFile, path: Path) -> None:
    """Write the factors as the file that the power model reads."""
    write_atomically(path, file.to_json())
