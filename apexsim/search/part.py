"""One pool by itself: compiled once for all plans that it stands in, with the least that each request costs there."""

from __future__ import annotations

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
from apexsim.search.copies import GoodputLoads
from apexsim.search.encoding import Encode, encoder_work, least_encoding
from apexsim.search.outcome import Cause
from apexsim.search.problem import Problem
from apexsim.search.rejected import limits_of, too_long
from apexsim.search.work import Work, least_per_token, least_work
from apexsim.spec import catalog
from apexsim.spec.plan import Plan, Pool
from apexsim.techniques.images import Encoders, prepare_encoders
from apexsim.workload.trace import Floats, Ints

SHAPES = 96
"""Compiled shapes that a process keeps: some megabytes each."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A pool that cannot be, in any number of replicas; ``pool`` is its place among those of its phase."""

    cause: Cause
    reason: str
    short_bytes: float = 0.0
    pool: int = 0


@dataclass(frozen=True, slots=True)
class Least:
    """Joules above idle, at least: of each prompt token, of each decode iteration of a request, of its images."""

    prompt_j: float
    step_j: float
    tokens_of_a_step: float
    images_j: Floats | None = None  # [U]

    def work_j(self, input_tokens: float, output_tokens: float, number: Ints) -> float:
        """Of requests with these tokens in all, ``number`` [U] of each length."""
        steps = (output_tokens - float(number.sum())) / self.tokens_of_a_step
        images_j = 0.0 if self.images_j is None else float(self.images_j @ number)
        return self.prompt_j * input_tokens + self.step_j * steps + images_j


@dataclass(frozen=True, slots=True)
class Part:
    """What requests cost in one pool.

    Attributes:
        work: of a request of each length, for a server.
        servers: of a replica: its ranks, each of which serves requests of its own.
        least: energy; None where the power of the device is not known, and so is ``idle_w``.
        usd_per_device_hour: None where nobody knows a price.
        rejected: the line that says so where too many requests are too long; "" otherwise.
    """

    work: Work
    servers: int
    least: Least | None
    idle_w: float | None
    usd_per_device_hour: float | None
    rejected: str


def alone(problem: Problem, pool: Pool) -> Plan:
    """The plan of one replica of this shape, serving (or encoding): what is compiled of it."""
    space = problem.space
    role = "encode" if pool.role == "encode" else "serve"
    return Plan(
        model=problem.model_name, cluster=problem.cluster.only(pool.device), engine=space.engine,
        engine_version=space.engine_version, router=space.router,
        pools=(pool.model_copy(update={"replicas": 1, "role": role}),),
    )  # fmt: skip


@lru_cache(maxsize=SHAPES)
def compiled(plan: Plan) -> Prepared | DoesNotFit:
    """The plan, compiled; once for all that differ in the numbers of replicas and their roles.

    Raises:
        ApexsimError: a plan that is not legal.
    """
    return prepare(plan)


@lru_cache(maxsize=SHAPES)
def compiled_encoders(plan: Plan) -> Encoders | DoesNotFit:
    """The same of a pool that only encodes."""
    return prepare_encoders(plan, "plan: pools[0]", catalog.model(plan.model), None)


def part_of(problem: Problem, loads: GoodputLoads, pool: Pool) -> Part | Refused:
    """What each request costs in a pool of this shape, in its role."""
    try:
        plan = alone(problem, pool)
        found = compiled_encoders(plan) if pool.role == "encode" else compiled(plan)
    except ApexsimError as error:  # limits that contradict one another
        return Refused("illegal", str(error))
    if isinstance(found, DoesNotFit):
        return Refused("memory" if found.resource == "memory" else "illegal", found.reason, found.short_bytes)
    if isinstance(found, Encoders):
        return _encoding(problem, loads, pool, found)
    return _serving(problem, loads, pool, replace(found, policy=replace(found.policy, role=pool.role)))


def _encoding(problem: Problem, loads: GoodputLoads, pool: Pool, encoders: Encoders) -> Part:
    encode = least_encoding(encoders.compiled.law, loads.lengths, pool.encode_batch)
    power = encoders.compiled.power
    return Part(
        work=encoder_work(encode, loads.lengths, problem.cluster.devices if pool.irp else 1),
        servers=1,
        least=None if power is None else Least(0.0, 0.0, 1.0, encode.joules if encode else None),
        idle_w=None if power is None else power.idle_w,
        usd_per_device_hour=problem.price_of(pool),
        rejected="",
    )


def _serving(problem: Problem, loads: GoodputLoads, pool: Pool, prepared: Prepared) -> Part:
    power, limits = prepared.compiled.accounting.power, limits_of(prepared)
    encode = least_encoding(prepared.compiled.encoder, loads.lengths) if pool.role != "decode" else None
    work = least_work(
        prepared.compiled.tables,
        limits,
        prepared.policy,
        loads.lengths,
        prefix_caching=pool.scheduler.prefix_caching,
        transfer_s=_transfer_s(prepared, pool, loads) if pool.role in ("prefill", "decode") else None,
        encode_s=encode.busy_s if encode else None,
    )
    return Part(
        work=replace(work, alone_s=work.alone_s + encode.host_s) if encode else work,
        servers=pool.dp,  # a rank serves its own requests, and never faster than alone
        least=None if power is None else _least(prepared, pool, encode),
        idle_w=None if power is None else power.idle_w,
        usd_per_device_hour=problem.price_of(pool),
        rejected=too_long(limits, prepared.policy, loads.lengths, problem.slo),
    )


def _transfer_s(prepared: Prepared, pool: Pool, loads: GoodputLoads) -> NDArray[np.float64]:
    """[U] seconds that the KV of a prompt keeps the fastest links of a unit of this pool busy, at least.

    It leaves a prefill pool as the ranks where it decodes hold it: one copy at least.
    """
    at_best = pool if pool.role == "decode" else pool.model_copy(update={"tp": 1, "dp": 1, "cp": 1, "pp": 1, "ep": 1})
    size = kv_sizes(prepared.model, at_best, prepared.compiled.memory, loads.lengths.input_tokens)
    devices = pool.devices_per_replica // pool.dp
    return size / (devices * most_bandwidth(prepared.profile, prepared.plan.cluster))


def _least(prepared: Prepared, pool: Pool, encode: Encode | None) -> Least:
    """Joules above idle of the linear layers, in the batches that are cheapest for them, and of images."""
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
        encode.joules if encode else None,
    )
