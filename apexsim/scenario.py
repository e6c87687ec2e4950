"""One plan, one trace, one SLO → a summary: the one place that composes cost, engine and metrics.

    prepare(plan)         names → model, device, policy; legality; compiled once → Prepared | DoesNotFit
    replay(prepared, …)   the engine alone: what a search calls often
    run(prepared, …)      replay and summary
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from apexsim import __version__
from apexsim.cost.explain import Explained, Iteration
from apexsim.cost.explain import explain as explain_iteration
from apexsim.cost.host import HostModel, host_model
from apexsim.cost.kvlinks import crowded, kv_links, kv_sizes
from apexsim.cost.memory import DoesNotFit
from apexsim.cost.power_law import Serving
from apexsim.cost.step import CompiledPool, compile_pool
from apexsim.engine.adapters_asked import adapter_notes
from apexsim.engine.disaggregated import ALONE, Handover, Links, PoolSetup
from apexsim.engine.life import lives_of, simulate_fleet
from apexsim.engine.places import order_notes
from apexsim.engine.prefixes import declared_prefixes, missing_prefixes
from apexsim.engine.result import SimulationResult
from apexsim.engine.schedulers import Policy, preset_names, resolve
from apexsim.engine.simulate import MIXED_PAGES, ReplicaLimits, simulate_pool
from apexsim.errors import InputError, UsageError
from apexsim.metrics.energy import Surroundings
from apexsim.metrics.fleet import Holding, account_held, replicas_held
from apexsim.metrics.pools import PoolShape, joined
from apexsim.metrics.summary import Deployment, Prices, Summary, summarise
from apexsim.spec import catalog
from apexsim.spec.drafts import acceptance_of, drafts_of
from apexsim.spec.fleet_rules import check_fleet
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.idle_keys import refuse_idle_keys
from apexsim.spec.legality import check_clock, check_cluster, check_exchange, check_plan
from apexsim.spec.lora_rules import check_lora_link
from apexsim.spec.model import ModelSpec
from apexsim.spec.plan import Plan, Pool
from apexsim.spec.pool_rules import check_pools
from apexsim.spec.slo import SLO
from apexsim.spec.tier_rules import check_tiers
from apexsim.techniques.images import Encoders, as_prefilled, image_setup, prepare_encoders
from apexsim.workload.trace import Trace
from apexsim.workload.visual import has_images

MIXED_ADAPTERS = "adapters do not take pages where layers of several kinds share a pool of them (leave it out: slots)"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan that fits, compiled once; it can be replayed under any number of traces."""

    plan: Plan
    model: ModelSpec
    profile: HardwareProfile
    policy: Policy
    compiled: CompiledPool
    parts: tuple[Prepared, ...] = ()  # of several pools, each as a plan of its own; the fields above are the first's
    encode: Encoders | None = None  # the pool with role encode, which is none of the parts

    @property
    def pool(self) -> Pool:
        return self.plan.pools[0]

    @property
    def limits(self) -> ReplicaLimits:
        """What a replica of the first pool holds."""
        compiled, memory = self.compiled, self.compiled.memory
        return ReplicaLimits(
            memory.kv_blocks, memory.block_size, memory.max_model_len, compiled.entry_s, compiled.exit_s, memory.pages,
            compiled.tiers, compiled.swap, self.pool.kv_load == "cheapest", compiled.adapters, compiled.encoder,
        )  # fmt: skip

    @property
    def deployment(self) -> Deployment:
        memory, cluster, parts = self.compiled.memory, self.plan.cluster, self.parts or (self,)
        alone = [(part.plan.cluster, part.pool) for part in parts] + [(e.plan.cluster, e.pool) for e in self.encoders]
        overhead_w = sum(own.node_overhead_w * -(-pool.devices // own.devices_per_node) for own, pool in alone)
        return Deployment(
            self.plan.devices, memory.weights_bytes_per_device, memory.kv_capacity_tokens * parts[0].pool.dp,
            Surroundings(overhead_w, cluster.pue), len(parts[-1].policy.acceptance),
            self.compiled.tiers, self.compiled.swap, self.compiled.adapters is not None,
            tuple(part.shape for part in self.parts) + tuple(PoolShape(*each.shape) for each in self.encoders),
        )

    @property
    def encoders(self) -> tuple[Encoders, ...]:
        """The pool with role encode, or none."""
        return (self.encode,) if self.encode else ()

    @property
    def price_usd_per_hour(self) -> float | None:
        """Of a device, by its profile: the mean over the plan's devices; None where one of the prices is not known."""
        if not self.parts:
            return self.profile.price_usd_per_hour
        pools: tuple[Prepared | Encoders, ...] = (*self.parts, *self.encoders)
        prices = [(part.pool.devices, part.profile.price_usd_per_hour) for part in pools]
        known = [devices * price for devices, price in prices if price is not None]
        return sum(known) / sum(devices for devices, _ in prices) if len(known) == len(prices) else None

    @property
    def shape(self) -> PoolShape:
        """The first pool as a summary of several knows it."""
        accounting = self.compiled.accounting
        return PoolShape(self.pool.role, self.pool.devices, accounting.peak_flops, accounting.memory_bandwidth)


@dataclass(frozen=True, slots=True)
class Run:
    """What came out: every request, and the figures."""

    result: SimulationResult
    summary: Summary


def prepare(
    plan: Plan,
    *,
    source: str = "plan",
    model: ModelSpec | None = None,
    profile: HardwareProfile | None = None,
    host: HostModel | None = None,
    serving: Serving | None = None,
) -> Prepared | DoesNotFit:
    """Resolve every name of ``plan`` and compile its step tables.

    Args:
        source: what an error message calls the plan: its file.
        model, profile: already resolved ones, so that a search does not look them up for each plan.
        host, serving: host terms in place of those of the plan's engine, and factors of power, for fits.

    Raises:
        UsageError: an unknown name.
        InputError: a plan that is not legal, or that this release does not simulate.
    """
    model = model or catalog.model(plan.model)
    refuse_idle_keys(plan, source)
    reason = check_fleet(plan)
    if reason is not None:
        raise InputError(f"{source}: {reason}")
    if len(plan.pools) > 1:
        return prepare_pools(plan, source, model, host, serving)
    plan = on_its_group(plan)
    profile = profile or catalog.device(plan.pools[0].device or plan.cluster.device)
    host = _host(plan, profile, host)
    policy = replace(_policy(plan, source), ahead=host.asynchronous, role=plan.pools[0].role)
    missing = plan.most.devices - plan.cluster.devices
    if missing > 0:
        short = f"the cluster {plan.cluster} has {plan.cluster.devices}: short by {missing}"
        return DoesNotFit("devices", 0.0, 0.0, 0.0, f"the plan needs {plan.most.devices} devices, {short}")
    reason = check_cluster(profile, plan.cluster) or check_plan(model, plan)
    if reason is not None:
        raise InputError(f"{source}: {reason}")
    pool = plan.pools[0]
    reason = check_clock(profile, pool) or check_exchange(plan, profile) or check_tiers(profile, pool)
    reason = reason or check_lora_link(profile, pool)
    if reason is not None:
        raise InputError(f"{source}: pools[0].{reason}")
    compiled = compile_pool(
        model, profile, plan.cluster, plan.pools[0], engine=plan.engine, engine_version=plan.engine_version,
        max_num_batched_tokens=policy.max_num_batched_tokens, max_num_seqs=policy.max_num_seqs,
        # without chunking a whole prompt is one chunk, however long
        max_chunk_tokens=None if policy.chunked else plan.pools[0].max_model_len or model.max_context, host=host,
        serving=serving,
    )
    if isinstance(compiled, DoesNotFit):
        return compiled
    if compiled.memory.pages is not None and (compiled.tiers or compiled.swap):
        raise InputError(f"{source}: pools[0]: {MIXED_PAGES}")
    if compiled.memory.pages is not None and pool.lora is not None and pool.lora.unified:
        raise InputError(f"{source}: pools[0].lora.unified: {MIXED_ADAPTERS}")
    return Prepared(plan, model, profile, policy, compiled)


def on_its_group(plan: Plan) -> Plan:
    """The plan of one pool on the group of devices that it asks for, where the cluster has several."""
    if not plan.cluster.other_groups:
        return plan
    return plan.model_copy(update={"cluster": plan.cluster.only(plan.pools[0].device)})


def prepare_pools(
    plan: Plan, source: str, model: ModelSpec, host: HostModel | None, serving: Serving | None
) -> Prepared | DoesNotFit:
    """``prepare`` for a plan of several pools: each is a plan of its own on its group of the cluster."""
    reason = check_pools(model, plan) or crowded(plan.cluster, plan.most.pools)
    if reason is not None:
        raise InputError(f"{source}: {reason}")
    parts: list[Prepared] = []
    encode: Encoders | None = None
    for index, pool in enumerate(plan.pools):
        alone = plan.alone(pool)
        if pool.role == "encode":
            encoders = prepare_encoders(alone, f"{source}: pools[{index}]", model, host)
            if isinstance(encoders, DoesNotFit):
                return replace(encoders, reason=f"pools[{index}]: {encoders.reason}")
            encode = encoders
            continue
        try:
            part = prepare(alone, source=source, model=model, host=host, serving=serving)
        except InputError as problem:
            raise InputError(_of_pool(str(problem), source, index)) from None
        if isinstance(part, DoesNotFit):
            return replace(part, reason=f"pools[{index}]: {part.reason}")
        parts.append(part)
    first = parts[0]
    return Prepared(plan, model, first.profile, first.policy, first.compiled, tuple(parts), encode)


def _of_pool(message: str, source: str, index: int) -> str:
    """What is wrong with the only pool of a plan, said of pool ``index`` of several."""
    if "pools[0]" in message:
        return message.replace("pools[0]", f"pools[{index}]")
    return f"{source}: pools[{index}]: {message.removeprefix(f'{source}: ')}"


def _host(plan: Plan, profile: HardwareProfile, given: HostModel | None) -> HostModel:
    """Host terms of the plan's engine, with the plan's own word on asynchronous scheduling over them."""
    host = given or host_model(plan.engine, plan.engine_version, profile.folder)
    pool = plan.pools[0]
    asynchronous = pool.scheduler.async_scheduling
    if drafts_of(pool) and pool.speculative and pool.speculative.method == "ngram":
        asynchronous = False  # it looks for the tokens of the step before the next one is composed
    return host if asynchronous is None else replace(host, asynchronous=asynchronous)


def _policy(plan: Plan, source: str) -> Policy:
    scheduler = plan.pools[0].scheduler
    try:
        return replace(resolve(scheduler), acceptance=acceptance_of(plan.pools[0]))
    except UsageError as problem:
        # an unknown name ends as any other unknown name does; limits that contradict each other are a bad file
        error = InputError if scheduler.preset in preset_names() else UsageError
        reason = str(problem).removeprefix("scheduler: ")
        raise error(f"{source}: pools[0].scheduler: {reason}") from None


def explain(prepared: Prepared, iteration: Iteration) -> Explained:
    """One iteration of a replica taken apart, operator by operator; see ``cost.explain``."""
    return explain_iteration(prepared.compiled.parts, prepared.compiled.tables, iteration)


def replay(
    prepared: Prepared,
    trace: Trace,
    *,
    seed: int = 0,
    concurrency: int | None = None,
    timeline: bool = False,
    marks: tuple[float, ...] = (),
) -> SimulationResult:
    """Let the engine serve ``trace`` until its last request has ended; see ``engine.simulate.simulate_pool``."""
    plan = prepared.plan
    trace = as_prefilled(plan, prepared.model, trace)
    if prepared.parts or has_images(trace) or (plan.fleet is not None and plan.fleet.is_on):
        if marks:
            raise UsageError("marks: a plan of several pools or with a fleet, or a trace with images, has none")
        return replay_pools(prepared, trace, seed, concurrency, timeline)
    return simulate_pool(
        trace, prepared.compiled.tables, prepared.limits, prepared.policy, replicas=prepared.pool.replicas,
        router=plan.router_of(prepared.pool.role), seed=seed, concurrency=concurrency, timeline=timeline, marks=marks,
    )


def replay_pools(
    prepared: Prepared, trace: Trace, seed: int, concurrency: int | None, timeline: bool
) -> SimulationResult:
    """``replay`` of a plan of several pools, of one whose replicas come and go, or of one that encodes images."""
    plan, parts = prepared.plan, prepared.parts or (prepared,)
    links = ALONE
    if prepared.parts or not has_images(trace):
        stand = sorted(plan.most.pools, key=lambda pool: pool.role == "encode")  # which stand behind the others
        profiles = [part.profile for part in parts] + [each.profile for each in prepared.encoders]
        ways = kv_links(plan.cluster, stand, profiles, plan.transfer.latency)
        links = Links(ways.capacity, ways.paths, ways.latency_s, ways.ways, ways.shares)
    sink = next((part for part in parts if part.pool.role == "decode"), None)
    size = np.zeros(len(trace))
    if sink is not None:
        size = kv_sizes(prepared.model, sink.pool, sink.compiled.memory, trace.input_tokens)
    layers = prepared.model.layers
    handover = Handover(
        size, push=plan.transfer.mode == "push", early=(layers - 1) / layers if plan.transfer.layerwise else 0.0,
        shown=plan.transfer.first_token == "prefill",
    )
    pools = [PoolSetup(p.compiled.tables, p.limits, p.policy, p.pool.replicas) for p in parts]
    weights = [part.compiled.memory.weights_bytes_per_device * part.pool.devices_per_replica for part in parts]
    return simulate_fleet(
        trace, pools, links, handover, lives_of(plan.fleet, weights),
        routers={pool.role: plan.router_of(pool.role) for pool in plan.pools}, seed=seed, concurrency=concurrency,
        timeline=timeline, images=image_setup(plan, prepared.encode, [part.compiled.encoder for part in parts], trace),
    )  # fmt: skip


def run(
    prepared: Prepared,
    trace: Trace,
    *,
    slo: SLO | None = None,
    prices: Prices | None = None,
    seed: int = 0,
    concurrency: int | None = None,
    warmup: float = 0.0,
    with_itl: bool = True,
    timeline: bool = False,
    result: SimulationResult | None = None,
) -> Run:
    """Replay ``trace`` and say what happened.

    Args:
        prices: where None, the profile's price of a device-hour and no carbon intensity.
        warmup: share of the time of arrivals that is simulated but not counted for latencies and the SLO.
        with_itl: False saves the time of the ITL percentiles.
        timeline: also keep every iteration, in ``result.timeline``.
        result: of this replay, where it was made before.
    """
    trace = as_prefilled(prepared.plan, prepared.model, trace)
    began = time.perf_counter()
    result = result or replay(prepared, trace, seed=seed, concurrency=concurrency, timeline=timeline)
    wall_s = time.perf_counter() - began
    parts = prepared.parts or (prepared,)
    held = replicas_held(result)
    accounts = tuple(
        account_held(part.compiled.accounting, counters, held[p], result, p)
        for p, (part, counters) in enumerate(zip(parts, result.pools, strict=True))
    )
    accounts += tuple(encoders.account(result) for encoders in prepared.encoders)
    deployment = prepared.deployment.held(result, held, holdings(parts))
    account = joined(accounts, deployment.shapes) if prepared.parts else accounts[0]
    summary = summarise(
        replace(result, replicas=held), account, deployment, slo=slo,
        prices=prices or Prices(prepared.price_usd_per_hour), warmup=warmup, with_itl=with_itl,
        notes=notes(prepared, trace), wall_s=wall_s, version=__version__,
        accounts=accounts if prepared.parts else (), senders=trace,
    )
    return Run(result, summary)


def holdings(parts: Sequence[Prepared]) -> tuple[Holding, ...]:
    """What a replica of each pool takes up."""
    clusters = [part.plan.cluster for part in parts]
    return tuple(
        Holding(part.pool.devices_per_replica, cluster.devices_per_node, cluster.node_overhead_w)
        for part, cluster in zip(parts, clusters, strict=True)
    )


def where_it_fits(plan: Plan) -> Plan | None:
    """The plan at the smallest larger tp that fits the cluster, with fewer replicas if it must; or None."""
    pool = plan.pools[0]
    room = plan.cluster.devices
    model = catalog.model(plan.model)
    for tp in range(pool.tp + 1, room // (pool.pp * pool.dp * pool.cp) + 1):
        replicas = min(pool.replicas, room // (tp * pool.pp * pool.dp * pool.cp))
        # from the data, not a copy, so that the degrees are checked against each other again
        changed = pool.model_dump() | {"tp": tp, "replicas": replicas, "moe_tp": None}
        larger = plan.model_copy(update={"pools": (Pool.model_validate(changed),), "fleet": None})
        if check_plan(model, larger) is None and isinstance(prepare(larger, model=model), Prepared):
            return larger
    return None


def notes(prepared: Prepared, trace: Trace) -> tuple[str, ...]:
    """What a reader has to know to judge the figures: dropped rows, what is not modelled or not measured."""
    found = [f"{rows} rows of the trace were left out: {reason}" for reason, rows in trace.dropped.items()]
    found += trace.notes
    found += missing_prefixes(prepared.policy.prefix_caching, trace)
    found += order_notes(prepared.policy, trace)
    found += adapter_notes(prepared.compiled.adapters, trace)
    found += declared_prefixes(prepared.policy.prefix_caching, trace)
    of_encoders = (note for encoders in prepared.encoders for note in encoders.compiled.notes)
    return (*found, *prepared.compiled.confidence.notes, *of_encoders)
