"""The life of a fleet: replicas that are added and taken away, fail and come back, slow down, drain, change their role.

Instants count from the first arrival of the trace.
"""

from __future__ import annotations

import hashlib

from pydantic import Field, model_validator

from apexsim.spec.base import Strict
from apexsim.spec.units import Bandwidth, Seconds


class Autoscale(Strict):
    """How many replicas of a pool serve, by their load."""

    pool: int = Field(0, ge=0, description="which of the plan's pools, from 0")
    min_replicas: int = Field(1, ge=1, description="never fewer than these")
    max_replicas: int = Field(ge=1, description="never more than these; the cluster must hold them")
    target_requests: float | None = Field(
        None, gt=0, description="requests that wait or run in a replica, the mean over a period"
    )
    target_utilization: float | None = Field(
        None, gt=0, le=1, description="share of a period in which a replica runs an iteration"
    )
    period: Seconds = Field(15.0, gt=0, description="time between two looks at the load")
    provision: Seconds = Field(0.0, ge=0, description="from the wish for a replica until its devices are there")
    load: Seconds | None = Field(None, ge=0, description="from then until it serves: loading weights, starting up")
    load_bandwidth: Bandwidth | None = Field(
        None, gt=0, description="at which a replica loads its weights, in place of load"
    )
    cooldown: Seconds = Field(
        300.0, ge=0, description="fewer replicas only where no look within this time wanted more"
    )

    @model_validator(mode="after")
    def _is_one_rule(self) -> Autoscale:
        if (self.target_requests is None) == (self.target_utilization is None):
            raise ValueError("needs target_requests or target_utilization, one of them")
        if (self.load is None) == (self.load_bandwidth is None):
            raise ValueError("needs load or load_bandwidth, one of them")
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} exceeds max_replicas {self.max_replicas}")
        return self

    def load_seconds(self, weights_bytes: float) -> float:
        """How long a replica with so many bytes of weights loads: as stated, or at the stated bandwidth."""
        return weights_bytes / self.load_bandwidth if self.load_bandwidth is not None else self.load or 0.0


class Failure(Strict):
    """One replica fails at an instant."""

    pool: int = Field(0, ge=0, description="which of the plan's pools, from 0")
    replica: int = Field(ge=0, description="which of its replicas, from 0")
    at: Seconds = Field(ge=0, description="when it fails")
    repair: Seconds | None = Field(None, ge=0, description="until it serves again; never where left out")


class Failures(Strict):
    """Replicas that fail, by chance or at stated instants, and what becomes of their requests."""

    mtbf: Seconds | None = Field(None, gt=0, description="mean time that a replica serves until it fails")
    mttr: Seconds | None = Field(None, gt=0, description="mean time until it serves again, loading included")
    scheduled: tuple[Failure, ...] = Field((), strict=False, description="failures at stated instants")
    retries: int = Field(
        1, ge=0, description="how often a request is offered again, from scratch, before it has failed"
    )

    @model_validator(mode="after")
    def _has_both_means(self) -> Failures:
        if (self.mtbf is None) != (self.mttr is None):
            raise ValueError("mtbf and mttr belong together: give both, or neither")
        return self


class Straggler(Strict):
    """A replica whose iterations take longer than those of the others."""

    pool: int = Field(0, ge=0, description="which of the plan's pools, from 0")
    replica: int = Field(ge=0, description="which of its replicas, from 0")
    factor: float = Field(ge=1, description="on the time of each of its iterations")
    at: Seconds = Field(0.0, ge=0, description="from when on")
    until: Seconds | None = Field(None, gt=0, description="until when; to the end where left out")

    @model_validator(mode="after")
    def _ends_after_it_began(self) -> Straggler:
        if self.until is not None and self.until <= self.at:
            raise ValueError(f"until {self.until:g}s is not after at {self.at:g}s")
        return self


class Drain(Strict):
    """Maintenance: a replica takes nothing new, ends what it has, goes away and comes back."""

    pool: int = Field(0, ge=0, description="which of the plan's pools, from 0")
    replica: int = Field(ge=0, description="which of its replicas, from 0")
    at: Seconds = Field(ge=0, description="from when on it takes nothing new")
    away: Seconds = Field(ge=0, description="from when it has ended what it had until it serves again")


class SwitchPool(Strict):
    """A pool that replicas may leave for another, or come to."""

    pool: int = Field(ge=0, description="which of the plan's pools, from 0")
    target_requests: float = Field(gt=0, description="requests that wait or run in a replica where its load is 1")
    min_replicas: int = Field(1, ge=1, description="never fewer than these")


class Switch(Strict):
    """Replicas change their role: from the least loaded pool to the most loaded one."""

    pools: tuple[SwitchPool, ...] = Field(min_length=2, strict=False, description="between which pools")
    period: Seconds = Field(5.0, gt=0, description="time between two looks at the loads, means over it")
    migration: Seconds = Field(0.7, ge=0, description="from when a replica has drained until it serves elsewhere")
    hysteresis: float = Field(2.0, ge=1, description="how many times the lesser load the greater one must be")


class Fleet(Strict):
    """What happens to replicas while they serve; nothing where a key is left out."""

    seed: int = Field(0, ge=0, description="of the draws of failures, beside the seed of the run")
    autoscale: tuple[Autoscale, ...] = Field((), strict=False, description="pools whose size follows their load")
    failures: Failures | None = Field(None, description="replicas that fail, and retries")
    stragglers: tuple[Straggler, ...] = Field((), strict=False, description="replicas that are slower than others")
    drain: tuple[Drain, ...] = Field((), strict=False, description="maintenance of single replicas")
    switch: Switch | None = Field(None, description="replicas that change their role with the load")

    @property
    def is_on(self) -> bool:
        """False where nothing ever happens."""
        return self != Fleet(seed=self.seed)

    @property
    def id(self) -> str:
        """What tells it from others, for the plan's id; empty where nothing ever happens."""
        if not self.is_on:
            return ""
        words = [key for key in ("autoscale", "failures", "stragglers", "drain", "switch") if getattr(self, key)]
        digest = hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:8]
        return "-".join([*words, digest])

    def scaling(self, pool: int) -> Autoscale | None:
        """How a pool is scaled, or None."""
        return next((rule for rule in self.autoscale if rule.pool == pool), None)
