"""The plans of a space, one at a time: families of equal pools that differ in the numbers of their replicas only.

    colocated       one pool that serves
    disaggregated   one that prefills and one that decodes, with as many replicas of each as there is room for
    mixed           two that serve, each on devices of another kind
    encoded         one that encodes images beside any of these; it comes last, as it stands behind the others

Nothing is made before it is asked for, and no plan twice. A pool stands on one group of the cluster's devices. Another
kind of plan is one more generator in ``KINDS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, combinations, groupby, islice, product

from apexsim.cost.kvlinks import crowded
from apexsim.search.space import Space
from apexsim.spec.cluster import Cluster
from apexsim.spec.plan import Plan, Pool, Role, Scheduler

Family = tuple[Plan, ...]
Fits = Callable[[Pool], bool]
Room = Mapping[str | None, int]
"""Devices that there are, by what a pool calls them; None where the cluster has one kind."""


def plans(
    space: Space,
    model: str,
    cluster: Cluster,
    *,
    may_fit: Callable[[Pool], bool] = lambda pool: True,
    usd_per_hour: Callable[[Plan], float | None] | None = None,
) -> Iterator[Plan]:
    """Every combination that the cluster and the limits have room for, always in the same order.

    Args:
        may_fit: False for a pool that its devices cannot hold or run whatever it is combined with. Such a pool is in
            one plan of its kind, so that its reason is given, and in no other.
        usd_per_hour: of a plan's devices, for ``max_usd_per_hour``; a plan whose price nobody knows is within it.
    """
    for pools in (pools for kind in KINDS for pools in kind(space, cluster, may_fit)):
        devices = sum(pool.devices for pool in pools)
        if devices < (space.min_devices or 1) or devices > (space.max_devices or devices):
            continue
        plan = Plan(
            model=model, cluster=cluster, pools=pools, router=space.router, engine=space.engine,
            engine_version=space.engine_version,
        )  # fmt: skip
        if space.disaggregated is not None and any(pool.role == "prefill" for pool in pools):
            plan = plan.model_copy(update={"transfer": space.disaggregated.transfer})
        if space.max_usd_per_hour is None or usd_per_hour is None:
            yield plan
            continue
        price = usd_per_hour(plan)
        if price is None or price <= space.max_usd_per_hour * (1 + 1e-12):
            yield plan


def families(plans: Iterable[Plan]) -> Iterator[Family]:
    """Plans that follow one another and differ only in the numbers of replicas, together."""
    for _, family in groupby(plans, key=lambda plan: tuple(shape_of(pool) for pool in plan.pools)):
        yield tuple(family)


def shape_of(pool: Pool) -> Pool:
    """The pool with one replica: what it costs to compute does not depend on their number."""
    return pool if pool.replicas == 1 else pool.model_copy(update={"replicas": 1})


def _colocated(space: Space, cluster: Cluster, may_fit: Fits) -> Iterator[tuple[Pool, ...]]:
    if not space.colocated or space.encodes_apart:
        return
    room = _room(cluster)
    for shape in _shapes(space, room, "serve"):
        for replicas in space.replicas:
            if replicas * shape.devices_per_replica <= room[shape.device]:
                yield (shape.model_copy(update={"replicas": replicas}),)


def _disaggregated(space: Space, cluster: Cluster, may_fit: Fits) -> Iterator[tuple[Pool, ...]]:
    if space.disaggregated is None or space.encodes_apart:
        return
    room = _room(cluster)
    prefill, decode = space.phase("prefill"), space.phase("decode")
    sources = _by_fit(_shapes(prefill, room, "prefill"), may_fit)
    sinks = _by_fit(_shapes(decode, room, "decode"), may_fit)
    for source, sink in _pairs(sources, sinks, lambda a, b: a.kv_cache == b.kv_cache):  # KV goes over as it is
        made = _replicated(cluster, room, (source, sink), (prefill.replicas, decode.replicas))
        yield from made if may_fit(source) and may_fit(sink) else islice(made, 1)


def _mixed(space: Space, cluster: Cluster, may_fit: Fits) -> Iterator[tuple[Pool, ...]]:
    if space.mixed is None or space.encodes_apart:
        return
    room, own = _room(cluster), space.phase("serve")
    shapes = list(_shapes(own, room, "serve"))
    for one, other in combinations(dict.fromkeys(shape.device for shape in shapes), 2):
        here = _by_fit((shape for shape in shapes if shape.device == one), may_fit)
        there = _by_fit((shape for shape in shapes if shape.device == other), may_fit)
        for pair in _pairs(here, there, _scheduled_alike):
            made = _replicated(cluster, room, pair, (own.replicas, own.replicas))
            yield from made if all(map(may_fit, pair)) else islice(made, 1)


def _scheduled_alike(one: Pool, other: Pool) -> bool:
    """One scheduler on both kinds of devices; degrees and formats are each pool's own."""
    return one.scheduler == other.scheduler and one.speculative == other.speculative


def _encoded(space: Space, cluster: Cluster, may_fit: Fits) -> Iterator[tuple[Pool, ...]]:
    if space.encode is None:
        return
    others = space.model_copy(update={"vision": False, "encode": None})
    for unit in _encoders(space, cluster):
        for kind in (_colocated, _disaggregated, _mixed):
            for pools in kind(others, cluster, may_fit):
                numbers = [n for n in space.encode.replicas if n > 1 or not unit.irp or False not in space.encode.irp]
                for replicas in numbers if all(map(may_fit, pools)) else numbers[:1]:
                    with_encoders = (*pools, unit.model_copy(update={"replicas": replicas}))
                    if crowded(cluster, with_encoders) is None:
                        yield with_encoders


def _encoders(space: Space, cluster: Cluster) -> Iterator[Pool]:
    """A unit that encodes, on each kind of devices."""
    assert space.encode is not None
    allowed = space.encode.device or space.device
    names = [name for name in _room(cluster) if name is None or allowed is None or name in allowed]
    for name, batch, irp in product(names, space.encode.encode_batch, space.encode.irp):
        yield Pool(role="encode", device=name, encode_batch=batch, irp=irp)


def _replicated(
    cluster: Cluster, room: Room, pair: tuple[Pool, Pool], replicas: tuple[Iterable[int], Iterable[int]]
) -> Iterator[tuple[Pool, ...]]:
    """A pair of pools in all numbers of replicas that there are devices for."""
    for numbers in _counts(room, *pair, *replicas):
        pools = tuple(pool.model_copy(update={"replicas": n}) for pool, n in zip(pair, numbers, strict=True))
        if crowded(cluster, pools) is None:
            yield pools


def _by_fit(shapes: Iterable[Pool], may_fit: Fits) -> tuple[list[Pool], list[Pool]]:
    """(those that may fit, those that do not): some hundred values, of which there are many combinations."""
    kept = list(shapes)
    return [shape for shape in kept if may_fit(shape)], [shape for shape in kept if not may_fit(shape)]


def _pairs(
    ones: tuple[list[Pool], list[Pool]], others: tuple[list[Pool], list[Pool]], go: Callable[[Pool, Pool], bool]
) -> Iterator[tuple[Pool, Pool]]:
    """Every two pools that ``go`` together; those that do not fit with one each."""
    yield from ((a, b) for a in ones[0] for b in others[0] if go(a, b))
    for misfit in ones[1]:
        yield from islice(((misfit, b) for b in chain(*others) if go(misfit, b)), 1)
    for misfit in others[1]:
        yield from islice(((a, misfit) for a in chain(*ones) if go(a, misfit)), 1)


KINDS: tuple[Callable[[Space, Cluster, Fits], Iterator[tuple[Pool, ...]]], ...] = (
    _colocated, _disaggregated, _mixed, _encoded
)  # fmt: skip


def _room(cluster: Cluster) -> Room:
    if not cluster.other_groups:
        return {None: cluster.devices}
    return {group.device: group.devices_per_node * group.nodes for group in cluster.groups}


def _counts(
    room: Room, source: Pool, sink: Pool, sources: Iterable[int], sinks: Iterable[int]
) -> Iterator[tuple[int, int]]:
    """(replicas of ``source``, of ``sink``) that there are devices for."""
    for here in sources:
        taken = here * source.devices_per_replica
        left = room[sink.device] - (taken if source.device == sink.device else 0)
        if taken <= room[source.device]:
            yield from ((here, there) for there in sinks if there * sink.devices_per_replica <= left)


def _shapes(space: Space, room: Room, role: Role) -> Iterator[Pool]:
    """One replica in every shape, precision and with every scheduler of the space, on each group that holds it."""
    names = [name for name in room if name is None or space.device is None or name in space.device]
    for name, tp, pp, dp, cp in product(names, space.tp, space.pp, space.dp, space.cp):
        if tp * pp * dp * cp > room[name]:
            continue
        for ep in _expert_degrees(space, tp * dp):
            sees = space.vision and role != "decode"
            pool = Pool(role=role, tp=tp, pp=pp, dp=dp, cp=cp, ep=ep, device=name, vision=sees)
            yield from _variants(space, pool)


def _expert_degrees(space: Space, devices: int) -> tuple[int, ...]:
    """Those of the space that ``devices`` attention devices of a replica can have, each once."""
    degrees = [devices if degree == "all" else degree for degree in space.ep]
    return tuple(dict.fromkeys(degree for degree in degrees if devices % degree == 0))


def _variants(space: Space, pool: Pool) -> Iterator[Pool]:
    formats = product(space.weights, space.activations, space.kv_cache, space.speculative, space.kv_tiers)
    for weights, activations, kv_cache, speculative, tiers in formats:
        for scheduler in _schedulers(space):
            chosen = {
                "weights": weights, "activations": activations, "kv_cache": kv_cache, "scheduler": scheduler,
                "speculative": speculative, "kv_tiers": tiers,
            }  # fmt: skip
            yield pool.model_copy(update=chosen)


def _schedulers(space: Space) -> Iterator[Scheduler]:
    limits = product(
        space.preset, space.max_num_batched_tokens, space.max_num_seqs, space.long_prefill_token_threshold
    )
    for preset, tokens, seqs, longest in limits:
        yield Scheduler(
            preset=preset, max_num_batched_tokens=tokens, max_num_seqs=seqs, prefix_caching=space.prefix_caching,
            long_prefill_token_threshold=longest,
        )  # fmt: skip
