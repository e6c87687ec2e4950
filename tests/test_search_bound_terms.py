"""The terms of the bounds by hand: ranks and drafts, in time and in energy. What is too loose is wrong here, too."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from apexsim.cost.ledger import JOULES, LINES
from apexsim.cost.tables import StepTables, token_knots
from apexsim.engine.schedulers import Policy
from apexsim.engine.simulate import ReplicaLimits
from apexsim.search import part
from apexsim.search.bounds import Counted, attainment_bound, due_to_meet, goodput_bound
from apexsim.search.copies import GoodputBound, GoodputLoads
from apexsim.search.part import Least, Part, part_of
from apexsim.search.problem import Problem, make_problem
from apexsim.search.reach import Reach, reach_of
from apexsim.search.work import Lengths, Work, least_work
from apexsim.spec import catalog
from apexsim.spec.plan import Pool, Scheduler
from apexsim.spec.slo import parse_slo
from apexsim.workload.synthetic import poisson
from apexsim.workload.trace import Trace

TOKEN_S, ITERATION_S, HOST_S = 1e-4, 2e-3, 3e-5
DRAFTED = [
    # acceptance, seconds of a decoding sequence by itself -> decode iterations of 8 tokens, seconds of each
    ((), 5e-4, 7, TOKEN_S),  # beside prompts a token is cheaper
    ((), 5e-5, 7, 5e-5),
    ((0.9, 0.9), 5e-4, 3, 3 * TOKEN_S),  # three tokens are computed,
    ((0.9, 0.9), 2e-4, 3, 2e-4),
    ((0.9, 0.0), 5e-4, 4, 3 * TOKEN_S),  # also where only two can be accepted
    ((1.0,), 5e-4, 4, 2 * TOKEN_S),
]
ONE = Lengths(np.array([100]), np.array([8]), np.array([0]))


def linear_work(acceptance: tuple[float, ...], sequence_s: float) -> Work:
    """Everything costs by the token or the sequence, an iteration at least ``ITERATION_S`` by its host."""
    knots, seqs = token_knots(512, 64, 16).astype(float), np.arange(65.0)
    nothing = np.zeros((1, 2, len(knots)))
    tables = StepTables(
        token_dense=64, token_stride=16, mixed_s=TOKEN_S * knots[None], decode_s=sequence_s * seqs[None],
        context_knots=np.array([0.0, 1e4]), decode_attention_s=np.zeros((1, 2, 65, 2)), prefill_s=nothing,
        prefill_past_s=nothing, head_s=0.0 * seqs, host_floor_s=np.where(seqs > 0, ITERATION_S, 0.0),
        host_serial_s=HOST_S * seqs, transfer_s=np.zeros((0, len(knots))), window=0,
    )  # fmt: skip
    limits = ReplicaLimits(1000, 16, 4096, entry_s=0.5, exit_s=0.25)
    return least_work(tables, limits, Policy("drawn", 512, 64, acceptance=acceptance), ONE)


@pytest.mark.parametrize(("acceptance", "sequence_s", "steps", "step_s"), DRAFTED)
def test_drafts_cost_what_is_computed_and_save_what_may_be_accepted(acceptance, sequence_s, steps, step_s):
    work = linear_work(acceptance, sequence_s)
    device, host, kv = (work.servers.index(name) for name in ("device", "host", "KV memory"))
    prefill_s = 100 * TOKEN_S + HOST_S
    assert work.prefill_s[device] == pytest.approx(prefill_s)
    assert work.total_s[device] == pytest.approx(prefill_s + steps * (step_s + HOST_S))
    batch_s = ITERATION_S / 64 + HOST_S  # of a sequence in a full batch
    assert work.total_s[host] == pytest.approx((1 + steps) * batch_s)
    iteration_s = ITERATION_S + HOST_S
    resident = sum(100 + j for j in range(1, steps + 1))
    assert work.total_s[kv] == pytest.approx(resident * iteration_s / 16_000)
    assert work.alone_s == pytest.approx(0.5 + prefill_s + steps * iteration_s + 0.25)


@pytest.mark.parametrize(("acceptance", "sequence_s", "steps", "step_s"), DRAFTED)
def test_so_do_joules(monkeypatch, acceptance, sequence_s, steps, step_s):
    """The same figures in joules, on two devices; a prompt costs by its tokens."""
    knots, seqs = token_knots(512, 64, 16).astype(float), np.arange(65.0)
    mixed, decode = np.zeros((LINES, len(knots))), np.zeros((LINES, 65))
    mixed[JOULES], decode[JOULES] = TOKEN_S * knots, sequence_s * seqs
    tables = SimpleNamespace(token_dense=64, token_stride=16)
    accounting = SimpleNamespace(mixed=mixed, decode=decode, ranks=2)
    policy = Policy("drawn", 512, 64, acceptance=acceptance)
    prepared: Any = SimpleNamespace(compiled=SimpleNamespace(tables=tables, accounting=accounting), policy=policy)
    least = part._least(prepared, Pool(tp=2), None)
    yielded = 1 + sum(likely > 0 for likely in acceptance)
    assert least == Least(pytest.approx(2 * TOKEN_S), pytest.approx(2 * step_s), yielded)
    # ten such requests: every token but the first of each comes of a step that yields all it may
    joules = 2 * (1000 * TOKEN_S + 70 / yielded * step_s)
    assert least.work_j(1000, 80, np.array([10])) == pytest.approx(joules)


def test_phases_and_caches_cost_less():
    knots = token_knots(512, 64, 16).astype(float)
    mixed, decode = np.zeros((LINES, len(knots))), np.zeros((LINES, 65))
    mixed[JOULES], decode[JOULES] = knots, 5 * np.arange(65.0)
    compiled = SimpleNamespace(
        tables=SimpleNamespace(token_dense=64, token_stride=16),
        accounting=SimpleNamespace(mixed=mixed, decode=decode, ranks=2),
    )
    prepared: Any = SimpleNamespace(compiled=compiled, policy=Policy("drawn", 512, 64))
    cached = Pool(tp=2, scheduler=Scheduler(prefix_caching=True))
    for pool, prompt_j, step_j in (
        (Pool(tp=2), 2, 2), (Pool(tp=2, role="prefill"), 2, 0), (Pool(tp=2, role="decode"), 0, 2), (cached, 0, 2),
        (Pool(tp=2, cp=2), 1, 2),
    ):  # fmt: skip
        found = part._least(prepared, pool, None)
        assert (found.prompt_j, found.step_j) == (prompt_j, step_j)


# --- ranks ----------------------------------------------------------------------------------------------------------


@cache
def question() -> tuple[Problem, GoodputLoads]:
    trace = poisson(8.0, 10_000, 900, 60, seed=2)
    problem = make_problem("Mixtral-8x7B", catalog.cluster("8xh100-sxm"), trace, catalog.slo("ttft=1s,tpot=50ms@0.9"))
    return problem, GoodputLoads(problem.trace)


@pytest.mark.parametrize("dp", [2, 4])
def test_every_rank_of_every_replica_is_a_server(dp):
    """No fewer, or the bound is none; no more, or it is loose."""
    problem, loads = question()
    shape = Pool(dp=dp, ep=dp, weights="fp8", scheduler=Scheduler(max_num_batched_tokens=2048, max_num_seqs=64))
    reach, own = reach_of(problem, loads, (shape,), [(1,), (2,)]), part_of(problem, loads, shape)
    assert isinstance(reach, Reach)
    assert isinstance(own, Part)
    dues = due_to_meet(own.work, loads.lengths, problem.slo)
    bound = GoodputBound(loads, dues, own.work.servers)
    crowded = replace(problem, trace=problem.trace.with_columns(arrival_s=problem.trace.arrival_s / 1000))
    tight = reach_of(crowded, GoodputLoads(crowded.trace), (shape,), [(1,), (2,)])
    assert isinstance(tight, Reach)
    load = Counted(loads.one_copy, crowded.trace.span_s, crowded.rate_rps)
    for replicas in (1, 2):
        assert (reach.best[(replicas,)].goodput_rps, reach.best[(replicas,)].binds) == bound.of(replicas * dp)
        assert tight.best[(replicas,)].attainment == attainment_bound(dues, load, replicas * dp) < 1
    assert reach.best[(2,)].goodput_rps >= 2 * reach.best[(1,)].goodput_rps


# --- copies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [(10, 10, 10, 10, 1000), (10, 400), (7, 300, 20), (5, 5, 5, 5, 5, 5, 900, 800)])
@pytest.mark.parametrize("target", [0.7, 0.9, 0.99])
def test_of_many_copies_of_a_few_requests_some_keep_the_long_one_and_others_not(tokens, target):
    """The bound is that of the copies that allow most, whichever they are: none is ruled out by a rounded share."""
    n = len(tokens)
    trace = Trace("few", np.arange(n, dtype=float), np.array(tokens), np.full(n, 1))
    loads = GoodputLoads(trace)
    busy_s = loads.lengths.input_tokens * 1e-3
    work = Work(("device",), busy_s[None], busy_s[None], busy_s, np.ones(len(busy_s), np.bool_))
    dues = due_to_meet(work, loads.lengths, parse_slo(f"ttft=1s@{target}"))
    for replicas in (1, 3):
        found = GoodputBound(loads, dues, work.servers).of(replicas)[0]
        for copies in range(loads.fewest, 4 * loads.fewest, 7):
            load = loads.of(copies)
            highest = goodput_bound([due.busiest(load.number) for due in dues], load, replicas)[0]
            if highest > loads.most_rps(copies - 1):
                assert found >= min(highest, loads.most_rps(copies)), copies
