"""Which lives of a fleet are possible in a plan, and which of them this release simulates."""

from __future__ import annotations

from collections.abc import Iterator

from apexsim.spec.fleet import Fleet, Switch
from apexsim.spec.plan import Plan, Pool

NOT_YET = "not simulated where replicas come and go"


def check_fleet(plan: Plan) -> str | None:
    """Why the plan's fleet cannot live so, or None."""
    fleet = plan.fleet
    if fleet is None or not fleet.is_on:
        return None
    wrong = next((f"fleet.{reason}" for reason in _wrong_places(fleet, plan)), None)
    wrong = wrong or next((f"fleet.{reason}" for reason in _wrong_sizes(fleet, plan)), None)
    if wrong is None and fleet.switch is not None:
        reason = _wrong_switch(fleet.switch, plan)
        wrong = None if reason is None else f"fleet.switch{reason}"
    if wrong is not None:
        return wrong
    if any(pool.role == "encode" for pool in plan.pools):
        return f"fleet: a pool with role=encode: {NOT_YET}"
    for index, pool in enumerate(plan.pools):
        reason = _not_yet(pool, alone=len(plan.pools) == 1)
        if reason is not None:
            return f"fleet: pools[{index}].{reason}: {NOT_YET}"
    return _wrong_together(fleet, plan)


def _wrong_places(fleet: Fleet, plan: Plan) -> Iterator[str]:
    """Pools and replicas that the plan has not."""
    pools = len(plan.pools)
    named = {
        "autoscale": [rule.pool for rule in fleet.autoscale],
        "switch.pools": [rule.pool for rule in fleet.switch.pools] if fleet.switch else [],
    }
    for key, pool_numbers in named.items():
        for k, number in enumerate(pool_numbers):
            if number >= pools:
                yield f"{key}[{k}].pool = {number}: the plan has {_counted(pools, 'pool')}, from 0"
            if number in pool_numbers[:k]:
                yield f"{key}[{k}].pool = {number}: stands twice"
    places = {
        "failures.scheduled": [(x.pool, x.replica) for x in (fleet.failures.scheduled if fleet.failures else ())],
        "stragglers": [(x.pool, x.replica) for x in fleet.stragglers],
        "drain": [(x.pool, x.replica) for x in fleet.drain],
    }
    for key, of in places.items():
        for k, (number, replica) in enumerate(of):
            if number >= pools:
                yield f"{key}[{k}].pool = {number}: the plan has {_counted(pools, 'pool')}, from 0"
            elif replica >= (most := plan.most.pools[number].replicas):
                where = f"pools[{number}] has {_counted(most, 'replica')} at most, from 0"
                yield f"{key}[{k}].replica = {replica}: {where}"


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _wrong_sizes(fleet: Fleet, plan: Plan) -> Iterator[str]:
    if fleet.autoscale and fleet.switch:
        yield "switch: replicas that change their role are as many as they were, autoscale changes that (leave one out)"
    if fleet.autoscale and plan.cluster.other_groups:
        yield "autoscale: not simulated on groups of several devices, whose prices may differ"
    scheduled = fleet.failures.scheduled if fleet.failures else ()
    if plan.cluster.other_groups and any(failure.repair is None for failure in scheduled):
        yield "failures.scheduled without repair: not simulated on groups of several devices, whose prices may differ"
    for k, rule in enumerate(fleet.autoscale):
        replicas = plan.pools[rule.pool].replicas
        if not rule.min_replicas <= replicas <= rule.max_replicas:
            yield (
                f"autoscale[{k}]: pools[{rule.pool}] begins with replicas = {replicas} (allowed: min_replicas to "
                f"max_replicas, {rule.min_replicas} to {rule.max_replicas})"
            )


def _wrong_switch(switch: Switch, plan: Plan) -> str | None:
    first = plan.pools[switch.pools[0].pool]
    for k, rule in enumerate(switch.pools):
        pool = plan.pools[rule.pool]
        if pool.devices_per_replica != first.devices_per_replica or pool.device != first.device:
            return (
                f".pools[{k}]: a replica of pools[{rule.pool}] has {pool.devices_per_replica} devices and one of "
                f"pools[{switch.pools[0].pool}] {first.devices_per_replica} (allowed: as many, of one kind)"
            )
        if rule.min_replicas > pool.replicas:
            return f".pools[{k}].min_replicas = {rule.min_replicas}: pools[{rule.pool}] begins with {pool.replicas}"
        if pool.role == first.role and k > 0:
            return f".pools[{k}]: pools[{rule.pool}] has the same role as another, {pool.role}"
    return None


def _not_yet(pool: Pool, *, alone: bool) -> str | None:
    """What of a pool cannot be taken apart with a replica of it."""
    scheduler = pool.scheduler
    later = {
        f"role={pool.role}": pool.role == "encode" or (alone and pool.role != "serve"),
        f"dp={pool.dp} (ranks in lockstep)": pool.dp > 1,
        "kv_tiers": bool(pool.kv_tiers),
        "lora": pool.lora is not None and pool.lora.adapters > 0,
        "scheduler.preemption=swap": scheduler.preemption == "swap",
        f"scheduler.policy={scheduler.policy}": scheduler.policy in ("fair", "deadline"),
        "scheduler.shed_late (deadlines of requests that are offered again)": scheduler.shed_late,
    }
    return next((key for key, asked in later.items() if asked), None)


def _wrong_together(fleet: Fleet, plan: Plan) -> str | None:
    decode = [index for index, pool in enumerate(plan.pools) if pool.role == "decode"]
    names = {plan.router_of(pool.role) for pool in plan.pools}
    if "lora-aware" in names:
        return f"fleet: router lora-aware: {NOT_YET}"
    if fleet.failures is None:
        return None
    for index in decode:
        if plan.pools[index].scheduler.policy != "fcfs":
            return f"fleet.failures: pools[{index}].scheduler.policy: decode pools first come first served only"
    if plan.transfer.mode == "push" and len(decode) > 1:
        return "fleet.failures: transfer.mode=push with several decode pools: not simulated (allowed: one, or pull)"
    return None
