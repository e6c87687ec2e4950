"""How the hidden states of data-parallel ranks reach the ranks of their experts, and come back.

With dp > 1 each of the dp ranks (tp devices each) runs attention on tokens of its own, and the tp · dp devices together
hold the experts: an exchange goes before the experts and another one after them. Which one is data:

    all-gather           every device gets the tokens of all ranks, with their router logits; the sums are scattered.
                         Default of vLLM (``--all2all-backend allgather_reducescatter``), SGLang (``--moe-a2a-backend
                         none``) and TensorRT-LLM
    deepep               DeepEP: normal kernels where an iteration holds prefill, low-latency ones where it only decodes
                         (SGLang: ``--deepep-mode auto``)
    deepep-normal        one of the two in every iteration (vLLM: ``deepep_high_throughput``, ``deepep_low_latency``)
    deepep-low-latency
    nvlink               TensorRT-LLM's over the NVLinks of a rack, and its default there
    unified-bus          CANN's fused kernels over the unified bus of a CloudMatrix384: they write into the memory of
                         the peers, in INT8 (arXiv 2506.12708; vLLM's and SGLang's Ascend back ends)
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import NamedTuple

from apexsim.cost.crowding import group_link
from apexsim.cost.fullest import Skew, dealt_of, skew
from apexsim.cost.operators import ExpertExchange, GroupedGemm, Phase
from apexsim.spec.cluster import Cluster, island_size
from apexsim.spec.dtypes import WeightDtype
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.model import MoeMlp
from apexsim.spec.plan import Pool

MULTIPROCESSORS = 20
"""That DeepEP's normal kernels take unless they are told (``Buffer.num_sms``)."""

LOGIT_BYTES = 2
"""Of a router logit, which an all-gather sends with the hidden state."""


class Transport(NamedTuple):
    """One library's kernels."""

    name: str  # a word of the measured tables
    quantised: tuple[WeightDtype, ...]  # weights of the experts for which values are quantised before they leave
    multiprocessors: int = 0
    prepared: bool = False  # a phase of its own tells who gets how many
    wire: str = "fp8"  # what they are quantised to


_NORMAL = Transport("deepep_normal", ("fp8", "fp8-block"), MULTIPROCESSORS)
_LOW_LATENCY = Transport("deepep_low_latency", ("fp8", "fp8-block"))
_NVLINK = Transport("NVLinkTwoSided", ("fp8", "fp8-block", "nvfp4"), prepared=True)
_UNIFIED_BUS = Transport("unified_bus_low_latency", ("int8", "fp8", "fp8-block"), wire="int8")

WAYS: dict[str, tuple[Transport, Transport] | None] = {
    "all-gather": None,
    "deepep": (_NORMAL, _LOW_LATENCY),
    "deepep-normal": (_NORMAL, _NORMAL),
    "deepep-low-latency": (_LOW_LATENCY, _LOW_LATENCY),
    "nvlink": (_NVLINK, _NVLINK),
    "unified-bus": (_UNIFIED_BUS, _UNIFIED_BUS),
}
"""Transports of iterations that hold prefill, and of those that only decode; None: collectives of the whole group."""


class Way(NamedTuple):
    """The exchange of a pool, and where its devices are."""

    name: str = "none"  # of WAYS; none: every device has all tokens
    nodes: int = 1  # that the group spans
    network: float = 0.0  # B/s of a device's NIC; 0 = its profile's
    overlap_shared: bool = False  # shared experts run beside the exchange
    halves: bool = False  # the exchange of one half of a batch runs beside the other half's compute
    crowded: tuple[float, float] = (1.0, 1.0)  # of NICs of one place in their nodes, and of all: what switches add


def way_of(pool: Pool, engine: str, profile: HardwareProfile, cluster: Cluster) -> Way:
    """What a pool's exchange is once ``auto`` is resolved."""
    nodes = ceil(pool.tp * pool.dp / max(cluster.devices_per_node, island_size(cluster, profile)))
    if pool.dp == 1:
        return Way("none", nodes)
    name = pool.experts.exchange
    if name == "auto":
        rack = profile.scaleup is not None and profile.scaleup.rack_scale
        name = "nvlink" if engine == "tensorrt-llm" and rack and pool.experts_tp == 1 else "all-gather"
    halves = pool.experts.overlap == "two-batch"
    found = group_link(cluster, profile, pool.tp * pool.dp)
    network, crowded = cluster.node_link or 0.0, (1.0, 1.0)
    if found.crowding is not None:
        network, crowded = found.bandwidth, (found.crowding.aligned, found.crowding.direct)
    return Way(name, nodes, network, pool.experts.overlap_shared, halves, crowded)


def carriers(
    way: Way, phase: Phase, mlp: MoeMlp, devices: int, experts: GroupedGemm
) -> tuple[ExpertExchange, ExpertExchange] | None:
    """What carries tokens in iterations that hold prefill, and in those that only decode; None for collectives.

    A low-latency kernel sends pairs, so that the device with the most pairs is waited for; the others send a token once
    to each device, and over the network once to each node, to the device of the sender's place in it.
    """
    transports = WAYS[way.name]
    if transports is None:
        return None
    found = skew(dealt_of(experts), way.nodes)
    prefill, decode = (
        _carrier(transport, way, phase, mlp, devices, experts, found) for transport in transports
    )
    return prefill, decode


def _carrier(
    transport: Transport, way: Way, phase: Phase, mlp: MoeMlp, devices: int, experts: GroupedGemm, found: Skew
) -> ExpertExchange:
    exchange = ExpertExchange(
        "exchange", experts.hidden_size, mlp.experts, mlp.experts_per_token, devices, way.nodes, transport.name,
        _wire(transport, phase, experts.weights), transport.multiprocessors,
        groups=mlp.groups, groups_per_token=mlp.groups_per_token,
    )  # fmt: skip
    exchange = replace(exchange, network=way.network / way.crowded[exchange.low_latency])
    near, far = (found.pairs, found.pairs) if exchange.low_latency else (found.visits, found.node_visits)
    return replace(exchange, near_skew=near, far_skew=far)


def _wire(transport: Transport, phase: Phase, weights: str) -> str:
    """The dtype that a phase was measured at. DeepEP returns 16 bits; TensorRT-LLM's files name what was dispatched."""
    if weights not in transport.quantised or (phase == "combine" and not transport.prepared):
        return "bf16"
    return "nvfp4" if weights == "nvfp4" else transport.wire


def prepared(way: Way) -> bool:
    """Whether the transports of a way tell the ranks first how much they will get."""
    return any(transport.prepared for transport in WAYS[way.name] or ())
