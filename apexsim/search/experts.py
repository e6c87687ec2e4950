"""The question of experts on devices: tokens of each expert, where they go next, and what joins the devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator

from apexsim.cost.counts import measured
from apexsim.errors import InputError
from apexsim.search.question import beside, read_csv, read_question
from apexsim.spec import catalog
from apexsim.spec.base import Strict
from apexsim.spec.cluster import Cluster, island_size
from apexsim.spec.units import Bytes, Seconds

Floats = NDArray[np.float64]

COLUMNS = ("layer", "from", "to", "tokens")
ACTIVATION_BYTES = 2.0


class ExpertsProblem(Strict):
    """Routed experts to be put on the devices of a replica."""

    counts: str = Field(description="file with the tokens of each expert, a line a layer with experts")
    transitions: str | None = Field(
        None, description="CSV layer,from,to,tokens: tokens of expert `from` that use `to` in the next line's layer"
    )
    cluster: Cluster = Field(description="devices that share the experts, all of them, and their links")
    token_bytes: Bytes | None = Field(None, gt=0, description="what a token takes along between devices")
    model: str | None = Field(None, description="in place of token_bytes: the model, whose hidden state it is, 16 bits")
    token_time: Seconds | None = Field(
        None, gt=0, description="compute of one token in one expert; then groupings are compared by the time of a layer"
    )
    balance: Literal["max-load", "sum-deviation"] = Field(
        "max-load", description="what makes a layer's groups even: the fullest one, or the sum of deviations (MoETuner)"
    )
    traffic: Literal["worst-link", "cross-node"] = Field(
        "worst-link", description="what to keep small between layers: the slowest transfer, or all that leaves a node"
    )
    method: Literal["auto", "ilp"] = Field(
        "auto", description="ilp: the integer program instead of the chain of layers, for few layers and devices"
    )

    @model_validator(mode="after")
    def _consistent(self) -> ExpertsProblem:
        if self.transitions is not None and (self.token_bytes is None) == (self.model is None):
            raise ValueError("token_bytes: needed beside transitions, or model in its place, but not both")
        if self.cluster.other_groups:
            raise ValueError(f"cluster = {self.cluster}: experts are dealt to devices of one kind")
        if self.traffic == "cross-node" and self.cluster.nodes == 1:
            raise ValueError("traffic: cross-node needs a cluster of several nodes")
        return self


@dataclass(frozen=True, slots=True)
class ExpertsQuestion:
    """A problem with its files read.

    Attributes:
        counts: [layers, experts] tokens.
        moved: [layers - 1, experts, experts] tokens from expert to expert of the next layer; zeros where nobody said.
        node: [devices] the node of each; what scale-up links join counts as one.
        bandwidth: [devices, devices] B/s from device to device.
        token_bytes: of one token; 0 without transitions.
    """

    problem: ExpertsProblem
    counts: Floats
    moved: Floats
    node: NDArray[np.int64]
    bandwidth: Floats
    token_bytes: float

    @property
    def devices(self) -> int:
        return len(self.node)


def read_experts(source: ExpertsProblem | Mapping[str, Any] | Path | str) -> ExpertsQuestion:
    """The question with counts, transitions and links.

    Raises:
        InputError: a file that says something impossible. UsageError: an unknown model or device.
    """
    problem, folder, name = read_question(ExpertsProblem, source, "experts")
    cluster = problem.cluster
    if (reason := cluster.network.unknown_to_programs) is not None:
        raise InputError(f"{name}: {reason}")
    counts = measured(str(beside(folder, problem.counts)))
    if counts.ndim != 2 or not counts.size:
        raise InputError(f"{problem.counts}: no counts of tokens")
    layers, experts = counts.shape
    if experts % cluster.devices:
        told = f"{experts} experts ({problem.counts}) do not divide among {cluster.devices} devices"
        raise InputError(f"{name}: cluster = {cluster}: {told}")
    moved = np.zeros((layers - 1, experts, experts))
    if problem.transitions is not None and layers == 1:
        raise InputError(f"{name}: transitions: the counts are of one layer, which no other follows")
    if problem.transitions is not None:
        moved = _transitions(beside(folder, problem.transitions), layers, experts)
    token_bytes = problem.token_bytes or 0.0
    if problem.model is not None:
        token_bytes = ACTIVATION_BYTES * catalog.model(problem.model).hidden_size
    node, bandwidth = _links(cluster)
    return ExpertsQuestion(problem, counts, moved, node, bandwidth, token_bytes)


def _transitions(path: Path, layers: int, experts: int) -> Floats:
    table = read_csv(path)
    if list(table.columns) != list(COLUMNS):
        raise InputError(f"{path}: columns {', '.join(map(str, table.columns))}: expected {', '.join(COLUMNS)}")
    if table.empty:
        raise InputError(f"{path}: no rows")
    bounds = {"layer": layers - 1, "from": experts, "to": experts, "tokens": np.inf}
    for column, end in bounds.items():
        values = pd.to_numeric(table[column], errors="coerce")
        wrong = ~(values >= 0) | ~(values < end)
        wrong |= (values % 1 != 0) if column != "tokens" else False
        if wrong.any():
            line = int(np.flatnonzero(wrong)[0])
            allowed = f"0 to {end - 1}" if column != "tokens" else "a number of at least 0"
            raise InputError(f"{path}: row {line + 1}: {column} = {table[column].iloc[line]}: must be {allowed}")
    moved = np.zeros((layers - 1, experts, experts))
    where = tuple(table[column].to_numpy(np.int64) for column in COLUMNS[:3])
    np.add.at(moved, where, table["tokens"].to_numpy(np.float64))
    return moved


def _links(cluster: Cluster) -> tuple[NDArray[np.int64], Floats]:
    """Node of each device, and B/s between devices, at the share of the datasheet that links reach."""
    profile = catalog.device(cluster.device)
    size = max(cluster.devices_per_node, island_size(cluster, profile))
    node = np.arange(cluster.devices) // size
    near = (profile.scaleup.bandwidth if profile.scaleup else 0.0) or profile.pcie_bandwidth or 0.0
    far = cluster.node_link or profile.node_link_bandwidth
    same = node[:, None] == node[None, :]
    return node, profile.efficiency.link * np.where(same, near or far, far)
