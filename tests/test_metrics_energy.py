"""Energy of a plan: devices, the nodes around them, the site; per token, per request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexsim.metrics.energy import Surroundings, carbon, energy

POSITIVE = st.floats(1e-3, 1e9)


@given(POSITIVE, POSITIVE, st.integers(1, 10**9), st.integers(1, 10**6), st.floats(0, 1e5), st.floats(1, 3))
def test_parts_sum_to_the_total_and_the_total_is_power_times_time(
    devices_j: float, duration_s: float, tokens: int, completed: int, overhead_w: float, pue: float
) -> None:
    found = energy(devices_j, tokens, completed, duration_s, Surroundings(overhead_w, pue))
    assert found.devices_j + found.overhead_j + found.site_j == pytest.approx(found.total_j, rel=1e-9)
    assert found.mean_power_w * duration_s == pytest.approx(found.total_j)
    assert found.j_per_output_token * tokens == pytest.approx(found.total_j)
    assert found.j_per_request * completed == pytest.approx(found.total_j)
    assert found.total_j >= found.devices_j * (1 - 1e-12)


def test_without_surroundings_the_total_is_what_the_devices_take() -> None:
    found = energy(1234.5, 10, 2, 5.0)
    assert (found.total_j, found.devices_j, found.overhead_j, found.site_j) == (1234.5, 1234.5, 0.0, 0.0)


def test_a_node_draws_its_overhead_all_the_time_and_the_site_adds_its_share() -> None:
    found = energy(1000.0, 10, 2, 10.0, Surroundings(overhead_w=300.0, pue=1.25))
    assert found.overhead_j == 3000.0
    assert found.total_j == 5000.0
    assert found.site_j == 1000.0
    assert carbon(found.total_j, 360.0).g_co2e == pytest.approx(0.5)


def test_what_did_not_run_has_no_energy_however_much_stands_around_it() -> None:
    for devices_j, duration_s in ((None, 5.0), (0.0, 0.0)):
        found = energy(devices_j, 0, 0, duration_s, Surroundings(500.0, 1.5))
        assert found.total_j is None
        assert found.overhead_j is None
    idle = energy(100.0, 0, 0, 5.0)
    assert (idle.j_per_output_token, idle.j_per_request) == (None, None)
