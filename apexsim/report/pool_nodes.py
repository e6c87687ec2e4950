"""``ax.plan_pools``: prefill and decode replicas on nodes, and what a reader wants of the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from apexsim.report.answer import Answer
from apexsim.report.proof import proof, proof_dict
from apexsim.report.tables import UNDEFINED, Table, show
from apexsim.search.ilp import TIME_LIMIT_S
from apexsim.search.pools import DECODE, PREFILL, PoolsProblem, read_pools
from apexsim.search.pools_ilp import Placed, PoolsPlan, best_pools
from apexsim.spec.units import format_bytes


@dataclass(frozen=True)
class PoolsReport(Answer):
    """A placement. ``result`` holds everything, ``to_dict()`` is the JSON of ``apexsim plan pools``."""

    result: PoolsPlan

    @property
    def heading(self) -> str:
        found = self.result
        counts = {role: sum(found.replicas(s) for s in self._shapes if s.role == role) for role in (PREFILL, DECODE)}
        return (
            f"{found.goodput_rps:.4g} req/s by {counts[PREFILL]} prefill and {counts[DECODE]} decode replicas on "
            f"{found.devices} of {found.question.problem.cluster.devices} devices, {proof(found.gap, found.timed_out)}"
        )

    @property
    def _shapes(self) -> tuple[Any, ...]:
        return self.result.question.problem.shapes

    @property
    def tables(self) -> tuple[Table, ...]:
        found, kv = self.result, self.result.question.kv_bytes
        shapes = tuple(
            (s.name, s.role, str(s.devices), f"{s.rate:.4g}", str(found.replicas(s)))
            for s in self._shapes if found.replicas(s)
        )  # fmt: skip
        nodes = tuple(
            (
                placed.pattern.name, placed.pattern.box.device, str(placed.nodes * placed.pattern.nodes),
                f"{placed.local_rps:.4g}", f"{placed.out_rps:.4g}", f"{placed.in_rps:.4g}",
                *(_share(flow * kv, placed.nodes * placed.pattern.link(role))
                  for flow, role in ((placed.out_rps, PREFILL), (placed.in_rps, DECODE))),
            )
            for placed in found.placed
        )  # fmt: skip
        flow = f"KV of {format_bytes(kv, 4)} a request; {found.crossing_rps:.4g} req/s of it go over the network"
        header = ("", "device", "nodes", "stays, req/s", "leaves, req/s", "comes, req/s", "links out", "links in")
        columns = ("", "role", "devices each", "req/s each", "replicas")
        return (
            Table("Replicas", columns, shapes, prose=frozenset({"role"})),
            Table(f"Nodes: {flow}", header, nodes, prose=frozenset({"device"}), whole=frozenset({""})),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON of ``apexsim plan pools``: SI units. ``placement``: nodes in the order of the cluster's groups."""
        found, objective = self.result, self.result.question.problem.objective
        return {
            "objective": objective, "unit": "req/s" if objective == "goodput" else "devices",
            **proof_dict(found.value, found.bound, found.gap, found.timed_out),
            "goodput_rps": found.goodput_rps, "devices": found.devices, "kv_bytes": found.question.kv_bytes,
            "crossing_rps": found.crossing_rps,
            "replicas": {shape.name: found.replicas(shape) for shape in self._shapes},
            "placement": [row for placed in found.placed for row in _rows(placed)],
        }  # fmt: skip

    def to_pandas(self) -> pd.DataFrame:
        """One row a node, or one for the nodes that a replica takes: replicas of each shape, requests/s, bytes/s."""
        kv = self.result.question.kv_bytes
        rows = [row for placed in self.result.placed for row in _rows(placed)]
        return pd.DataFrame([
            {**{key: value for key, value in row.items() if key != "replicas"},
             **{shape.name: row["replicas"].get(shape.name, 0) for shape in self._shapes},
             "out_bytes_per_s": row["out_rps"] * kv, "in_bytes_per_s": row["in_rps"] * kv}
            for row in rows
        ])  # fmt: skip


def plan_pools(
    question: PoolsProblem | Mapping[str, Any] | Path | str, *, time_limit_s: float = TIME_LIMIT_S
) -> PoolsReport:
    """How many prefill and decode replicas of which shape, on which nodes, with KV within the nodes' links.

        ax.plan_pools("docs/examples/pool-nodes.yaml").to_pandas()

    Args:
        question: a file, or the mapping that it would hold.
        time_limit_s: what was found until then is returned, with its gap.

    Raises:
        InputError: a question that cannot be. NoFeasiblePlan: the rate cannot be served; the message says why.
    """
    return PoolsReport(best_pools(read_pools(question), time_limit_s))


def _share(used: float, of: float) -> str:
    return show(used / of, "share") if of else UNDEFINED


def _rows(placed: Placed) -> list[dict[str, Any]]:
    """Each node with the pattern (or each set of nodes that one replica takes) does an equal part."""
    pattern, count = placed.pattern, placed.nodes
    replicas = {s.name: n for s, n in zip(pattern.shapes, pattern.count, strict=True) if n}
    row = {
        "device": pattern.box.device, "nodes": pattern.nodes, "replicas": replicas,
        "local_rps": placed.local_rps / count, "out_rps": placed.out_rps / count, "in_rps": placed.in_rps / count,
    }  # fmt: skip
    return [dict(row) for _ in range(count)]
