"""Run one pool of replicas under a load: the engine's front door."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.adapters import AdapterLaw
from apexsim.cost.kvpages import KvPages, uniform
from apexsim.cost.swap import SwapLaw
from apexsim.cost.tables import StepTables
from apexsim.cost.tiers import TierLaw
from apexsim.engine import recorder
from apexsim.engine.adapters_asked import adapters_asked, apart_by_adapter, new_adapters
from apexsim.engine.encoders import Encoder, check_counted, visuals_of
from apexsim.engine.fleet import Marks, run_pool
from apexsim.engine.order import BY_ADAPTER, ORDERS
from apexsim.engine.places import new_order
from apexsim.engine.prefixes import new_cache
from apexsim.engine.presence import check_littles_law
from apexsim.engine.result import SimulationResult, Snapshot
from apexsim.engine.routers import Offered, PlugInRouter
from apexsim.engine.routers import router as named_router
from apexsim.engine.schedulers import Policy
from apexsim.engine.state import LONGEST, Cache, Limits, State, new_drafts, new_state
from apexsim.engine.tier_state import Tiers, new_tiers
from apexsim.engine.weigh import NO_CURVE, Curve, prefill_curve
from apexsim.errors import UsageError
from apexsim.workload.trace import Trace

MIXED_PAGES = (
    "kv_tiers and preemption = swap copy blocks of all layers; not where layers of several kinds share a pool of pages "
    "(disable_hybrid_kv_cache_manager = true makes them blocks again)"
)


@dataclass(frozen=True, slots=True)
class ReplicaLimits:
    """What one replica of the pool holds, and what a request costs outside its iterations.

    ``entry_s`` passes between the client's arrival and the engine's queue (API, tokeniser), ``exit_s`` between a
    token in the engine and the client (detokeniser, network). ``pages``: where layers of several kinds share the pool
    of ``kv_blocks`` pages, how many of them a sequence holds; None where a page is a block of all layers.
    ``tiers`` keep what prefix caching computes, the nearest first; only the last may be shared by the replicas.
    ``swap``: where a preempted request's blocks go; None where it is recomputed.
    ``weigh_loads``: what is found in a tier is computed anew where loading it would take longer.
    ``adapters``: the LoRA adapters that requests ask for; None where they have none.
    ``encoder``: of the images of its requests; None where it has none, or another pool encodes.
    """

    kv_blocks: int
    block_size: int
    max_model_len: int
    entry_s: float = 0.0
    exit_s: float = 0.0
    pages: KvPages | None = None
    tiers: tuple[TierLaw, ...] = ()
    swap: SwapLaw | None = None
    weigh_loads: bool = False
    adapters: AdapterLaw | None = None
    encoder: Encoder | None = None


def simulate_pool(
    trace: Trace, tables: StepTables, limits: ReplicaLimits, policy: Policy, *, replicas: int = 1,
    router: str | Any = "least-loaded", seed: int = 0, concurrency: int | None = None, timeline: bool = False,
    marks: tuple[float, ...] = (),
) -> SimulationResult:  # fmt: skip
    """Serve ``trace`` with ``replicas`` alike replicas until the last request has ended.

    Where ``tables`` are of ranks in lockstep, the router chooses among the ranks of all replicas, and ``limits`` and
    ``policy`` are those of one rank.
    Open loop: requests arrive as in the trace. Closed loop (``concurrency``): the trace gives order and lengths
    only; that many requests are in flight, and the end of one releases the next. Offline is a trace whose arrivals
    are all 0.

    Args:
        router: a registered name, or a router object (``engine.routers``).
        timeline: also keep every iteration (``result.timeline``), 64 bytes each.
        marks: instants of the trace's clock, ascending, at which the counters are wanted (``result.snapshots``);
            in an open loop under a built-in router only.

    Raises:
        UsageError: unknown router, a plug-in router in a closed loop, or marks where none can be reached.
    """
    chosen = named_router(router) if isinstance(router, str) else router
    _check_load(chosen, router, concurrency, seed, marks, limits.tiers)
    trace = phase_of(trace, policy)
    units = replicas * tables.group.ranks
    # The engine's clock starts at the first arrival: a clock of large numbers has no digits left for milliseconds.
    origin_s = float(trace.arrival_s[0]) if concurrency is None else 0.0
    arrival_s = trace.arrival_s - origin_s if concurrency is None else np.zeros(len(trace))
    outside_s = limits.entry_s + limits.exit_s
    rules, state = empty_pool(
        trace, arrival_s + limits.entry_s, tables, limits, policy, units, seed=seed, timeline=timeline
    )
    wanted = Marks(tuple(at_s - origin_s for at_s in marks))
    state = run_pool(
        state, tables, rules, router=chosen, offered=offered_by(trace), replicas=units, seed=seed,
        concurrency=concurrency, delay_s=outside_s, marks=wanted,
    )  # fmt: skip
    check_littles_law(state)
    return SimulationResult(
        requests=recorder.request_columns(
            state, trace, closed_loop=concurrency is not None, origin_s=origin_s, entry_s=limits.entry_s,
            exit_s=limits.exit_s,
        ),
        itl=recorder.itl_runs(state),
        pools=(recorder.counters(state, rules, tables.group.ranks),),
        replicas=(replicas,),
        seed=seed,
        timeline=recorder.timeline(state, origin_s) if timeline else None,
        snapshots=tuple(Snapshot(at.at_s + origin_s, at.counters) for at in wanted.reached),
        units=(units,),
    )  # fmt: skip


def empty_pool(
    trace: Trace, arrival_s: NDArray[np.float64], tables: StepTables, limits: ReplicaLimits, policy: Policy,
    units: int, *, seed: int, timeline: bool, ends: dict[str, bool] | None = None,
) -> tuple[Limits, State]:  # fmt: skip
    """What the compiled scheduler reads, and the state of ``units`` replicas, or ranks, before the first arrival.

    ``ends``: what of ``handover.py`` the pool takes part in, by the names of ``Limits``.
    """
    check_counted(trace)
    asked = adapters_asked(trace, limits.adapters, seed)
    cache = new_cache(apart_by_adapter(trace, asked), limits.block_size, units, wanted=policy.prefix_caching)
    curve = _curve(trace, tables, policy, limits, cache)
    rules = _rules(policy, limits, tables.stages, curve.step, prefix_caching=len(cache.prefixes) > 0)
    rules = rules._replace(**ends or {})
    return rules, new_state(
        arrival_s, trace.input_tokens, trace.output_tokens, rules, replicas=units,
        stages=tables.stages, timeline=timeline, cache=cache, lockstep=tables.group.ranks > 1,
        drafts=new_drafts(policy.acceptance, seed), tiers=_tiers(limits, cache, units, curve),
        order=new_order(trace, policy, units, tables.stages, limits.entry_s + limits.exit_s),
        adapters=new_adapters(limits.adapters, asked, units),
        visuals=visuals_of(trace, limits.encoder, units, tables.group.ranks),
    )  # fmt: skip


def phase_of(trace: Trace, policy: Policy) -> Trace:
    """The requests as a pool of this role serves them: prefill ends with the first token."""
    if policy.role != "prefill":
        return trace
    return trace.with_columns(output_tokens=np.ones_like(trace.output_tokens))


def _tiers(limits: ReplicaLimits, cache: Cache, replicas: int, curve: Curve) -> Tiers:
    """Empty tiers, or none at all where there is no prefix cache."""
    return new_tiers(limits.tiers if len(cache.prefixes) else (), replicas, len(cache.sizes), curve.seconds)


def _curve(trace: Trace, tables: StepTables, policy: Policy, limits: ReplicaLimits, cache: Cache) -> Curve:
    """What loads are weighed against, where they are."""
    if not (limits.weigh_loads and limits.tiers and len(cache.prefixes)):
        return NO_CURVE
    longest = int(trace.input_tokens.clip(max=limits.max_model_len).max())
    return prefill_curve(tables, policy, longest)


def _check_load(
    chosen: object, name: object, concurrency: int | None, seed: int, marks: tuple[float, ...],
    tiers: tuple[TierLaw, ...],
) -> None:  # fmt: skip
    """Raise UsageError for a load that the engine does not serve."""
    if concurrency is not None and isinstance(chosen, PlugInRouter):
        raise UsageError(f"router {name!r}: a plug-in router serves open loops only (built-in ones serve both)")
    if marks and (concurrency is not None or isinstance(chosen, PlugInRouter)):
        raise UsageError("marks: only an open loop under a built-in router reaches them")
    if concurrency is not None and concurrency < 1:
        raise UsageError(f"concurrency {concurrency} (at least 1 request must be in flight)")
    if not 0 <= seed < 1 << 63:
        raise UsageError(f"seed {seed} (allowed: 0 to 2^63 - 1)")
    if any(tier.shared for tier in tiers):
        _check_shared(tiers, chosen, name, marks)


def _check_shared(tiers: tuple[TierLaw, ...], chosen: object, name: object, marks: tuple[float, ...]) -> None:
    """Raise UsageError where a shared tier is not served: what one replica stores in it another may find.

    So all replicas go from event to event together.
    """
    if any(tier.shared for tier in tiers[:-1]):
        raise UsageError("KV tiers: only the last one can be shared by the replicas")
    if isinstance(chosen, PlugInRouter):
        raise UsageError(
            f"router {name!r}: a plug-in router advances replicas one by one, and a remote KV tier joins them "
            "(allowed: a built-in router, or host and nvme tiers)"
        )
    if marks:
        raise UsageError("marks: a run with a remote KV tier does not reach them")


def offered_by(trace: Trace) -> Offered:
    """What a router may know of the trace before it begins."""
    return Offered(len(trace), trace.session if trace.session is not None else np.full(len(trace), -1, np.int64))


def _rules(policy: Policy, limits: ReplicaLimits, stages: int, weigh: int, *, prefix_caching: bool) -> Limits:
    """What the compiled scheduler reads, in exactly its types."""
    pages = limits.pages or uniform(limits.block_size)
    hybrid = pages != uniform(pages.block_size)
    if hybrid and (limits.tiers or limits.swap):
        raise UsageError(MIXED_PAGES)
    if prefix_caching and (pages.full_groups != 1 or pages.state_pages > 0):
        raise UsageError("prefix_caching: only where one group of layers keeps the whole context, and none a state")
    running, in_batch = policy.seqs(stages)
    adapters = limits.adapters
    turns = adapters is not None and adapters.adapters > adapters.slots
    if turns and policy.order != "fcfs":
        raise UsageError(f"lora: adapters take turns in order of arrival only, not under policy {policy.order}")
    return Limits(
        max_num_batched_tokens=int(policy.max_num_batched_tokens),
        max_num_seqs=int(running),
        max_batch_seqs=int(in_batch),
        follow=bool(policy.follow) and stages > 1,
        mix=bool(policy.mix),
        chunked=bool(policy.chunked),
        free_decodes=bool(policy.free_decodes),
        reserve=bool(policy.reserve),
        ahead=bool(policy.ahead) and stages == 1,
        prefix_caching=bool(prefix_caching),
        tiers=len(limits.tiers) if prefix_caching else 0,
        own_tiers=sum(not tier.shared for tier in limits.tiers) if prefix_caching else 0,
        weigh=int(weigh),
        swap_blocks=0 if limits.swap is None else int(limits.swap.blocks),
        swap_group=1 if limits.swap is None else int(limits.swap.group_blocks),
        swap_group_s=0.0 if limits.swap is None else float(limits.swap.group_s),
        swap_async=limits.swap is not None and limits.swap.asynchronous,
        kv_blocks=int(limits.kv_blocks),
        block_size=int(pages.block_size),
        max_model_len=int(limits.max_model_len),
        hybrid=hybrid,
        full_groups=int(pages.full_groups),
        windowed_groups=int(pages.windowed_groups),
        state_pages=int(pages.state_pages),
        window_block=int(pages.window_block),
        window=int(pages.window),
        cycle=int(max(pages.block_size, pages.window_block)),
        order=BY_ADAPTER if turns else ORDERS[policy.order],
        input_weight=int(policy.input_weight),
        output_weight=int(policy.output_weight),
        max_waiting=int(policy.max_waiting),
        max_wait_s=float(policy.max_wait_s),
        longest_chunk=int(policy.long_prefill_token_threshold or LONGEST),
        in_place=policy.role == "decode",
        seat_first=bool(policy.seat_first),
        shed_late=bool(policy.shed_late),
        balance=bool(policy.balance),
        timeout_iters=int(policy.timeout_iters),
        batching_wait_iters=int(policy.batching_wait_iters),
        max_loras=0 if adapters is None else int(adapters.slots),
        max_cpu_loras=0 if adapters is None else int(adapters.host_slots),
        prefetch_loras=adapters is not None and bool(adapters.prefetch),
    )
