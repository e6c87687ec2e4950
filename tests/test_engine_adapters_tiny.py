"""LoRA adapters on worlds whose answers fit in the head: an iteration takes 10 s and 1 s a token, a load 3 s.

An adapter that is not in host memory takes 100 s more.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from apexsim.cost.adapters import AdapterLaw
from apexsim.engine.adapters_asked import adapters_asked
from apexsim.engine.result import COMPLETED, REJECTED, SimulationResult
from apexsim.engine.schedulers import Policy
from apexsim.engine.simulate import ReplicaLimits, simulate_pool
from apexsim.errors import InputError, UsageError
from apexsim.workload.trace import Trace
from tests.test_engine_tiny import SEQS, tables

BASE = -1
LAW = AdapterLaw(3, 1, 3, load_s=(3.0,), fetch_s=(100.0,), blocks=(0,))
TWO = replace(LAW, slots=2)


def asks(*adapters: int, arrivals: list[float] | None = None, prompt: int = 1, output: int = 2) -> Trace:
    n = len(adapters)
    return Trace(
        "tiny", np.zeros(n) if arrivals is None else np.array(arrivals), np.full(n, prompt), np.full(n, output),
        adapters=("a", "b", "c"), adapter_code=np.array(adapters),
    )  # fmt: skip


def serve(
    trace: Trace, law: AdapterLaw | None = LAW, *, blocks: int = 100, policy: Policy | None = None, **options: object
) -> SimulationResult:
    limits = ReplicaLimits(kv_blocks=blocks, block_size=1, max_model_len=60, adapters=law)
    return simulate_pool(trace, tables(), limits, policy or Policy("t", 8, SEQS), **options)  # type: ignore[arg-type]


def test_the_first_iteration_waits_for_the_load_and_no_other() -> None:
    """3 + 11 s for the prompt, 11 s for the second token; the adapter is still there for the second request."""
    result = serve(asks(0, 0, arrivals=[0.0, 50.0]))
    assert result.requests.first_token_s.tolist() == [14.0, 61.0]
    assert result.requests.finish_s[0] == 25.0
    counters = result.pools[0]
    assert counters.adapters is not None
    assert (counters.adapters.uses, counters.adapters.loads, counters.adapter_wait_s) == (2, 1, 3.0)


def test_the_base_model_needs_no_adapter() -> None:
    assert serve(asks(BASE)).requests.first_token_s.tolist() == [11.0]


def test_loads_of_one_iteration_come_one_after_another() -> None:
    assert serve(asks(0, 1), TWO).requests.first_token_s.tolist() == [6.0 + 12.0] * 2


def test_whose_adapter_has_no_slot_is_passed_over_and_goes_first_when_one_is_free() -> None:
    """One slot. At 0 s: a, not b, a and the base model; b begins when both with a have left."""
    columns = serve(asks(0, 1, 0, BASE, 1)).requests
    assert columns.start_s.tolist() == [0.0, 29.0, 0.0, 0.0, 29.0]  # 3 + 13 s, then 13 s
    assert columns.first_token_s.tolist() == [16.0, 44.0, 16.0, 16.0, 44.0]  # 3 s, and 12 s for two prompts


def test_who_is_passed_over_keeps_its_place() -> None:
    """Two run at once. b and c wait for the slot of a; b came first, so c waits for b as well."""
    columns = serve(asks(0, 1, 2, 0, 1), policy=Policy("t", 8, 2)).requests
    assert columns.start_s[[0, 3]].tolist() == [0.0, 0.0]
    assert columns.start_s[1] == columns.start_s[4] < columns.start_s[2]


def test_one_that_arrives_overtakes_those_that_are_passed_over() -> None:
    """While a decodes for long and b waits, a second one with a joins at the next boundary."""
    trace = asks(0, 1, 0, arrivals=[0.0, 1.0, 40.0]).with_columns(output_tokens=np.array([9, 1, 1]))
    columns = serve(trace).requests
    assert columns.start_s.tolist() == [0.0, 103.0, 47.0]  # 3 + 9 · 11 s, and 1 s for the prompt of the third


def test_the_least_recently_used_adapter_goes() -> None:
    """Two slots: a, b, a, c: b goes; a is still there, b is not."""
    times = [100.0 * k for k in range(6)]
    columns = serve(asks(0, 1, 0, 2, 0, 1, arrivals=times), TWO).requests
    assert (columns.first_token_s - times).tolist() == [14.0, 14.0, 11.0, 14.0, 11.0, 14.0]


def test_what_host_memory_dropped_comes_from_afar() -> None:
    """Host memory for two of three: a and b are there at first, c takes the place of b, then b that of a."""
    law = replace(LAW, host_slots=2)
    times = [1000.0 * k for k in range(4)]
    result = serve(asks(0, 2, 1, 2, arrivals=times), law)
    assert (result.requests.first_token_s - times).tolist() == [14.0, 114.0, 114.0, 14.0]
    assert result.pools[0].adapters is not None
    assert result.pools[0].adapters.fetches == 2


@pytest.mark.parametrize(("arrival", "first"), [(15.0, 25.0 + 12.0), (23.5, 26.5 + 12.0)])
def test_prefetched_while_it_waits_for_a_boundary(arrival: float, first: float) -> None:
    """a decodes until 36 s; b arrives in its second iteration, 14 to 25 s, and its load begins at once."""
    trace = asks(0, 1, arrivals=[0.0, arrival]).with_columns(output_tokens=np.array([3, 1]))
    assert serve(trace, replace(TWO, prefetch=True)).requests.first_token_s[1] == first
    assert serve(trace, TWO).requests.first_token_s[1] == 25.0 + 3.0 + 12.0


def test_an_adapter_in_the_pool_takes_blocks_while_it_is_used() -> None:
    """10 blocks, 4 for an adapter: a with 2 leaves 4, too few for b with 1; the second with a fits at once."""
    law = replace(LAW, slots=3, blocks=(4,))
    columns = serve(asks(0, 1, prompt=1, output=2), law, blocks=10).requests
    assert columns.start_s.tolist() == [0.0, 0.0]
    columns = serve(asks(0, 1, prompt=1, output=2), law, blocks=9).requests
    assert columns.start_s[1] == columns.finish_s[0]
    assert serve(asks(0, 0, prompt=1, output=2), law, blocks=8).requests.start_s.tolist() == [0.0, 0.0]


def test_who_could_never_have_its_adapter_is_rejected() -> None:
    law = replace(LAW, slots=3, blocks=(4,))
    status = serve(asks(0, BASE, prompt=3, output=2), law, blocks=7).requests.status
    assert status.tolist() == [REJECTED, COMPLETED]


def test_equal_prompts_under_two_adapters_share_nothing() -> None:
    trace = asks(0, 1, 0, arrivals=[0.0, 100.0, 200.0], prompt=4).with_columns(
        hash_ids=np.tile([5, 6], 3), hash_offsets=np.arange(0, 7, 2), hash_block_tokens=2
    )
    policy = Policy("t", 8, SEQS, prefix_caching=True)
    assert serve(trace, policy=policy).requests.cached_tokens.tolist() == [0, 0, 2]
    assert serve(trace, None, policy=policy).requests.cached_tokens.tolist() == [0, 2, 2]


def test_a_router_sends_a_request_where_its_adapter_is() -> None:
    times = [0.0, 0.5, 100.0, 200.0, 300.0]
    trace = asks(0, 1, 1, 0, 1, arrivals=times)
    assert serve(trace, replicas=2, router="lora-aware").requests.replica.tolist() == [0, 1, 1, 0, 1]
    assert serve(trace, replicas=2, router="join-shortest-queue").requests.replica.tolist() == [0, 1, 0, 0, 0]


def test_who_asks_for_what_is_drawn_once_and_for_all() -> None:
    law = AdapterLaw(5, 5, 5, (0.0,), (0.0,), (0,), zipf=1.0)
    trace = Trace("t", np.arange(20_000.0), np.ones(20_000, np.int64), np.ones(20_000, np.int64))
    asked = adapters_asked(trace, law, seed=1)
    share = np.bincount(asked) / len(asked)
    np.testing.assert_allclose(share, np.arange(1, 6) ** -1.0 / sum(1 / k for k in range(1, 6)), atol=0.01)
    assert (adapters_asked(trace.take(np.arange(50)), law, seed=1) == asked[:50]).all()
    assert (adapters_asked(trace, law, seed=2) != asked).any()


def test_what_cannot_be_is_an_error() -> None:
    with pytest.raises(InputError, match=r"names 3 adapters, the plan has lora\.adapters = 2"):
        serve(asks(0), replace(LAW, adapters=2))
    with pytest.raises(UsageError, match="in order of arrival only, not under policy priority"):
        serve(asks(0), policy=Policy("t", 8, SEQS, order="priority"))
