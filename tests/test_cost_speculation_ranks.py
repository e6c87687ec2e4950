"""What drafts cost attention ranks in lockstep: DeepSeek-V3 on eight H200, one draft a step or three."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from apexsim import scenario
from apexsim.cost.step import CompiledPool
from apexsim.scenario import Prepared, Run
from apexsim.spec import catalog
from apexsim.spec.legality import check_pool
from apexsim.spec.plan import Pool
from apexsim.workload.trace import Trace
from tests.scenario_worlds import plan

RANKS = 8
POOL = {
    "tp": 1, "dp": RANKS, "ep": RANKS, "weights": "fp8-block", "max_model_len": 8192,
    "scheduler": {"max_num_seqs": 32, "max_num_batched_tokens": 2048},
}  # fmt: skip


def drafts(k: int, acceptance: float = 0.7, method: str = "mtp") -> dict[str, Any] | None:
    return {"method": method, "num_speculative_tokens": k, "acceptance": acceptance} if k else None


@lru_cache(maxsize=8)
def prepared(k: int, acceptance: float = 0.7, method: str = "mtp") -> Prepared:
    found = scenario.prepare(plan("DeepSeek-V3", "8xh200-sxm", speculative=drafts(k, acceptance, method), **POOL))
    assert isinstance(found, Prepared), found
    return found


def compiled(k: int, method: str = "mtp") -> CompiledPool:
    return prepared(k, method=method).compiled


def run(k: int, acceptance: float = 0.7, n: int = 64) -> Run:
    load = Trace("alike", np.zeros(n), np.full(n, 300), np.full(n, 60))
    return scenario.run(prepared(k, acceptance), load, with_itl=False)


def test_exchange_and_experts_get_every_verified_token_of_every_rank() -> None:
    """ngram drafts for nothing: n sequences with 3 drafts are 4 n tokens of a decode without."""
    on, off = compiled(3, "ngram").tables.group, compiled(0).tables.group
    tokens = 4 * np.arange(1, 9)
    np.testing.assert_allclose(on.exchange_decode_s[1:9], off.exchange_decode_s[tokens], rtol=5e-3)
    np.testing.assert_allclose(on.experts_decode_s[1:9], off.experts_decode_s[tokens], rtol=5e-3)
    assert off.padded_decode == 64  # sequences, of one token
    assert on.padded_decode == 64  # sequences, of four: graphs hold twice the largest batch
    assert len(on.exchange_drafts_s) == 0


def test_a_drafting_layer_shares_experts_like_the_58_others() -> None:
    """Layers 4 to 61 have experts; a pass over all tokens is one layer more, passes 2 and 3 are of single tokens."""
    verify, one, three = (compiled(k, method).tables.group for k, method in ((1, "ngram"), (1, "mtp"), (3, "mtp")))
    np.testing.assert_allclose(one.experts_decode_s[1:], verify.experts_decode_s[1:] * 59 / 58, rtol=1e-9)
    np.testing.assert_allclose(one.exchange_decode_s[1:], verify.exchange_decode_s[1:] * 59 / 58, rtol=1e-9)
    assert len(one.experts_drafts_s) == 0
    plain = compiled(0).tables.group
    np.testing.assert_allclose(three.experts_drafts_s[1:], plain.experts_decode_s[1:33] * 2 / 58, rtol=1e-9)
    np.testing.assert_allclose(three.exchange_drafts_s[1:], plain.exchange_decode_s[1:33] * 2 / 58, rtol=1e-9)


def test_memory_holds_the_experts_of_the_layer_once_for_all_ranks() -> None:
    """11.5e9 parameters, of which 11.3e9 are experts' and dealt to eight devices."""
    more = compiled(1).memory.weights_bytes_per_device - compiled(0).memory.weights_bytes_per_device
    assert 11.3e9 / RANKS < more < 11.3e9 / RANKS + 0.6e9


@pytest.mark.parametrize("k", [1, 3])
def test_time_energy_and_work_are_accounted(k: int) -> None:
    summary, off = run(k).summary, run(0).summary
    assert sum(summary.breakdown_s.values()) == pytest.approx(summary.duration_s)
    assert summary.breakdown_s["host"] >= 0
    assert summary.speculation is not None
    assert 0 < summary.speculation.acceptance_rate <= 1
    wrong = run(k, 0.0).summary
    assert wrong.energy.total_j > off.energy.total_j
    assert wrong.utilization.mfu < off.utilization.mfu
    assert wrong.duration_s > off.duration_s > summary.duration_s


def test_device_time_of_the_tables_is_that_of_the_ledgers() -> None:
    """Busy time less what is waited and the host's serial part is what the breakdown says of the device."""
    done = run(3)
    counters, tables = done.result.pools[0], prepared(3).compiled.tables
    device = sum(done.summary.breakdown_s[part] for part in ("gemm", "attention", "moe", "communication"))
    serial = float(tables.host_serial_s[: len(counters.scheduled)] @ counters.scheduled[: len(tables.host_serial_s)])
    host = done.summary.breakdown_s["host"]
    assert device + host == pytest.approx(counters.busy_s - counters.waited_s)
    assert host >= serial / RANKS * (1 - 1e-9)


def test_every_drafter_may_stand_beside_ranks() -> None:
    model = catalog.model("DeepSeek-V3")
    for method in ("mtp", "eagle", "ngram"):
        pool = Pool.model_validate({**POOL, "speculative": drafts(2, method=method)})
        assert check_pool(model, pool) is None
    group = compiled(2, "eagle").tables.group
    np.testing.assert_array_equal(group.experts_decode_s, compiled(2, "ngram").tables.group.experts_decode_s)


def test_no_drafts_are_ranks_without_them() -> None:
    off = {"method": "mtp", "num_speculative_tokens": 0}
    none = scenario.prepare(plan("DeepSeek-V3", "8xh200-sxm", speculative=off, **POOL))
    assert isinstance(none, Prepared)
    load = Trace("alike", np.zeros(40), np.full(40, 300), np.full(40, 20))
    results = [scenario.run(each, load).result for each in (none, prepared(0))]
    assert results[0].same_bytes(results[1])
