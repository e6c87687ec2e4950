"""What the routed experts of one rank must do, and what an expert-parallel group must send: FLOP, bytes and sizes."""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.fullest import rank_load
from apexsim.cost.operators import ExpertExchange, GroupedGemm, Phase
from apexsim.cost.precision import ACTIVATION_BYTES
from apexsim.cost.shapes import Work
from apexsim.spec.formats import weight_bytes
from apexsim.spec.hardware import HardwareProfile

Floats = NDArray[np.float64]

WIRE_BYTES = {"bf16": 2.0, "fp8": 1.0 + 4 / 128, "nvfp4": 0.5 + 1 / 16, "fp4": 0.5 + 1 / 16, "int8": 7680 / 7168}
"""Bytes of one value on the wire, with its share of the scale of its block (one of 4 bytes per 128, or 1 per 16); int8:
CloudMatrix-Infer's message of 7.5 kB for 7,168 values."""

INDEX_BYTES = 4.0
"""Bytes per (token, expert) pair that ``prepare`` tells to the other ranks."""


def grouped_work(tokens: Floats, op: GroupedGemm) -> tuple[Work, dict[str, Floats]]:
    """The routed experts of one rank for ``tokens`` tokens of the whole group.

    ``moved`` counts the weights of the touched experts, and each token's hidden state once in and once out; a token
    reaches a rank with at most ``experts_per_token`` of its choices.
    """
    load = rank_load(tokens, op)
    hidden, width, parameters = op.hidden_size, op.intermediate_size, op.expert_parameters
    weights = load.touched * parameters * weight_bytes(op.weights)
    flops = 2.0 * load.rows * parameters
    moved = weights + 2.0 * ACTIVATION_BYTES * hidden * load.rows / op.experts_per_token
    none = np.zeros_like(flops)
    seen, pairs = (load.rows, load.rows) if op.dispatched else (tokens + none, tokens * op.experts_per_token)
    sizes = {
        "tokens": seen, "each": load.rows / np.maximum(load.touched, 1e-9), "touched": load.touched,
        "held": op.local_experts + none, "width": hidden * width + none, "parameters": parameters + none,
        "depth": hidden + width + none, "weight_bytes": weights, "rank_values": load.rows * (hidden + width),
        "pair_values": pairs * hidden + none, "wide_values": pairs * width + none,
    }  # fmt: skip
    padded = {f"rows{tile}": rows for tile, rows in load.padded.items()}
    return Work(flops, moved, load.touched, flops, none), sizes | padded


def exchange_work(phase: Phase, tokens: Floats, op: ExpertExchange) -> tuple[Work, dict[str, Floats]]:
    """One phase of an exchange in which each of ``op.ranks`` ranks has ``tokens`` tokens.

    ``moved``: bytes that a rank sends to (or takes from) the other ranks of its node. ``least_near``, ``least_far``:
    what must pass over its scale-up links and its network at least, if every token goes once to each rank, or node,
    that holds one of its experts. ``units`` copy at once: multiprocessors, where the kernel is told how many; in a
    low-latency kernel one group of warps an expert.
    """
    value = INDEX_BYTES if phase == "prepare" else WIRE_BYTES[op.dtype if phase == "dispatch" else _returned(op)]
    item = tokens * value * (op.experts_per_token if phase == "prepare" else op.hidden_size)
    local = op.ranks // op.nodes
    ranks_met, nodes_met = _met(op, op.ranks), _met(op, op.nodes)
    least_far = item * nodes_met * (op.nodes - 1) / op.nodes
    within = ranks_met / nodes_met if op.nodes > 1 else ranks_met
    least_near = item * within * (local - 1) / local
    if op.low_latency:
        pairs = item * op.experts_per_token
        near, far = pairs * (local - 1) / op.ranks, pairs * (op.nodes - 1) / op.nodes
        least_near = np.minimum(least_near, near)
    else:
        near, far = item * ranks_met * (local - 1) / local, least_far
    near, far = near * op.near_skew, far * op.far_skew
    none = np.zeros_like(near)
    sizes = {
        "tokens": tokens + none, "item": item / np.maximum(tokens, 1e-9), "far": far,
        "units": (op.multiprocessors or (op.experts if op.low_latency else 1)) + none, "ranks": op.ranks + none,
        "experts": op.experts + none,
        "copies": (op.experts_per_token if op.low_latency else ranks_met) + none,
        "least_near": least_near if op.nodes == 1 else none, "least_far": least_far,
    }  # fmt: skip
    return Work(none, near, none, none, none), sizes


def _returned(op: ExpertExchange) -> str:
    """Combines return 16 bits, but for those that are called low precision."""
    return "nvfp4" if op.dtype == "fp4" else "bf16"


def _met(op: ExpertExchange, parts: int) -> float:
    """Parts (ranks or nodes) that hold at least one of a token's experts, expected for distinct random experts."""
    if op.balanced:
        return float(min(op.experts_per_token, parts))
    kept = op.groups_per_token
    if not 0 < kept < op.groups or (op.groups % parts and parts % op.groups):
        return parts * _some(op.experts // parts, op.experts, op.experts_per_token)
    group = op.experts // op.groups
    chosen = kept * group
    if parts > op.groups:  # a part lies inside one group, which the token may choose from or not
        return parts * kept / op.groups * _some(op.experts // parts, chosen, op.experts_per_token)
    held = op.groups // parts
    share = (
        comb(held, some) * comb(op.groups - held, kept - some) / comb(op.groups, kept)
        * _some(some * group, chosen, op.experts_per_token)
        for some in range(1, min(held, kept) + 1)
    )
    return parts * sum(share)


def _some(held: int, experts: int, per_token: int) -> float:
    """Probability that at least one of a token's distinct random experts is among those held."""
    return 1.0 - comb(experts - held, per_token) / comb(experts, per_token)


def exchange_links(profile: HardwareProfile, network: float = 0.0) -> tuple[float, float]:
    """B/s of one direction: between the devices of a node, and of a device's network (0: its profile's)."""
    near = profile.scaleup.bandwidth if profile.scaleup else profile.pcie_bandwidth or profile.node_link_bandwidth
    return near, network or profile.node_link_bandwidth
