"""Experts in groups, and groups on devices, as integer programs (the formulation of MoETuner, arXiv 2502.06643).

Stage 1, of one layer: x[e, c] says that expert e is in group c.

    minimise the fullest group, or Σ_c |load of c − mean|;   Σ_c x[e, c] = 1,   Σ_e x[e, c] = experts / groups

Stage 2, of all layers: y[l, c, g] says that group c of layer l is on device g; z[l, c, g, c', h] that besides c' of the
next layer is on h. z is continuous: its sums over h, and over g, are y (a transport polytope), which is tight.

    minimise Σ_l t[l],   t[l] ≥ Σ_{c, c'} W[l, c, c'] · z[l, c, g, c', h] · bytes / bandwidth[g, h] for all g ≠ h

Solvers do not close stage 2 at the size of a real model (32 layers on four devices: not within two minutes), which is
why ``placement_chain.py`` exists; this is its reference on few layers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apexsim.search.ilp import Outcome, Program

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class GroupsByIlp(NamedTuple):
    """``members`` [groups, experts of a group], None where nothing was found in time."""

    members: Integers | None
    bound: float
    timed_out: bool


def groups_by_ilp(loads: Floats, groups: int, balance: str, time_limit_s: float) -> GroupsByIlp:
    """Stage 1 for one layer. Groups are alike: the i-th heaviest expert is in one of the first i of them."""
    program = Program()
    order = np.argsort(-loads, kind="stable")
    chosen = {
        (expert, c): program.variable(0, 1 if c <= place else 0, whole=True)
        for place, expert in enumerate(order.tolist()) for c in range(groups)
    }
    for expert in range(loads.size):
        program.equal([(1.0, chosen[expert, c]) for c in range(groups)], 1.0)
    off = [program.variable() for _ in range(groups if balance == "sum-deviation" else 1)]
    mean = float(loads.sum() / groups)
    for c in range(groups):
        program.equal([(1.0, chosen[expert, c]) for expert in range(loads.size)], loads.size / groups)
        held = [(float(loads[expert]), chosen[expert, c]) for expert in range(loads.size)]
        if balance == "sum-deviation":
            program.at_most([*held, (-1.0, off[c])], mean)
            program.at_least([*held, (1.0, off[c])], mean)
        else:
            program.at_most([*held, (-1.0, off[0])], 0.0)
    outcome = program.solve([[(1.0, number) for number in off]], time_limit_s)
    if not outcome.found:
        return GroupsByIlp(None, outcome.bound, True)
    where = [[e for e in range(loads.size) if outcome.values[chosen[e, c]] > 0.5] for c in range(groups)]
    return GroupsByIlp(np.array(where), outcome.bound, outcome.timed_out)


def on_devices_by_ilp(flows: Floats, seconds: Floats, time_limit_s: float) -> tuple[Integers | None, Outcome]:
    """Stage 2: [layers, devices] the group on each device, and how sure that is.

    Args:
        flows: [layers - 1, groups, groups] tokens between groups of adjacent layers.
        seconds: [devices, devices] of one token from device to device; 0 on the diagonal.
    """
    layers, count = len(flows) + 1, flows.shape[1]
    every = range(count)
    program = Program()
    y = {(i, c, g): program.variable(0, 1, whole=True) for i in range(layers) for c in every for g in every}
    # equal devices: nothing is lost where only one order of the first layer's groups is looked at
    if len(set(seconds[~np.eye(count, dtype=bool)].tolist())) <= 1:
        for c in every:
            program.equal([(1.0, y[0, c, c])], 1.0)
    for i in range(layers):
        for a in every:
            program.equal([(1.0, y[i, a, g]) for g in every], 1.0)
            program.equal([(1.0, y[i, c, a]) for c in every], 1.0)
    slowest = [program.variable() for _ in flows]
    for i, flow in enumerate(flows):
        z = {key: program.variable() for key in np.ndindex(count, count, count, count)}  # c, g, c', h
        for c in every:
            for g in every:
                for other in every:
                    program.equal([*((1.0, z[c, g, other, h]) for h in every), (-1.0, y[i, c, g])], 0.0)
                    program.equal([*((1.0, z[other, h, c, g]) for h in every), (-1.0, y[i + 1, c, g])], 0.0)
        for g in every:
            for h in every:
                if g != h:
                    sent = [(float(flow[c, d] * seconds[g, h]), z[c, g, d, h]) for c in every for d in every]
                    program.at_most([*sent, (-1.0, slowest[i])], 0.0)
    outcome = program.solve([[(1.0, number) for number in slowest]], time_limit_s)
    if not outcome.found:
        return None, outcome
    held = [[next(c for c in every if outcome.values[y[i, c, g]] > 0.5) for g in every] for i in range(layers)]
    return np.array(held), outcome
