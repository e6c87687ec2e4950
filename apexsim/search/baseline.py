"""A baseline: searches whose chosen plans are guarded, with what those plans reached when they were chosen.

A YAML file, written by ``apexsim check --update`` and committed: the questions (``scenarios``) are a person's, the
answers (``chosen``) are the program's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, model_validator

from apexsim.errors import ApexsimError
from apexsim.search.confidence import TIED_BELOW
from apexsim.search.outcome import Evaluation
from apexsim.search.problem import Problem, make_problem
from apexsim.spec import catalog
from apexsim.spec.base import Strict, load_file, parse
from apexsim.spec.files import write_atomically
from apexsim.spec.plan import Plan
from apexsim.workload.bundled import bundled_names
from apexsim.workload.read import read_trace
from apexsim.workload.transform import head

HEADING = "# The answers (chosen) are written by `apexsim check FILE --update`, which keeps no other comments.\n"
DIGITS = 6
"""Significant ones of a figure in the file: more would differ between machines."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a chosen plan that must not get worse."""

    label: str
    highest_wins: bool
    value: Callable[[Evaluation], float | None]


FIGURES: dict[str, Figure] = {
    "goodput_rps": Figure("req/s", True, lambda e: e.goodput_rps),
    "j_per_output_token": Figure("J/tok", False, lambda e: e.at_goodput["j_per_output_token"]),
    "usd_per_million_output_tokens": Figure(
        "USD/Mtok", False, lambda e: e.at_goodput["usd_per_million_output_tokens"]
    ),
    "e2e_p50_s": Figure("E2E p50 s", False, lambda e: e.summary["e2e_s"]["p50"]),
    "attainment": Figure("attainment", True, lambda e: e.summary["slo"]["attainment"]),
}
"""Key in the file → what it is. The first three at goodput, the others at the scenario's rate."""


class Chosen(Strict):
    """The best plan of a scenario when it was chosen, and what it reached."""

    id: str = Field(description="the plan's short name")
    plan: dict[str, Any] = Field(description="the plan")
    goodput_rps: float = Field(gt=0, description="requests/s within the SLO")
    j_per_output_token: float | None = Field(None, description="energy at goodput; none where no power is known")
    usd_per_million_output_tokens: float | None = Field(None, description="cost at goodput; none without a price")
    e2e_p50_s: float | None = Field(None, description="median time of a request at the scenario's rate")
    attainment: float | None = Field(None, description="share of requests within the SLO at the scenario's rate")

    @classmethod
    def of(cls, evaluation: Evaluation, model: str) -> Chosen:
        """What is written of a plan, to six digits; ``model`` as the scenario writes it."""
        figures = {key: _rounded(figure.value(evaluation)) for key, figure in FIGURES.items()}
        plan = evaluation.plan.model_dump(mode="json", exclude_defaults=True) | {"model": model}
        return cls.model_validate({"id": evaluation.id, "plan": plan, **figures})


class Scenario(Strict):
    """One search: the flags of ``apexsim search``."""

    name: str = Field(min_length=1, description="what reports call it; each once in a file")
    model: str = Field(description="a name of `apexsim list models`, or the path of a config.json")
    cluster: str = Field(description="8xh100-sxm, 4x8xh100-sxm, or a file")
    trace: str = Field(description="the name of a bundled trace, or a file; relative to the baseline's folder")
    slo: str = Field(description="ttft=2s,tpot=100ms@0.9, or clauses")
    objective: str = Field("goodput", description="a figure that `apexsim search --objective` knows")
    rate: float | None = Field(None, gt=0, description="requests/s at which the SLO must be met; the trace's own")
    requests: int | None = Field(None, ge=2, description="only the first so many of the trace")
    price: float | None = Field(None, ge=0, description="USD per device-hour; the profile's where left out")
    carbon: float | None = Field(None, ge=0, description="g CO2e per kWh")
    seed: int = Field(0, ge=0, description="of the router's draws")
    space: dict[str, Any] = Field({}, description="lists in place of the default ones, as of --space")
    tolerance: float | None = Field(None, ge=0, lt=1, description="the file's where left out")
    sure: float | None = Field(None, ge=0, le=1, description="the file's where left out")
    chosen: Chosen | None = Field(None, description="written by --update")


class Baseline(Strict):
    """The whole file."""

    tolerance: float = Field(0.02, ge=0, lt=1, description="by how much a figure may be worse, another plan better")
    sure: float = Field(
        TIED_BELOW, ge=0, le=1,
        description="share of the draws in which another plan must win to be better; 0: the tolerance alone",
    )  # fmt: skip
    scenarios: tuple[Scenario, ...] = Field(min_length=1, strict=False, description="searches that are guarded")

    @model_validator(mode="after")
    def _names_once(self) -> Baseline:
        names = [scenario.name for scenario in self.scenarios]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two scenarios are called {twice!r} (allowed: each name once)")
        return self

    def tolerance_of(self, scenario: Scenario) -> float:
        """The scenario's own, or the file's."""
        return self.tolerance if scenario.tolerance is None else scenario.tolerance

    def sure_of(self, scenario: Scenario) -> float:
        """The scenario's own, or the file's."""
        return self.sure if scenario.sure is None else scenario.sure


def load_baseline(path: Path | str) -> Baseline:
    """The baseline of a YAML file; InputError names file, key and value."""
    return load_file(Baseline, path)


def problem_of(scenario: Scenario, path: Path | str) -> Problem:
    """A scenario's question; an error says which file and scenario asked it.

    Args:
        path: of the baseline: relative traces, clusters and models count from its folder.

    Raises:
        UsageError, InputError: a name, an SLO, a list or a file that cannot be.
    """
    folder = Path(path).parent
    try:
        trace = read_trace(scenario.trace if scenario.trace in bundled_names() else folder / scenario.trace)
        return make_problem(
            _beside(folder, scenario.model), catalog.cluster(_beside(folder, scenario.cluster)),
            trace if scenario.requests is None else head(trace, scenario.requests), catalog.slo(scenario.slo),
            objective=scenario.objective, rate_rps=scenario.rate, price_usd_per_hour=scenario.price,
            carbon_g_per_kwh=scenario.carbon, space=scenario.space or None, seed=scenario.seed,
        )  # fmt: skip
    except ApexsimError as problem:
        raise type(problem)(f"{path}: scenario {scenario.name!r}: {problem}") from None


def plan_of(chosen: Chosen, problem: Problem, source: str) -> Plan:
    """The plan of a chosen one, for the model and the cluster that the scenario has now; InputError if it is none."""
    plan = parse(Plan, chosen.plan, source=f"{source}: chosen.plan")
    return plan.model_copy(update={"model": problem.model_name, "cluster": problem.cluster})


def save_baseline(path: Path | str, baseline: Baseline, chosen: Mapping[str, Chosen]) -> None:
    """Write the same questions with new answers, keys in the order of the classes, whole or not at all."""
    scenarios = [
        scenario.model_dump(mode="json", exclude_unset=True, exclude={"chosen"})
        | {"chosen": chosen[scenario.name].model_dump(mode="json", exclude_none=True)}
        for scenario in baseline.scenarios
    ]
    data = baseline.model_dump(mode="json", exclude_unset=True, exclude={"scenarios"})
    data = {"tolerance": baseline.tolerance} | data | {"scenarios": scenarios}
    write_atomically(path, HEADING + yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=110))


def _beside(folder: Path, name: str) -> str:
    """A file of the baseline's folder, where there is one of that name."""
    return str(folder / name) if (folder / name).exists() and name else name


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")
