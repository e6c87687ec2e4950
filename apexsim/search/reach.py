"""What the pools of one shape can reach at best, by the number of their replicas: compiled once, shared by all plans.

A plan is bounded by each of its pools: whatever the others do, this one must do its phase of every request in time.
So bounds belong to shapes, a plan takes the tightest of its pools', and what stands in two plans is computed once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.accounting import Accounting
from apexsim.cost.kvlinks import kv_sizes, most_bandwidth
from apexsim.cost.ledger import JOULES
from apexsim.cost.memory import DoesNotFit
from apexsim.errors import ApexsimError
from apexsim.scenario import Prepared, prepare
from apexsim.search.bounds import Counted, attainment_bound, due_to_meet, median_e2e_bound
from apexsim.search.copies import GoodputBound, GoodputLoads
from apexsim.search.outcome import Cause
from apexsim.search.problem import Problem
from apexsim.search.rejected import limits_of, too_long
from apexsim.search.work import Work, least_per_token, least_work
from apexsim.spec.plan import Plan, Pool

SHAPES = 96
"""Compiled shapes that a process keeps: some megabytes each."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A pool that cannot be, in any number of replicas."""

    cause: Cause
    reason: str
    short_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Best:
    """The best that so many replicas can reach: rates in requests/s, ``binds`` the resource that bounds them."""

    attainment: float
    goodput_rps: float
    binds: str


@dataclass(frozen=True, slots=True)
class Least:
    """Joules above idle, at least: of each prompt token, of each decode iteration of a request, and the idle power."""

    prompt_j: float
    step_j: float
    tokens_of_a_step: float
    idle_w: float

    def work_j(self, input_tokens: float, output_tokens: float, requests: int) -> float:
        """Of so many requests with these tokens."""
        return self.prompt_j * input_tokens + self.step_j * (output_tokens - requests) / self.tokens_of_a_step


@dataclass(frozen=True, slots=True)
class Reach:
    """What a shape can reach in its phase. U lengths of requests.

    Attributes:
        best: by the number of replicas.
        latency_s: least median seconds of a request in this phase, with the replica to itself.
        shortest_s: the least of any request.
        served: bool[U] False where the pool rejects such requests.
        rejected: the line that says so, where there are too many; "" otherwise.
        least: energy; None where the power of the device is not known.
        usd_per_device_hour: None where nobody knows a price.
    """

    best: dict[int, Best]
    latency_s: float
    shortest_s: float
    served: NDArray[np.bool_]
    rejected: str
    least: Least | None
    usd_per_device_hour: float | None


def alone(problem: Problem, pool: Pool) -> Plan:
    """The plan of one replica of this shape, serving: what is compiled of it."""
    space = problem.space
    return Plan(
        model=problem.model_name, cluster=problem.cluster.only(pool.device), engine=space.engine,
        engine_version=space.engine_version, router=space.router,
        pools=(pool.model_copy(update={"replicas": 1, "role": "serve"}),),
    )  # fmt: skip


@lru_cache(maxsize=SHAPES)
def compiled(plan: Plan) -> Prepared | DoesNotFit:
    """The plan, compiled; once for all that differ in the numbers of replicas and their roles.

    Raises:
        ApexsimError: a plan that is not legal.
    """
    return prepare(plan)


def reach_of(
    problem: Problem, loads: GoodputLoads, pool: Pool, counts: Iterable[int]
) -> Reach | Refused:
    """What ``counts`` replicas of a shape can reach, in the role of the pool."""
    try:
        prepared = compiled(alone(problem, pool))
    except ApexsimError as error:  # limits that contradict one another
        return Refused("illegal", str(error))
    if isinstance(prepared, DoesNotFit):
        return Refused("memory" if prepared.resource == "memory" else "illegal", prepared.reason, prepared.short_bytes)
    prepared = replace(prepared, policy=replace(prepared.policy, role=pool.role))
    limits, work = limits_of(prepared), _work(prepared, pool, loads)
    dues = due_to_meet(work, loads.lengths, problem.slo)
    goodput = GoodputBound(loads, dues, work.servers)
    load = Counted(loads.one_copy, problem.trace.span_s, problem.rate_rps)
    best = {}
    for count in counts:
        servers = count * pool.dp  # a rank serves its own requests, and never faster than alone
        best[count] = Best(attainment_bound(dues, load, servers), *goodput.of(servers))
    power = prepared.compiled.accounting.power
    return Reach(
        best=best,
        latency_s=median_e2e_bound(work, loads.one_copy),
        shortest_s=float(work.alone_s.min()),
        served=work.served,
        rejected=too_long(limits, prepared.policy, loads.lengths, problem.slo),
        least=None if power is None else _least(prepared, pool, power.idle_w),
        usd_per_device_hour=problem.price_of(pool),
    )


def _work(prepared: Prepared, pool: Pool, loads: GoodputLoads) -> Work:
    return least_work(
        prepared.compiled.tables,
        limits_of(prepared),
        prepared.policy,
        loads.lengths,
        prefix_caching=pool.scheduler.prefix_caching,
        transfer_s=_transfer_s(prepared, pool, loads) if pool.role in ("prefill", "decode") else None,
    )


def _transfer_s(prepared: Prepared, pool: Pool, loads: GoodputLoads) -> NDArray[np.float64]:
    """[U] seconds that the KV of a prompt keeps the fastest links of a unit of this pool busy, at least.

    It leaves a prefill pool as the ranks where it decodes hold it: one copy at least.
    """
    at_best = pool if pool.role == "decode" else pool.model_copy(update={"tp": 1, "dp": 1, "cp": 1, "pp": 1, "ep": 1})
    size = kv_sizes(prepared.model, at_best, prepared.compiled.memory, loads.lengths.input_tokens)
    devices = pool.devices_per_replica // pool.dp
    return size / (devices * most_bandwidth(prepared.profile, prepared.plan.cluster))


def _least(prepared: Prepared, pool: Pool, idle_w: float) -> Least:
    """Joules above idle of the linear layers, in the batches that are cheapest for them."""
    accounting: Accounting = prepared.compiled.accounting
    within = prepared.policy.chunked and not prepared.policy.free_decodes
    mixed = least_per_token(prepared.compiled.tables, accounting.mixed[JOULES], within)
    decode_row = accounting.decode[JOULES]
    each = 1 + len(prepared.policy.acceptance)
    decode = min(each * mixed, min(float(decode_row[n]) / n for n in range(1, len(decode_row))))
    prompts = pool.role != "decode" and not pool.scheduler.prefix_caching
    return Least(
        accounting.ranks * mixed / pool.cp if prompts else 0.0,
        accounting.ranks * decode if pool.role != "prefill" else 0.0,
        prepared.policy.tokens_of_a_step,
        idle_w,
    )
