"""Experts on devices: groups of even load in each layer, then groups on devices so that little travels between layers.

Two stages, as in MoETuner (arXiv 2502.06643), each at its optimum or with its gap; the two together need not be the
best of all placements, because the groups are made without a look at where their tokens go. Where ``token_time`` says
what compute costs beside transfers, the groups of two simple placements are tried, too, and the least time wins:

    time = Σ_l token_time · fullest device's tokens + Σ_l max over links of tokens · bytes / bandwidth
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from apexsim.errors import InputError, NoFeasiblePlan
from apexsim.search.expert_groups import Grouped, grouped
from apexsim.search.experts import ExpertsQuestion
from apexsim.search.ilp import TIME_LIMIT_S
from apexsim.search.placement_chain import Links, OnDevices, on_devices, total
from apexsim.search.placement_ilp import on_devices_by_ilp

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MOST_BY_ILP = 1300
"""Continuous variables of a transition (devices to the fourth) times transitions that ``method: ilp`` takes."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one placement comes to, over all layers of the counts.

    Attributes:
        fullest: [layers] tokens of the fullest device over the mean one.
        transfers_s: Σ over the transitions of the slowest transfer; None without transitions.
        kept, crossing: share of the tokens that stay on their device, and that leave their node.
        time_s: compute of the fullest devices and transfers; None where ``token_time`` is not known.
    """

    fullest: Floats
    transfers_s: float | None
    kept: float | None
    crossing: float | None
    time_s: float | None


@dataclass(frozen=True)
class Placement:
    """What was found: ``held[layer][device]`` are experts; ``figures`` by placement, ours first.

    Attributes:
        groups: the first stage of each layer. order: the second one; None without transitions.
        taken: whose groups they are: ``balanced``, or those of a simple placement that led to less time.
    """

    question: ExpertsQuestion
    held: Integers
    groups: tuple[Grouped, ...]
    order: OnDevices | None
    taken: str
    figures: dict[str, Figures]
    wall_s: float


def best_placement(question: ExpertsQuestion, time_limit_s: float = TIME_LIMIT_S) -> Placement:
    """The placement of a question that ``read_experts`` read.

    Raises:
        InputError: ``method: ilp`` for more than it can do. NoFeasiblePlan: it found nothing in time.
    """
    began = time.monotonic()
    groups = _groups(question, time_limit_s / 2)
    simple = {"contiguous": contiguous(question), "round-robin": round_robin(question)}
    balanced = np.array([layer.members for layer in groups])
    tried = {"balanced": balanced}
    if question.problem.token_time is not None:
        tried |= simple
    found: list[tuple[float, str, Integers, OnDevices | None]] = []
    for name, held in tried.items():
        left = max(time_limit_s - (time.monotonic() - began), 0.1)
        order = _order(question, held, left) if question.moved.any() else None
        placed = held if order is None else np.array([held[i][row] for i, row in enumerate(order.held)])
        found.append((figures(question, placed).time_s or 0.0, name, placed, order))
    _, taken, placed, order = min(found, key=lambda each: each[0])
    beside = {"this": placed, **simple, "balanced, in any order": balanced}
    told = {name: figures(question, held) for name, held in beside.items()}
    return Placement(question, placed, groups, order, taken, told, time.monotonic() - began)


def contiguous(question: ExpertsQuestion) -> Integers:
    """Experts in their order: the first ones on the first device."""
    layers, experts = question.counts.shape
    return np.tile(np.arange(experts).reshape(question.devices, -1), (layers, 1, 1))


def round_robin(question: ExpertsQuestion) -> Integers:
    """Experts dealt to the devices in turn."""
    layers, experts = question.counts.shape
    return np.tile(np.arange(experts).reshape(-1, question.devices).T, (layers, 1, 1))


def figures(question: ExpertsQuestion, held: Integers) -> Figures:
    """What ``held`` [layers, devices, experts of a device] comes to."""
    loads = np.array([row[experts].sum(axis=1) for row, experts in zip(question.counts, held, strict=True)])
    fullest = loads.max(axis=1) / loads.mean(axis=1)
    token_time = question.problem.token_time
    if not question.moved.any():
        return Figures(fullest, None, None, None, token_time and float(token_time * loads.max(axis=1).sum()))
    flows = between(question, held)
    in_order = np.tile(np.arange(question.devices), (len(held), 1))
    transfers_s = total(flows, links(question, by_node=False), in_order)
    crossing = total(flows, links(question, by_node=True), in_order)
    sums = flows.sum()
    time_s = None if token_time is None else float(token_time * loads.max(axis=1).sum()) + transfers_s
    kept = float(np.trace(flows, axis1=1, axis2=2).sum() / sums)
    return Figures(fullest, transfers_s, kept, float(crossing / sums), time_s)


def between(question: ExpertsQuestion, held: Integers) -> Floats:
    """[layers - 1, devices, devices] tokens between the groups of adjacent layers."""
    group = np.zeros(question.counts.shape, np.int64)
    for layer, experts in enumerate(held):
        for device, members in enumerate(experts):
            group[layer, members] = device
    member = group[:, :, None] == np.arange(question.devices)
    return np.asarray(np.einsum("lec,lef,lfd->lcd", member[:-1], question.moved, member[1:], optimize=True))


def links(question: ExpertsQuestion, *, by_node: bool) -> Links:
    """The links as the chain wants them; ``by_node``: tokens that leave a node instead of seconds."""
    seconds = question.token_bytes / question.bandwidth
    np.fill_diagonal(seconds, 0.0)
    return Links(seconds, question.node, by_node)


def _groups(question: ExpertsQuestion, time_limit_s: float) -> tuple[Grouped, ...]:
    began, found = time.monotonic(), []
    for layer, loads in enumerate(question.counts):
        left = (time_limit_s - (time.monotonic() - began)) / (len(question.counts) - layer)
        found.append(grouped(loads, question.devices, question.problem.balance, max(left, 0.05)))
    return tuple(found)


def _order(question: ExpertsQuestion, held: Integers, time_limit_s: float) -> OnDevices:
    problem = question.problem
    flows, joined = between(question, held), links(question, by_node=problem.traffic == "cross-node")
    if problem.method == "auto":
        return on_devices(flows, joined, time_limit_s)
    if problem.traffic != "worst-link" or question.devices**4 * len(flows) > MOST_BY_ILP:
        raise InputError(
            f"method: ilp is for traffic: worst-link and few layers and devices (devices^4 · transitions at most "
            f"{MOST_BY_ILP:,}, here {question.devices**4 * len(flows):,}); leave it out"
        )
    found, outcome = on_devices_by_ilp(flows, joined.seconds, time_limit_s)
    if found is None:
        raise NoFeasiblePlan(f"method: ilp found no placement within {time_limit_s:.3g} s: allow more time")
    value = total(flows, joined, found)
    return replace(OnDevices(found, value, min(max(outcome.bound, 0.0), value)), timed_out=outcome.timed_out)


def physical_to_logical(placement: Placement) -> list[list[int]]:
    """[layers][slots] the expert of each slot, devices one after the other: what engines call this map."""
    return [[int(expert) for expert in row] for row in placement.held.reshape(len(placement.held), -1)]


def counts_in_order(placement: Placement) -> Floats:
    """[layers][slots] tokens of the expert of each slot: as ``experts.routing`` of a plan with contiguous placement."""
    slots = placement.held.reshape(len(placement.held), -1)
    return np.take_along_axis(placement.question.counts, slots, axis=1)
