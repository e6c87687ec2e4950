"""``ax.plan_experts``: which device holds which experts, and what a reader wants of the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from apexsim.report.answer import Answer
from apexsim.report.proof import proof
from apexsim.report.tables import Table, show
from apexsim.search.experts import ExpertsProblem, read_experts
from apexsim.search.ilp import TIME_LIMIT_S
from apexsim.search.placement import Figures, Placement, best_placement, counts_in_order, physical_to_logical
from apexsim.spec.files import write_atomically


@dataclass(frozen=True)
class PlacementReport(Answer):
    """A placement. ``result`` holds everything, ``to_dict()`` is the JSON of ``apexsim plan experts``."""

    result: Placement

    @property
    def heading(self) -> str:
        found = self.result
        layers, experts = found.question.counts.shape
        proven = sum(layer.gap == 0 for layer in found.groups)
        widest = max(layer.gap for layer in found.groups)
        open_still = f"the optimum in {proven} of {layers} layers, else within {100 * widest:.3g} % of it"
        groups = "the optimum in every layer" if proven == layers else open_still
        parts = [f"{layers} layers of {experts} experts on {found.question.devices} devices", f"groups: {groups}"]
        if found.order is not None:
            parts.append(f"groups on devices: {self._order_proof}")
        if found.taken != "balanced":
            parts.append(f"the {found.taken} groups took less time than balanced ones")
        return "; ".join(parts)

    @property
    def _order_gap(self) -> float:
        order = self.result.order
        return 0.0 if order is None or not order.value else (order.value - order.bound) / order.value

    @property
    def _order_proof(self) -> str:
        """Swaps end where none helps, without a proof: then the bound says how far the optimum may be."""
        order, gap = self.result.order, self._order_gap
        timed_out = order is not None and order.timed_out
        return proof(gap, timed_out) if timed_out or not gap else f"within {100 * gap:.3g} % of the optimum (by swaps)"

    @property
    def tables(self) -> tuple[Table, ...]:
        rows = tuple((name, *_cells(figures)) for name, figures in self.result.figures.items())
        header = (
            "placement", "fullest, mean", "fullest, worst layer", "slowest transfers", "stay on device",
            "leave node", "time",
        )  # fmt: skip
        shown = [i for i in range(len(header)) if any(row[i] != show(None, "s") for row in rows)]
        cut = tuple(tuple(row[i] for i in shown) for row in rows)
        title = "Against other placements: tokens of the fullest device over the mean; all layers together"
        return (Table(title, tuple(header[i] for i in shown), cut, whole=frozenset({"placement"})),)

    def to_dict(self) -> dict[str, Any]:
        """The JSON of ``apexsim plan experts``: SI units; null where undefined. ``bound``: nothing is below it."""
        found, order = self.result, self.result.order
        return {
            "physical_to_logical_map": physical_to_logical(found),
            "groups": [{"value": g.value, "bound": g.bound, "gap": g.gap} for g in found.groups],
            "groups_of": found.taken,
            "order": None if order is None else {
                "unit": "tokens" if found.question.problem.traffic == "cross-node" else "s",
                "value": order.value, "bound": order.bound, "gap": self._order_gap,
                "status": "time limit" if order.timed_out else "optimum" if not self._order_gap else "not proven",
            },
            "placements": {name: _dict(figures) for name, figures in found.figures.items()},
        }  # fmt: skip

    def to_pandas(self) -> pd.DataFrame:
        """One row a layer, device and expert: the tokens of the expert."""
        found = self.result
        return pd.DataFrame([
            {"layer": layer, "device": device, "node": int(found.question.node[device]), "expert": int(expert),
             "tokens": float(found.question.counts[layer, expert])}
            for layer, devices in enumerate(found.held) for device, held in enumerate(devices) for expert in held
        ])  # fmt: skip

    def save(self, path: Path | str) -> None:
        """The map alone as JSON: what SGLang takes as ``--init-expert-location``."""
        write_atomically(path, json.dumps({"physical_to_logical_map": physical_to_logical(self.result)}) + "\n")

    def save_counts(self, path: Path | str) -> None:
        """Tokens of each expert in the order of the placement: ``experts: {routing: PATH}`` of a plan prices it."""
        lines = (" ".join(f"{tokens:.15g}" for tokens in row) for row in counts_in_order(self.result))
        head = "# tokens of each expert, a line a layer, in the order in which devices hold them\n"
        write_atomically(path, head + "\n".join(lines) + "\n")


def plan_experts(
    question: ExpertsProblem | Mapping[str, Any] | Path | str, *, time_limit_s: float = TIME_LIMIT_S
) -> PlacementReport:
    """Which device holds which experts, so that devices are evenly full and little travels between them.

        ax.plan_experts("docs/examples/experts.yaml").save("placement.json")

    Args:
        question: a file, or the mapping that it would hold.
        time_limit_s: what was found until then is returned, with its gap.

    Raises:
        InputError: a question or a file that cannot be.
    """
    return PlacementReport(best_placement(read_experts(question), time_limit_s))


def _cells(figures: Figures) -> tuple[str, ...]:
    return (
        f"{figures.fullest.mean():.4g}", f"{figures.fullest.max():.4g}", show(figures.transfers_s, "s"),
        show(figures.kept, "share"), show(figures.crossing, "share"), show(figures.time_s, "s"),
    )  # fmt: skip


def _dict(figures: Figures) -> dict[str, Any]:
    return {
        "fullest_over_mean": figures.fullest.tolist(), "transfers_s": figures.transfers_s,
        "stay_on_device": figures.kept, "leave_node": figures.crossing, "time_s": figures.time_s,
    }  # fmt: skip
