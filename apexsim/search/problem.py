"""What is asked: a model, a cluster, a load, an SLO and an objective. A value, without plans or results."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from apexsim import registry
from apexsim.cost.precision import check_dtypes
from apexsim.engine.schedulers import preset_names
from apexsim.errors import InputError, UsageError, unknown_name
from apexsim.search.combinations import plans
from apexsim.search.figures import Figure, figure_named
from apexsim.search.limits import UNLIMITED, Limits, check_limits, limited, overridden
from apexsim.search.pareto import AXES, axes_named
from apexsim.search.space import Space, default_space, load_space
from apexsim.spec import catalog
from apexsim.spec.cluster import Cluster
from apexsim.spec.formats import weight_bytes
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.legality import check_cluster
from apexsim.spec.model import ModelSpec
from apexsim.spec.plan import Plan, Pool
from apexsim.spec.slo import SLO
from apexsim.workload.trace import Trace
from apexsim.workload.transform import at_rate
from apexsim.workload.visual import has_images, with_visual_tokens

LEAST_WEIGHTS = 0.9
"""Of the bytes of a model's parameters at least so much must be in memory: counts of parameters are not exact."""


@dataclass(frozen=True)
class Problem:
    """One search's question.

    Attributes:
        model_name: as the user wrote it; plans carry it.
        trace: the load at the rate of the search.
        profile: of the devices of the cluster's first group.
        price_usd_per_hour: of one device, whatever it is; None where nobody knows one, or each group has its own.
        carbon_g_per_kwh: intensity of the electricity; None where not given.
        seed: of everything drawn at random (routers).
        chosen_axes: of the Pareto front, as they were asked for; empty where nobody did.
        overridden: a few words for each limit of the space that another one was given for.
    """

    model_name: str
    model: ModelSpec
    cluster: Cluster
    profile: HardwareProfile
    trace: Trace
    slo: SLO
    objective: Figure
    space: Space
    price_usd_per_hour: float | None
    carbon_g_per_kwh: float | None
    seed: int = 0
    chosen_axes: tuple[Figure, ...] = ()
    overridden: tuple[str, ...] = ()

    @property
    def axes(self) -> tuple[Figure, ...]:
        """What the Pareto front compares."""
        return self.chosen_axes or AXES

    @property
    def rate_rps(self) -> float:
        """The rate (requests/s) at which a plan must meet the SLO to be ranked."""
        return self.trace.rate_rps

    @property
    def _images(self) -> tuple[Any, ...]:
        """What the answer depends on where requests bring images; nothing of it where none does."""
        trace = self.trace
        return (trace.images, trace.visual_tokens) if has_images(trace) else ()

    @property
    def _unasked(self) -> set[str]:
        """Keys of the space that ask for nothing here: they name no question anew."""
        space, off = self.space, set() if self._images else {"vision"}
        return off | {key for key in ("encode", "mixed") if getattr(space, key) is None}

    def may_fit(self, pool: Pool) -> bool:
        """False where a replica's devices lack the units for its formats, or memory for the weights alone."""
        own, profile = weight_bytes(pool.weights) if pool.weights else self._lightest, self.profile_of(pool)
        memory = profile.memory_bytes * pool.devices_per_replica
        if LEAST_WEIGHTS * own * self.model.parameters > pool.gpu_memory_utilization * memory:
            return False
        return check_dtypes(profile, self.model, pool) is None

    @cached_property
    def _lightest(self) -> float:
        return min(map(weight_bytes, self.space.weights))

    @property
    def profiles(self) -> tuple[HardwareProfile, ...]:
        """Of the devices of each group of the cluster."""
        return (self.profile, *(catalog.device(group.device) for group in self.cluster.other_groups))

    def profile_of(self, pool: Pool) -> HardwareProfile:
        """The device of a pool."""
        return self.profile if pool.device in (None, self.profile.name) else catalog.device(str(pool.device))

    def price_of(self, pool: Pool) -> float | None:
        """USD per hour of one of its devices; None where nobody knows one."""
        given = self.price_usd_per_hour
        return given if given is not None else self.profile_of(pool).price_usd_per_hour

    def usd_per_hour(self, plan: Plan) -> float | None:
        """Of all devices of a plan; None where nobody knows the price of one."""
        prices = [(pool.devices, self.price_of(pool)) for pool in plan.pools]
        return None if any(price is None for _, price in prices) else sum(n * (price or 0.0) for n, price in prices)

    def usd_per_device_hour(self, plan: Plan) -> float | None:
        """The mean over the devices of a plan."""
        whole = self.usd_per_hour(plan)
        return None if whole is None else whole / plan.devices

    def plans(self) -> Iterator[Plan]:
        """The plans of the space, one at a time."""
        return plans(
            self.space, self.model_name, self.cluster, may_fit=self.may_fit, usd_per_hour=self.usd_per_hour
        )

    @cached_property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits of all that the answer depends on; equal questions have the same."""
        digest = hashlib.sha256()
        trace = self.trace
        for column in (
            trace.arrival_s, trace.input_tokens, trace.output_tokens, trace.session, trace.shared_prefix_tokens,
            trace.hash_ids, *self._images,
        ):  # fmt: skip
            digest.update(b"-" if column is None else column.tobytes())
        if trace.hash_offsets is not None:
            digest.update(trace.hash_offsets.tobytes() + str(trace.hash_block_tokens).encode())
        words: dict[str, Any] = {
            "model": self.model.model_dump(mode="json", exclude=None if self._images else {"vision"}),
            "cluster": self.cluster.model_dump(mode="json"),
            "profile": self.profile.model_dump(mode="json"),
            "others": [other.model_dump(mode="json") for other in self.profiles[1:]],
            "slo": str(self.slo),
            "objective": self.objective.name,
            "space": self.space.model_dump(mode="json", exclude=self._unasked),
            "price": self.price_usd_per_hour,
            "carbon": self.carbon_g_per_kwh,
            "seed": self.seed,
        }
        if self.chosen_axes:
            words["pareto"] = [axis.name for axis in self.chosen_axes]
        digest.update(json.dumps(words, sort_keys=True).encode())
        return digest.hexdigest()[:8]

    @property
    def run_name(self) -> str:
        """The default name of the folder of results."""
        cluster = str(self.cluster).replace("+", "-")
        return f"{self.model.name}-{cluster}-{self.fingerprint}"


def make_problem(
    model: str,
    cluster: Cluster,
    trace: Trace,
    slo: SLO,
    *,
    objective: str = "goodput",
    rate_rps: float | None = None,
    price_usd_per_hour: float | None = None,
    carbon_g_per_kwh: float | None = None,
    space: Space | Mapping[str, Any] | Path | str | None = None,
    limits: Limits = UNLIMITED,
    pareto: str | Sequence[str] | None = None,
    seed: int = 0,
) -> Problem:
    """The question, with the model, the device and the space looked up and every figure checked.

    Args:
        rate_rps: offer the trace at this rate instead of its own.
        space: the lists to search, or those that differ from ``default_space`` as a mapping or a YAML file.
        limits: in the place of the space's own.
        pareto: names of the figures that the Pareto front compares, two or more; the usual ones where None.

    Raises:
        UsageError: an unknown name, a rate of 0, a negative figure, an objective that lacks its price, a limit that
            cannot be.
        InputError: a model or space file that cannot be read.
    """
    _check_not_negative("--price", price_usd_per_hour)
    _check_not_negative("--carbon", carbon_g_per_kwh)
    spec, profiles, price = catalog.model(model), _profiles(cluster), price_usd_per_hour
    profile = profiles[0]
    if price is None and not cluster.other_groups:
        price = profile.price_usd_per_hour
    prices = [each.price_usd_per_hour if price is None else price for each in profiles]
    wanted = figure_named(objective, carbon_g_per_kwh)
    axes = () if pareto is None else axes_named(pareto, carbon_g_per_kwh)
    for what, figure in (("objective", wanted), *(("--pareto", axis) for axis in axes)):
        for each, known in zip(profiles, prices, strict=True):
            _check_figures(f"{what} {figure.name}", figure, each, known, carbon_g_per_kwh)
    check_limits(limits, cluster, [each.name for each, known in zip(profiles, prices, strict=True) if known is None])
    space = _the_space(space, default_space(spec, profile, cluster), cluster, trace)
    return Problem(
        model_name=model,
        model=spec,
        cluster=cluster,
        profile=profile,
        trace=_offered(trace, rate_rps, spec),
        slo=slo,
        objective=wanted,
        space=limited(space, limits),
        price_usd_per_hour=price,
        carbon_g_per_kwh=carbon_g_per_kwh,
        seed=seed,
        chosen_axes=axes,
        overridden=overridden(space, limits),
    )


def _profiles(cluster: Cluster) -> list[HardwareProfile]:
    """Of the cluster's groups; UsageError for a node that the device is not sold in."""
    profiles = [catalog.device(group.device) for group in cluster.groups]
    for each in profiles:
        no_such_node = check_cluster(each, cluster.only(each.name))
        if no_such_node is not None:
            raise UsageError(no_such_node)
    return profiles


def _the_space(
    asked: Space | Mapping[str, Any] | Path | str | None, usual: Space, cluster: Cluster, trace: Trace
) -> Space:
    """The space that is asked for, checked, over the usual one."""
    if isinstance(asked, Space):
        space = asked
    else:
        usual = usual.model_copy(update={"vision": has_images(trace)})
        space = usual if asked is None else load_space(asked, usual)
    _check_space(space, cluster, trace, str(asked) if isinstance(asked, Path | str) else "space")
    return space


def _check_space(space: Space, cluster: Cluster, trace: Trace, source: str) -> None:
    """Refuse names that nobody knows, devices that the cluster has not, and kinds of plans that there is no use for.

    A wrong name would make each plan illegal, or half of them without a word.

    Args:
        source: the file where the space stands, or "space".
    """
    error = UsageError if source == "space" else InputError
    devices = [group.device for group in cluster.groups]
    phases = () if space.disaggregated is None else (space.disaggregated.prefill, space.disaggregated.decode)
    for each in (space, *phases, space.encode, space.mixed):
        asked = {"device": getattr(each, "device", None), "preset": getattr(each, "preset", None)}
        for key, known in (("device", devices), ("preset", preset_names())):
            for name in set(asked[key] or ()) - set(known):
                raise error(f"{source}: {key}: {unknown_name(key, name, known)}")
    if space.router not in registry.names("routers"):
        raise error(f"{source}: router: {unknown_name('router', space.router, registry.names('routers'))}")
    if space.encode is not None and not has_images(trace):
        raise error(f"{source}: encode: no request of {trace.name} brings an image (leave the key out)")
    if space.mixed is not None and len(set(devices)) == 1:
        raise error(f"{source}: mixed: the cluster {cluster} has one kind of devices, {devices[0]} (leave the key out)")
    if not space.colocated and space.disaggregated is None and space.mixed is None:
        raise error(f"{source}: colocated = false leaves no plan (write disaggregated: {{}} beside it)")


def _offered(trace: Trace, rate_rps: float | None, model: ModelSpec) -> Trace:
    """The trace at the search's rate, with what images are for the model; goodput needs one that can be scaled."""
    if rate_rps is not None and not (math.isfinite(rate_rps) and rate_rps > 0):
        raise UsageError(f"--rate {rate_rps:g}: must be more than 0")
    if trace.span_s <= 0:
        raise UsageError(
            f"{trace.name}: all requests arrive at once, so there is no rate to search over "
            "(`apexsim simulate` takes such a trace)"
        )
    offered = trace if rate_rps is None else at_rate(trace, rate_rps)
    return with_visual_tokens(offered, model.vision.visual_tokens if model.vision else None, model.name)


def _check_not_negative(flag: str, value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise UsageError(f"{flag} {value:g}: must be 0 or more")


def _check_figures(
    what: str, figure: Figure, profile: HardwareProfile, price: float | None, carbon: float | None
) -> None:
    """An objective whose figure nobody knows would rank by nothing, and an axis compare nothing."""
    if figure.name == "cost" and price is None:
        raise UsageError(f"{what}: {profile.name} has no price; give --price, USD per device-hour")
    if figure.name == "carbon" and carbon is None:
        raise UsageError(f"{what}: give --carbon, the g CO2e per kWh of your electricity")
    if figure.name in ("energy", "carbon") and profile.idle_w is None:
        raise UsageError(f"{what}: the power of {profile.name} is not known")
