"""Collectives: the textbook's formulas, the switch's bound, and which links are measured."""

from __future__ import annotations

import numpy as np
import pytest

from apexsim.cost.collectives import all_gather_s, all_reduce_s, collective_floor_s, send_s
from apexsim.cost.kernels import AnalyticKernels, CalibratedKernels
from apexsim.spec import catalog
from apexsim.spec.cluster import Cluster, Link

RING = Link("pcie", 25e9, 3e-6, False)
SWITCH = Link("scaleup", 450e9, 1e-6, True)


@pytest.mark.parametrize("ranks", [2, 4, 8, 16])
def test_ring_all_reduce_of_the_textbook(ranks: int) -> None:
    """2 (r - 1) steps, each of one hop and an r-th of the message (Thakur et al. 2005)."""
    message = 64e6
    step = 3e-6 + message / ranks / 25e9
    assert all_reduce_s(message, ranks, RING, efficiency=1.0, launch_s=0.0) == pytest.approx(2 * (ranks - 1) * step)


def test_a_ring_sends_almost_twice_the_message_however_many_ranks() -> None:
    seconds = [float(all_reduce_s(1e9, ranks, RING, efficiency=1.0, launch_s=0.0)) for ranks in (2, 8, 64)]
    assert seconds[0] == pytest.approx(1e9 / 25e9, rel=1e-3)
    assert seconds[2] == pytest.approx(2e9 / 25e9, rel=0.03)


def test_a_switch_takes_one_shot_for_small_messages_and_two_for_large() -> None:
    small = all_reduce_s(8, 8, SWITCH, efficiency=1.0, launch_s=0.0)
    large = all_reduce_s(1e9, 8, SWITCH, efficiency=1.0, launch_s=0.0)
    assert small == pytest.approx(1e-6, rel=1e-3)  # one hop
    assert large == pytest.approx(2e-6 + 2 * 7 / 8 * 1e9 / 450e9)


def test_all_gather_and_send() -> None:
    gathered = all_gather_s(8e6, 4, RING, efficiency=0.5, launch_s=2e-6)
    assert gathered == pytest.approx(2e-6 + 3 * 3e-6 + 6e6 / 12.5e9)
    assert send_s(1e6, RING, efficiency=0.8) == pytest.approx(3e-6 + 1e6 / 20e9)


def test_only_the_links_and_ranks_that_were_measured_are_calibrated() -> None:
    kernels = CalibratedKernels(catalog.device("h100-sxm"))
    nvlink = Cluster.model_validate("8xh100-sxm").link(kernels.profile, 8)
    network = Cluster.model_validate("4x8xh100-sxm").link(kernels.profile, 16)
    assert kernels.collective("all_reduce", 1e6, 8, nvlink).calibrated
    assert not kernels.collective("all_reduce", 1e6, 3, nvlink).calibrated
    assert not kernels.collective("all_reduce", 1e6, 16, network).calibrated
    assert kernels.collective("all_reduce", 1e12, 8, nvlink).extrapolated.all()


def test_the_network_is_slower_than_the_switch() -> None:
    kernels = CalibratedKernels(catalog.device("h100-sxm"))
    near = Cluster.model_validate("8xh100-sxm").link(kernels.profile, 8)
    far = Cluster.model_validate("4x8xh100-sxm").link(kernels.profile, 16)
    message = np.geomspace(1e3, 1e9, 20)
    fast, slow = (kernels.collective("all_reduce", message, ranks, link).seconds for ranks, link in
                  ((8, near), (16, far)))  # fmt: skip
    assert (slow > fast).all()


def test_measured_all_reduces_of_an_h100_lie_where_the_analytic_ones_expect_them() -> None:
    """A factor of two from 16 kB to 256 MB: the two levels must not tell different stories."""
    profile = catalog.device("h100-sxm")
    message = np.geomspace(16e3, 256e6, 30)
    for ranks in (2, 4, 8):
        link = Cluster.model_validate("8xh100-sxm").link(profile, ranks)
        measured = CalibratedKernels(profile).collective("all_reduce", message, ranks, link).seconds
        assumed = AnalyticKernels(profile).collective("all_reduce", message, ranks, link).seconds
        ratio = assumed / measured
        assert ratio.min() > 0.5, (ranks, ratio)
        assert ratio.max() < 2.0, (ranks, ratio)


def test_between_nodes_each_device_sends_its_share_over_its_own_nic() -> None:
    """Sixteen ranks on two nodes: 2 · 7/8 of 134 MB at 450 GB/s inside, beside an eighth of it at 50 GB/s between."""
    link = Cluster.model_validate("2x8xh100-sxm").link(catalog.device("h100-sxm"), 16)
    inside, between = 2 * 7 / 8 * 134e6 / 450e9, 134e6 / 8 / 50e9
    assert inside > between
    start = 3 * 2e-6 + 2 * (7 * 1e-6 + 5e-6)  # three phases; seven hops inside and one between, twice
    assert all_reduce_s(134e6, 16, link, efficiency=1.0, launch_s=2e-6) == pytest.approx(start + inside)
    gathered = 2 * 2e-6 + 7 * 1e-6 + 5e-6 + inside / 2
    assert all_gather_s(134e6, 16, link, efficiency=1.0, launch_s=2e-6) == pytest.approx(gathered)


def test_no_engine_reads_the_memory_of_another_node() -> None:
    """One hop of InfiniBand is 5 us; a small all-reduce needs the scatter, two of them and the gather."""
    kernels = CalibratedKernels(catalog.device("h100-sxm"))
    link = Cluster.model_validate("2x8xh100-sxm").link(kernels.profile, 16)
    small, large = kernels.collective("all_reduce", [16384, 134e6], 16, link).seconds
    assert 25e-6 < small < 50e-6
    assert 0.6e-3 < large < 1.0e-3


def test_a_node_that_holds_few_ranks_has_few_nics() -> None:
    cluster, profile = Cluster.model_validate("2x8xh100-sxm"), catalog.device("h100-sxm")
    even, uneven = (cluster.link(profile, ranks) for ranks in (16, 9))
    half, one = (all_reduce_s(1e9, ranks, link, efficiency=1.0, launch_s=0.0) for ranks, link in
                 ((16, even), (9, uneven)))  # fmt: skip
    assert one == pytest.approx(1e9 / 50e9, rel=0.01)
    assert one > 4 * half


def test_nodes_of_one_device_form_a_plain_ring() -> None:
    link = Cluster.model_validate("4x1xh100-sxm").link(catalog.device("h100-sxm"), 4)
    assert link.near is None
    ring = 2 * 3 * (5e-6 + 1e9 / 4 / 50e9)
    assert all_reduce_s(1e9, 4, link, efficiency=1.0, launch_s=0.0) == pytest.approx(ring)


@pytest.mark.parametrize("device", catalog.device_names())
@pytest.mark.parametrize("ranks", [9, 12, 16, 32])
def test_no_collective_between_nodes_is_below_the_floor_or_better_with_more(device: str, ranks: int) -> None:
    kernels = AnalyticKernels(catalog.device(device))
    link = Cluster.model_validate(f"4x8x{device}").link(kernels.profile, ranks)
    message = np.geomspace(1e2, 1e9, 30)
    for kind in ("all_reduce", "all_gather"):
        seconds = kernels.collective(kind, message, ranks, link).seconds
        assert (seconds >= collective_floor_s(kind, message, ranks, link)).all()
        assert (np.diff(seconds) > 0).all()
