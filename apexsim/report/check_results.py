"""``apexsim check``: a baseline evaluated anew, as a Markdown table, JSON and JUnit XML."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apexsim.errors import InputError, NoFeasiblePlan, Regression
from apexsim.report.junit import Case, junit_text
from apexsim.search.baseline import (
    FIGURES,
    Baseline,
    Chosen,
    Scenario,
    load_baseline,
    plan_of,
    problem_of,
    save_baseline,
)
from apexsim.search.check import Checked, change, check, searched
from apexsim.search.executors import executor
from apexsim.search.miss import nearest_miss

Said = Callable[[str], None]

SHOWN = 0.0005
"""Relative change from which on a table shows it."""


@dataclass(frozen=True)
class CheckReport:
    """Every scenario of a baseline."""

    path: Path
    checked: tuple[Checked, ...]

    @property
    def failed(self) -> tuple[Checked, ...]:
        return tuple(each for each in self.checked if not each.passed)

    @property
    def summary(self) -> str:
        """One line."""
        return f"{self.path}: {len(self.checked) - len(self.failed)} of {len(self.checked)} scenarios hold"

    def raise_if_worse(self) -> None:
        """Regression (exit code 4) names the scenarios that fail."""
        if self.failed:
            names = ", ".join(each.scenario.name for each in self.failed)
            raise Regression(f"{self.path}: {len(self.failed)} of {len(self.checked)} scenarios got worse: {names}")

    def to_markdown(self) -> str:
        """A table for a pull request's comment, and below it why scenarios fail.

        P: the share of the draws in which the plan beats the best of the others.
        """
        header = ["scenario", "plan", *(figure.label for figure in FIGURES.values()), "P", "verdict"]
        lines = [f"**{self.summary}**", "", _row(header), _row(["---"] * len(header))]
        lines += [_row(_cells(each)) for each in self.checked]
        reasons = [f"- **{each.scenario.name}**: {why.message}" for each in self.failed for why in each.findings]
        notes = [f"- {each.scenario.name}: {note}" for each in self.checked for note in each.notes]
        for part in (reasons, notes):
            lines += ["", *part] if part else []
        return "\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """The JSON of ``apexsim check``."""
        return {
            "baseline": str(self.path),
            "passed": not self.failed,
            "scenarios": [_entry(each) for each in self.checked],
        }

    def to_junit(self) -> str:
        """JUnit XML: a test case a scenario."""
        cases = (
            Case(each.scenario.name, tuple(f.message for f in each.findings), "\n".join(_said(each)))
            for each in self.checked
        )
        return junit_text(str(self.path), tuple(cases))


def check_baseline(
    path: Path | str, *, workers: int | None = None, on_scenario: Said = lambda name: None
) -> CheckReport:
    """Evaluate every scenario of a baseline anew.

    Raises:
        InputError: a file that cannot be read, or a scenario that nothing was chosen for yet.
        UsageError: a scenario names something that nobody knows.
    """
    baseline = load_baseline(path)
    checked = []
    for scenario, chosen in [(scenario, _chosen(path, scenario)) for scenario in baseline.scenarios]:
        on_scenario(scenario.name)
        problem = problem_of(scenario, path)
        plan = plan_of(chosen, problem, f"{path}: scenario {scenario.name!r}")
        result = searched(problem, executor("process", workers))
        limits = (baseline.tolerance_of(scenario), baseline.sure_of(scenario))
        checked.append(check(scenario, chosen, plan, problem, result, *limits, executor("process", workers)))
    return CheckReport(Path(path), tuple(checked))


def update_baseline(
    path: Path | str, *, workers: int | None = None, on_scenario: Said = lambda name: None
) -> list[str]:
    """Choose every scenario's plan anew and rewrite the file; a line for each of them, what it was and is.

    Raises:
        NoFeasiblePlan: a scenario has no plan; the file stays as it was.
    """
    baseline: Baseline = load_baseline(path)
    chosen: dict[str, Chosen] = {}
    lines = []
    for scenario in baseline.scenarios:
        on_scenario(scenario.name)
        result = searched(problem_of(scenario, path), executor("process", workers))
        if not result.ranked:
            raise NoFeasiblePlan(f"{path}: scenario {scenario.name!r}: {nearest_miss(result)} (nothing was written)")
        chosen[scenario.name] = Chosen.of(result.ranked[0], scenario.model)
        lines.append(_moved(scenario, chosen[scenario.name]))
    save_baseline(path, baseline, chosen)
    return lines


def _chosen(path: Path | str, scenario: Scenario) -> Chosen:
    if scenario.chosen is None:
        writes = f"`apexsim check {path} --update` writes it"
        raise InputError(f"{path}: scenario {scenario.name!r}: chosen: missing ({writes})")
    return scenario.chosen


def _moved(scenario: Scenario, now: Chosen) -> str:
    before = scenario.chosen
    if before is None:
        return f"{scenario.name}: {now.id}, {now.goodput_rps:.4g} req/s (new)"
    moved = change(before.goodput_rps, now.goodput_rps) or 0.0
    plan = now.id if now.id == before.id else f"{before.id} -> {now.id}"
    return f"{scenario.name}: {plan}, {now.goodput_rps:.4g} req/s ({moved:+.1%})"


def _cells(each: Checked) -> list[str]:
    chosen = each.scenario.chosen
    assert chosen is not None
    cells = [each.scenario.name, f"`{chosen.id}`"]
    for key, figure in FIGURES.items():
        value = None if each.now is None else figure.value(each.now)
        moved = change(getattr(chosen, key), value)
        bad = any(finding.figure == key for finding in each.findings)
        text = "–" if value is None else f"{value:.4g}" + (f" ({moved:+.1%})" if moved and abs(moved) >= SHOWN else "")
        cells.append(f"**{text}**" if bad else text)
    cells.append(_chance(each))
    holds = "holds, tied" if each.tied else "holds"
    return [*cells, holds if each.passed else f"**{_verdict(each)}**"]


def _chance(each: Checked) -> str:
    if each.duel is None:
        return "–"
    return "equal" if each.duel.chances.ties == 1.0 else f"{each.duel.chances.beats:.0%}"


def _said(each: Checked) -> tuple[str, ...]:
    """How the plan stands beside the best of the others, where no note says it, and the notes."""
    words = () if each.duel is None else (each.duel.words,)
    return (*(line for line in words if not any(line in note for note in each.notes)), *each.notes)


def _verdict(each: Checked) -> str:
    words = {"slo": "not feasible", "best": "not the best", "worse": "worse"}
    return ", ".join(dict.fromkeys(words[finding.kind] for finding in each.findings))


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _entry(each: Checked) -> dict[str, Any]:
    chosen = each.scenario.chosen
    assert chosen is not None
    figures = {
        key: {"baseline": getattr(chosen, key), "now": None if each.now is None else figure.value(each.now)}
        for key, figure in FIGURES.items()
    }
    return {
        "name": each.scenario.name,
        "passed": each.passed,
        "tolerance": each.tolerance,
        "chosen": chosen.id,
        "best": None if each.best is None else each.best.id,
        "tied": each.tied,
        "confidence": None if each.duel is None else each.duel.to_dict(),
        "figures": figures,
        "failures": [{"kind": finding.kind, "message": finding.message} for finding in each.findings],
        "notes": list(each.notes),
    }
