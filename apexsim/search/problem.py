"""What is asked: a model, a cluster, a load, an SLO and an objective. A value, without plans or results."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from apexsim.errors import UsageError, unknown_name
from apexsim.search.combinations import plans
from apexsim.search.objectives import Objective, objective_named
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
    """

    model_name: str
    model: ModelSpec
    cluster: Cluster
    profile: HardwareProfile
    trace: Trace
    slo: SLO
    objective: Objective
    space: Space
    price_usd_per_hour: float | None
    carbon_g_per_kwh: float | None
    seed: int = 0

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
        """False where the weights alone are more than the memory of a replica's devices."""
        own = weight_bytes(pool.weights) if pool.weights else min(map(weight_bytes, self.space.weights))
        memory = self.profile_of(pool).memory_bytes * pool.devices_per_replica
        return LEAST_WEIGHTS * own * self.model.parameters <= pool.gpu_memory_utilization * memory

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
        words = {
            "model": self.model.model_dump(mode="json", exclude=None if self._images else {"vision"}),
            "cluster": self.cluster.model_dump(mode="json"),
            "profile": self.profile.model_dump(mode="json"),
            "others": [catalog.device(group.device).model_dump(mode="json") for group in self.cluster.other_groups],
            "slo": str(self.slo),
            "objective": self.objective.name,
            "space": self.space.model_dump(mode="json", exclude=self._unasked),
            "price": self.price_usd_per_hour,
            "carbon": self.carbon_g_per_kwh,
            "seed": self.seed,
        }
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
    seed: int = 0,
) -> Problem:
    """The question, with the model, the device and the space looked up and every figure checked.

    Args:
        rate_rps: offer the trace at this rate instead of its own.
        space: the lists to search, or those that differ from ``default_space`` as a mapping or a YAML file.

    Raises:
        UsageError: an unknown name, a rate of 0, a negative figure, an objective that lacks its price.
        InputError: a model or space file that cannot be read.
    """
    if rate_rps is not None and not (math.isfinite(rate_rps) and rate_rps > 0):
        raise UsageError(f"--rate {rate_rps:g}: must be more than 0")
    _check_not_negative("--price", price_usd_per_hour)
    _check_not_negative("--carbon", carbon_g_per_kwh)
    spec, profiles = catalog.model(model), [catalog.device(group.device) for group in cluster.groups]
    profile = profiles[0]
    for each in profiles:
        no_such_node = check_cluster(each, cluster.only(each.name))
        if no_such_node is not None:
            raise UsageError(no_such_node)
    price = price_usd_per_hour
    if price is None and not cluster.other_groups:
        price = profile.price_usd_per_hour
    wanted = objective_named(objective, carbon_g_per_kwh)
    for each in profiles:
        known = each.price_usd_per_hour if price is None else price
        _check_figures(wanted, each, known, carbon_g_per_kwh)
    if not isinstance(space, Space):
        usual = default_space(spec, profile, cluster).model_copy(update={"vision": has_images(trace)})
        space = usual if space is None else load_space(space, usual)
    _check_space(space, cluster, trace)
    return Problem(
        model_name=model,
        model=spec,
        cluster=cluster,
        profile=profile,
        trace=with_visual_tokens(
            _offered(trace, rate_rps), spec.vision.visual_tokens if spec.vision else None, spec.name
        ),
        slo=slo,
        objective=wanted,
        space=space,
        price_usd_per_hour=price,
        carbon_g_per_kwh=carbon_g_per_kwh,
        seed=seed,
    )


def _check_space(space: Space, cluster: Cluster, trace: Trace) -> None:
    """Raise UsageError for devices that the cluster has not, and kinds of plans that it or the load has no use for."""
    names = [group.device for group in cluster.groups]
    phases = () if space.disaggregated is None else (space.disaggregated.prefill, space.disaggregated.decode)
    for each in (space, *phases, space.encode, space.mixed):
        for name in (each.device if each is not None else None) or ():
            if name not in names:
                raise UsageError(f"space: device: {unknown_name('device', name, names)}")
    if space.encode is not None and not has_images(trace):
        raise UsageError(f"space: encode: no request of {trace.name} brings an image (leave the key out)")
    if space.mixed is not None and len(set(names)) == 1:
        raise UsageError(f"space: mixed: the cluster {cluster} has one kind of devices, {names[0]} (leave the key out)")


def _offered(trace: Trace, rate_rps: float | None) -> Trace:
    """The trace at the search's rate; goodput needs one that can be scaled."""
    if trace.span_s <= 0:
        raise UsageError(
            f"{trace.name}: all requests arrive at once, so there is no rate to search over "
            "(`apexsim simulate` takes such a trace)"
        )
    return trace if rate_rps is None else at_rate(trace, rate_rps)


def _check_not_negative(flag: str, value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise UsageError(f"{flag} {value:g}: must be 0 or more")


def _check_figures(
    objective: Objective, profile: HardwareProfile, price: float | None, carbon: float | None
) -> None:
    """An objective whose figure nobody knows would rank by nothing."""
    if objective.name == "cost" and price is None:
        raise UsageError(f"objective cost: {profile.name} has no price; give --price, USD per device-hour")
    if objective.name == "carbon" and carbon is None:
        raise UsageError("objective carbon: give --carbon, the g CO2e per kWh of your electricity")
    if objective.name in ("energy", "carbon") and profile.idle_w is None:
        raise UsageError(f"objective {objective.name}: the power of {profile.name} is not known")
