"""The clock knob: what slows down, what it saves, and where it is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apexsim.cost.clock import AT_BOOST, Clock, clock_of
from apexsim.cost.step import CompiledPool
from apexsim.errors import InputError
from apexsim.scenario import prepare
from apexsim.spec import catalog
from apexsim.spec.cluster import Cluster
from apexsim.spec.plan import Plan, Pool
from tests.cost_worlds import compiled

BOOST = 1980.0
CLOCKS = (1980.0, 1700.0, 1400.0, 1100.0, 800.0, 500.0, 345.0)


def decode(pool: CompiledPool, sequences: int, context: float = 1000.0) -> tuple[float, float]:
    """(seconds, joules above idle) of a decode iteration of a model with full attention."""
    t, a = pool.tables, pool.accounting
    attention_s = float(np.interp(context, t.context_knots, t.decode_attention_s[0, 0, sequences]))
    full, kv = a.attention[0], sequences * context
    attention_j = float(a.power.running_j(
        a.attention_power[1], "bf16", attention_s, full.decode_pair_flops * kv, full.token_bytes * kv
    ))
    seconds = float(t.decode_s[0, sequences] + t.head_s[sequences]) + attention_s
    return seconds, float(a.decode[5, sequences] + a.head[5, sequences]) + attention_j


def prefill(pool: CompiledPool) -> tuple[float, float]:
    """(seconds, joules above idle) of the linear layers of the largest iteration."""
    ledger = pool.accounting.mixed[:, -1]
    return float(ledger[:4].sum()), float(ledger[5])


@pytest.mark.parametrize(("model", "device", "boost", "low"), [
    ("Llama-3.1-8B", "h100-sxm", 1980.0, 345.0), ("Llama-3.1-8B", "a100-sxm-80gb", 1410.0, 210.0),
    ("Llama-3.1-8B", "b200-sxm", 1965.0, 300.0), ("Llama-3.1-8B", "mi300x", 2100.0, 300.0),
])  # fmt: skip
def test_lower_clocks_take_more_time_and_less_power(model: str, device: str, boost: float, low: float) -> None:
    pools = [compiled(model, device, clock_mhz=mhz) for mhz in np.linspace(boost, low, 8).tolist()]
    for measured in (prefill, lambda pool: decode(pool, 1), lambda pool: decode(pool, 64)):
        seconds, joules = np.array([measured(pool) for pool in pools]).T
        assert (np.diff(seconds) >= -1e-12 * seconds[:-1]).all()
        assert (np.diff(joules / seconds) <= 1e-9).all()


def test_compute_follows_the_clock_and_memory_does_not() -> None:
    fast, slow = compiled("Llama-3.1-8B"), compiled("Llama-3.1-8B", clock_mhz=BOOST / 2)
    assert prefill(slow)[0] / prefill(fast)[0] == pytest.approx(2.0, rel=0.06)
    assert 1.0 < decode(slow, 1)[0] / decode(fast, 1)[0] < 1.4  # launches and latencies slow down, reads do not


def test_decoding_has_a_best_clock_between_the_lowest_and_the_highest() -> None:
    """Energy of an iteration, idle power included, of a memory-bound decode."""
    def joules(mhz: float) -> float:
        seconds, above = decode(compiled("Llama-3.1-8B", clock_mhz=mhz), 8)
        return above + 110.0 * seconds

    found = [joules(mhz) for mhz in CLOCKS]
    best = int(np.argmin(found))
    assert 0 < best < len(CLOCKS) - 1
    assert 0.45 < found[best] / found[0] < 0.8  # published: a third to a half is saved by locking the clock


def test_the_boost_clock_and_no_clock_are_the_same_bytes() -> None:
    plain, boost = compiled("Llama-3.1-8B"), compiled("Llama-3.1-8B", clock_mhz=BOOST)
    for ours, theirs in (
        (plain.tables.decode_s, boost.tables.decode_s), (plain.tables.mixed_s, boost.tables.mixed_s),
        (plain.tables.prefill_s, boost.tables.prefill_s), (plain.accounting.decode, boost.accounting.decode),
        (plain.accounting.mixed, boost.accounting.mixed),
    ):
        assert ours.tobytes() == theirs.tobytes()


@given(st.floats(0.05, 1.0), st.floats(0.05, 1.0), st.floats(0, 1000), st.floats(0, 8e12))
@settings(max_examples=100)
def test_watts_never_rise_as_the_clock_falls(a: float, b: float, watts: float, rate: float) -> None:
    low, high = Clock(min(a, b)), Clock(max(a, b))
    assert float(low.watts(watts, rate)) <= float(high.watts(watts, rate)) * (1 + 1e-12) + 1e-12
    assert float(high.watts(watts, rate)) <= float(AT_BOOST.watts(watts, rate)) * (1 + 1e-12)
    assert 0.7 <= low.voltage <= high.voltage <= 1.0


def plan(**pool: object) -> Plan:
    return Plan(model="Llama-3.1-8B", cluster=Cluster.model_validate("1xh100-sxm"), pools=(Pool(**pool),))


@pytest.mark.parametrize("mhz", [344.0, 1981.0, 5000.0])
def test_a_clock_that_the_device_does_not_have_is_one_line(mhz: float) -> None:
    with pytest.raises(InputError) as error:
        prepare(plan(clock_mhz=mhz), source="plan.yaml")
    assert str(error.value) == f"plan.yaml: pools[0].clock_mhz = {mhz:g}: h100-sxm runs at 345 to 1980 MHz"


def test_a_device_whose_clocks_nobody_knows_takes_none() -> None:
    unknown = catalog.device("h100-sxm").model_copy(update={"boost_clock_mhz": None, "min_clock_mhz": None})
    with pytest.raises(InputError, match="the clocks of h100-sxm are not known"):
        prepare(plan(clock_mhz=1000.0), profile=unknown)
    assert clock_of(unknown, None) is AT_BOOST


def test_a_clock_stands_in_the_id_of_the_plan() -> None:
    assert plan(clock_mhz=1200.0).id.endswith("-clk1200")
    assert "clk" not in plan().id
