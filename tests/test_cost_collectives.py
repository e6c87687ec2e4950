"""Collectives: the textbook's formulas, the switch's bound, and which links are measured."""

from __future__ import annotations

import numpy as np
import pytest

from apexsim.cost.collectives import all_gather_s, all_reduce_s, send_s
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
