"""Host terms of the engines, fitted on measured serving runs: a few global numbers a version, never one a run.

Presets of one group (``engine_profiles/``) share their fitted terms. A group is fitted on the runs of its sets whose
engine version its presets hold for; every set counts alike, however many rows it has, and a run whose simulation is
far off counts linearly, not squared. What the rest of the model gets wrong on a set (a kernel, a queue) the terms can
only spread over all sets, so the error on a set that took no part says what they are worth: ``left_out``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, minimize

from apexsim.cost.host import HostModel, host_model
from apexsim.spec import catalog
from apexsim.spec.engine import EngineProfile, HostPreset, HostTerm
from apexsim.validation.case import Case
from apexsim.validation.errors import ErrorStatistics, by_metric
from apexsim.validation.simulate import Outcome, simulate_case

Floats = NDArray[np.float64]

FIELDS: dict[HostTerm, tuple[str, float, float]] = {
    "iteration": ("iteration_s", 1e-5, 2e-2),
    "sequence": ("sequence_s", 1e-7, 1e-3),
    "gap": ("gap_s", 1e-6, 5e-3),
    "gap_sequence": ("gap_sequence_s", 1e-8, 2e-4),
    "entry": ("entry_s", 1e-5, 2e-2),
    "exit": ("exit_s", 1e-5, 2e-2),
    "logit_bytes": ("logit_bytes", 4.0, 2000.0),
    "eager_kernel": ("eager_kernel_s", 1e-6, 3e-4),
}
"""Field of a host model that a term is, and the bounds of its search."""

WEIGHTS = {
    "tpot_mean_s": 1.0, "itl_mean_s": 1.0, "itl_p50_s": 1.0, "output_tokens_per_s": 1.0, "ttft_p50_s": 0.5,
    "ttft_mean_s": 0.5,
}  # fmt: skip
"""What is fitted, and how much each metric counts: first tokens are mostly waiting, which no host term explains."""

SCALE = 0.05
"""Relative error from which a run counts linearly."""

ROWS = 16
"""Runs of a set that the search looks at, evenly over its rows, unless it is told otherwise; errors are of all rows."""

EVALUATIONS = 60


@dataclass(frozen=True)
class Fitted:
    """Terms of one group, and the errors with them.

    Attributes:
        terms: in SI units.
        errors: set -> metric -> figures over all its runs, with terms fitted on all sets.
        left_out: the same, with terms fitted on the other sets; absent where the group has one set.
    """

    group: str
    terms: Mapping[HostTerm, float]
    errors: Mapping[str, Mapping[str, ErrorStatistics]]
    left_out: Mapping[str, Mapping[str, ErrorStatistics]]


def groups() -> dict[str, list[tuple[EngineProfile, HostPreset]]]:
    """Group -> its presets, for those with terms to fit."""
    found: dict[str, list[tuple[EngineProfile, HostPreset]]] = {}
    for profile in catalog.engine_profiles():
        for preset in profile.presets:
            if preset.fitted:
                found.setdefault(preset.group or f"{profile.engine} {preset.since}", []).append((profile, preset))
    return found


def fit_group(group: str, cases: Iterable[Case], workers: int, rows: int = ROWS) -> Fitted:
    """The terms of a group that explain its runs best, and what they are worth on a set that took no part.

    Args:
        rows: runs of a set that the search looks at.
    """
    members = groups()[group]
    mine = runs_of(members, cases)
    by_set = {name: [case for case in mine if case.set == name] for name in sorted({case.set for case in mine})}
    search = _Search(members, workers)
    terms = search.best([case for runs in by_set.values() for case in thinned(runs, rows)])
    errors = {name: by_metric(search.outcomes(runs, terms)) for name, runs in by_set.items()}
    left_out = {}
    for name, runs in by_set.items() if len(by_set) > 1 else ():
        others = search.best([case for other, rest in by_set.items() if other != name for case in thinned(rest, rows)])
        left_out[name] = by_metric(search.outcomes(runs, others))
    return Fitted(group, terms, errors, left_out)


def runs_of(members: Sequence[tuple[EngineProfile, HostPreset]], cases: Iterable[Case]) -> list[Case]:
    """The cases of the members' sets whose engine and version resolve to one of them; guessed plans teach nothing."""
    known = {(profile.engine, preset.version): preset.sets for profile, preset in members}
    found = []
    for case in cases:
        host = host_model(case.plan.engine, case.plan.engine_version)
        if not case.guessed and case.set in known.get((host.engine, host.since), ()):
            found.append(case)
    return found


def thinned(cases: Sequence[Case], rows: int) -> list[Case]:
    """At most so many of them, evenly."""
    places = np.unique(np.linspace(0, len(cases) - 1, min(rows, len(cases))).round().astype(int))
    return [cases[place] for place in places]


def with_terms(host: HostModel, terms: Mapping[HostTerm, float], fitted: Sequence[HostTerm]) -> HostModel:
    """``host`` with those of its terms replaced that its preset has fitted."""
    changes: dict[str, Any] = {FIELDS[term][0]: value for term, value in terms.items() if term in fitted}
    return replace(host, **changes)


class _Search:
    """The search over the terms of one group; ``joblib`` keeps its workers between the evaluations."""

    def __init__(self, members: Sequence[tuple[EngineProfile, HostPreset]], workers: int) -> None:
        self._fitted = {(profile.engine, preset.version): preset.fitted for profile, preset in members}
        self._terms = tuple(dict.fromkeys(term for _, preset in members for term in preset.fitted))
        first = {term: preset for _, preset in reversed(members) for term in preset.fitted}
        self._start = [float(getattr(preset, term)) for term, preset in ((t, first[t]) for t in self._terms)]
        self._parallel = joblib.Parallel(n_jobs=workers, backend="loky")

    def best(self, cases: Sequence[Case]) -> dict[HostTerm, float]:
        """Terms of the least loss over ``cases``: a simplex search in logarithms from the committed ones."""
        low: Floats = np.log([FIELDS[term][1] for term in self._terms])
        high: Floats = np.log([FIELDS[term][2] for term in self._terms])
        start: Floats = np.clip(np.log(np.maximum(self._start, 1e-9)), low, high)

        def objective(logs: Floats) -> float:
            return loss(self.outcomes(cases, self._named(logs)))

        corners = _simplex(start, low, high)
        options: Any = {"maxfev": EVALUATIONS, "xatol": 5e-3, "fatol": 1e-5, "initial_simplex": corners}
        found = minimize(objective, start, method="Nelder-Mead", bounds=Bounds(low, high), options=options)
        return self._named(np.asarray(found.x))

    def outcomes(self, cases: Sequence[Case], terms: Mapping[HostTerm, float]) -> list[Outcome]:
        """Every case simulated with these terms."""
        jobs = (joblib.delayed(simulate_case)(case, self._host(case, terms)) for case in cases)
        return list(self._parallel(jobs))

    def _host(self, case: Case, terms: Mapping[HostTerm, float]) -> HostModel:
        host = host_model(case.plan.engine, case.plan.engine_version)
        return with_terms(host, terms, self._fitted[(host.engine, host.since)])

    def _named(self, logs: Floats) -> dict[HostTerm, float]:
        return {term: float(f"{value:.3g}") for term, value in zip(self._terms, np.exp(logs), strict=True)}


def _simplex(start: Floats, low: Floats, high: Floats) -> Floats:
    """Corners a factor of 1.6 away along each term, inwards where that would leave the bounds."""
    step = np.log(1.6)
    corners = [start]
    for axis in range(len(start)):
        corner = start.copy()
        corner[axis] += step if start[axis] + step <= high[axis] else -step
        corners.append(np.clip(corner, low, high))
    return np.array(corners)


def loss(outcomes: Iterable[Outcome]) -> float:
    """Mean over sets of the mean robust error of their runs."""
    by_set: dict[str, list[float]] = {}
    for outcome in outcomes:
        errors = [
            (WEIGHTS[column], np.log1p(compared.error))
            for column, compared in outcome.metrics.items() if column in WEIGHTS and compared.error is not None
        ]
        if errors:
            weights, sizes = (np.array(values) for values in zip(*errors, strict=True))
            robust = np.sqrt(1.0 + (sizes / SCALE) ** 2) - 1.0
            by_set.setdefault(outcome.set, []).append(float((weights * robust).sum() / weights.sum()))
    return float(np.mean([np.mean(values) for values in by_set.values()]))
