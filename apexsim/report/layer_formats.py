"""``ax.plan_precision``: a format for each layer, and what a reader wants of the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from apexsim.report.answer import Answer
from apexsim.report.proof import proof, proof_dict
from apexsim.report.tables import UNDEFINED, Table, show
from apexsim.search.formats import Cost, FormatsProblem, read_formats, with_formats
from apexsim.search.ilp import TIME_LIMIT_S
from apexsim.search.precision_ilp import Formats, best_formats
from apexsim.spec.files import write_atomically
from apexsim.spec.plan import Plan
from apexsim.spec.units import format_bytes

UNITS = {"time": "s", "energy": "J", "memory": "bytes", "loss": "of loss"}


@dataclass(frozen=True)
class FormatsReport(Answer):
    """Formats by layer. ``result`` holds everything, ``to_dict()`` is the JSON of ``apexsim plan precision``."""

    result: Formats

    @property
    def plan(self) -> Plan:
        """The plan with the formats as rules of its ``precision``."""
        return with_formats(self.result.question.plan, self.result.chosen)

    @property
    def heading(self) -> str:
        found = self.result
        words = [found.chosen[item.layer, item.part] for item in found.question.items]
        counts = ", ".join(f"{word} {words.count(word)}" for word in dict.fromkeys(sorted(words)))
        return f"{len(words)} layers or parts: {counts}; loss {found.loss:.4g}, {proof(found.gap, found.timed_out)}"

    @property
    def tables(self) -> tuple[Table, ...]:
        found = self.result
        added = len(self.plan.pools[0].precision) - len(found.question.plan.pools[0].precision)
        rules = self.plan.pools[0].precision[-added:]
        formats = tuple(
            (rule.layers, rule.part, str(rule.weights), rule.activations or "as the weights") for rule in rules
        )
        beside = [("this", found.loss, found.predicted), *((w, *of) for w, of in found.uniform.items())]
        rows = [(name, f"{loss:.4g}", *_cells(cost)) for name, loss, cost in beside]
        rows.append(("this, simulated", f"{found.loss:.4g}", *_cells(found.simulated)))
        header = ("", "loss", "time", "energy", "weights a device")
        return (
            Table("Rules", ("layers", "part", "weights", "activations"), formats,
                  prose=frozenset({"part", "weights", "activations"})),
            Table("Against one format everywhere", header, tuple(rows)),
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """The JSON of ``apexsim plan precision``: SI units; null where undefined."""
        found = self.result
        return {
            "objective": found.question.problem.objective, "unit": UNITS[found.question.problem.objective],
            **proof_dict(found.value, found.bound, found.gap, found.timed_out),
            "loss": found.loss, "predicted": found.predicted._asdict(),
            "simulated": None if found.simulated is None else found.simulated._asdict(),
            "uniform": {word: {"loss": loss, **cost._asdict()} for word, (loss, cost) in found.uniform.items()},
            "not_to_be_had": found.question.closed,
            "formats": [{"layer": layer, "part": part, "format": word} for (layer, part), word in found.chosen.items()],
            "plan": self.plan.model_dump(mode="json"),
        }  # fmt: skip

    def to_pandas(self) -> pd.DataFrame:
        """One row a layer or part: its format, its loss, and what it adds to the leanest one."""
        found = self.result
        return pd.DataFrame([
            {"layer": item.layer, "part": item.part, "format": word, "loss": item.losses[word],
             **{f"added_{key}": value for key, value in found.question.added[place, word]._asdict().items()}}
            for place, item in enumerate(found.question.items)
            for word in (found.chosen[item.layer, item.part],)
        ])  # fmt: skip

    def save(self, path: Path | str) -> None:
        """The plan with its rules, as YAML. UsageError where it cannot be written."""
        data = self.plan.model_dump(mode="json", exclude_defaults=True)
        write_atomically(path, yaml.safe_dump(data, sort_keys=False, allow_unicode=True))


def plan_precision(
    question: FormatsProblem | Mapping[str, Any] | Path | str, *, time_limit_s: float = TIME_LIMIT_S
) -> FormatsReport:
    """A format for each layer that makes time, energy, memory or loss least within an accuracy budget.

        ax.plan_precision("docs/examples/formats.yaml").plan

    Args:
        question: a file, or the mapping that it would hold.
        time_limit_s: what was found until then is returned, with its gap.

    Raises:
        InputError: a question that cannot be. NoFeasiblePlan: no choice keeps the limits; the message says why.
    """
    return FormatsReport(best_formats(read_formats(question), time_limit_s))


def _cells(cost: Cost | None) -> tuple[str, ...]:
    if cost is None:
        return ("does not fit", UNDEFINED, UNDEFINED)
    return (show(cost.time_s, "s"), show(cost.energy_j, "J"), format_bytes(cost.weights_bytes, 4))
