"""The law of dispatch and combine against DeepEP's published tables (deepseek-ai/DeepEP, docs/legacy.md: H800, one
400 Gbit/s NIC a device), and against kernels that were measured on H100."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from apexsim.cost.experts import exchange_work
from apexsim.cost.kernels import CalibratedKernels
from apexsim.cost.operators import ExpertExchange, Phase
from apexsim.spec import catalog

H800, H100 = (CalibratedKernels(catalog.device(name)) for name in ("h800-sxm", "h100-sxm"))
RANKS = (8, 16, 32, 64, 128, 256)
LOW_LATENCY_US: dict[Phase, tuple[int, ...]] = {
    "dispatch": (77, 118, 155, 173, 192, 194), "combine": (114, 195, 273, 314, 369, 360),
}  # fmt: skip
"""128 tokens a rank, hidden 7168, 8 of 256 experts."""
NORMAL_GB_S: dict[Phase, tuple[int, ...]] = {"dispatch": (153, 43, 58, 51), "combine": (158, 43, 57, 50)}
"""4096 tokens a rank; bytes to every rank (one node) or node (more) that a token goes to, its own included."""


def exchange(phase: Phase, ranks: int, transport: str = "deepep_low_latency") -> ExpertExchange:
    """Tokens of the normal kernels' table choose from at most four nodes."""
    dtype, nodes = "fp8" if phase == "dispatch" else "bf16", max(ranks // 8, 1)
    sms = 0 if transport == "deepep_low_latency" else 24
    return ExpertExchange(
        "exchange", 7168, 256, 8, ranks, nodes, transport, dtype, sms, groups=nodes, groups_per_token=min(nodes, 4)
    )


@pytest.mark.parametrize("phase", ["dispatch", "combine"])
def test_low_latency_kernels_take_what_their_authors_measured(phase: Phase) -> None:
    for ranks, published in zip(RANKS, LOW_LATENCY_US[phase], strict=True):
        found = H800.exchange(phase, 128.0, exchange(phase, ranks))
        assert not found.calibrated
        assert float(found.seconds) * 1e6 == pytest.approx(published, rel=0.10), ranks


@pytest.mark.parametrize("phase", ["dispatch", "combine"])
def test_kernels_measured_on_another_device_agree_over_the_same_network(phase: Phase) -> None:
    """An independent source: laws fitted on H100, whose network is the same, at 2, 4 and 8 nodes."""
    for ranks, published in list(zip(RANKS, LOW_LATENCY_US[phase], strict=True))[1:4]:
        found = H100.exchange(phase, 128.0, exchange(phase, ranks))
        assert found.calibrated
        assert float(found.seconds) * 1e6 == pytest.approx(published, rel=0.15), ranks


@pytest.mark.parametrize("phase", ["dispatch", "combine"])
def test_normal_kernels_reach_the_published_bandwidth(phase: Phase) -> None:
    for ranks, published in zip(RANKS, NORMAL_GB_S[phase], strict=False):
        op = exchange(phase, ranks, "deepep_normal")
        seconds = float(H800.exchange(phase, 4096.0, op).seconds)
        item = 4096 * 7168 * (1 + 4 / 128 if phase == "dispatch" else 2)
        met = 8 * _some(32) if ranks == 8 else min(op.nodes, 4) * _some(256 // min(op.nodes, 4))
        assert item * met / seconds / 1e9 == pytest.approx(published, rel=0.15), ranks


def _some(held: int) -> float:
    return 1 - comb(256 - held, 8) / comb(256, 8)


def test_a_router_that_keeps_some_groups_sends_to_fewer_nodes() -> None:
    """By draws: four of eight groups of 32 experts, eight experts of these, on four nodes and on sixteen ranks."""
    random = np.random.default_rng(2)
    nodes, ranks = [], []
    for _ in range(4000):
        groups = random.permutation(8)[:4]
        chosen = random.permutation((groups[:, None] * 32 + np.arange(32)).ravel())[:8]
        nodes.append(len(set(chosen // 64)))
        ranks.append(len(set(chosen // 16)))
    op = ExpertExchange("exchange", 1000, 256, 8, 16, 4, "deepep_normal", "bf16", groups=8, groups_per_token=4)
    work, sizes = exchange_work("dispatch", np.array([1.0]), op)
    assert float(sizes["far"][0]) / 2000 == pytest.approx(np.mean(nodes) * 3 / 4, rel=0.02)
    assert float(work.moved[0]) / 2000 == pytest.approx(np.mean(ranks) * 3 / 4, rel=0.02)


def test_the_device_that_gets_most_is_waited_for() -> None:
    even = exchange("dispatch", 32)
    skewed = ExpertExchange(**{name: getattr(even, name) for name in even.__slots__} | {"far_skew": 2.0})
    least, most = (float(H800.exchange("dispatch", 128.0, op).seconds) for op in (even, skewed))
    assert 1.6 < most / least < 2.0
