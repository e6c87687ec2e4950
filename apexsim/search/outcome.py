"""What a search knows about a plan, before and after it has replayed it. Values only.

A plan is a ``Candidate`` once it fits; it ends as an ``Evaluation`` (it meets the SLO: it is ranked) or as
``Dropped`` (with the reason, never as a NaN or a zero).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from apexsim.spec.plan import Plan

Cause = Literal["illegal", "memory", "bound", "race", "slo", "goodput", "timeout", "failed"]
"""Why a plan is not ranked: it is no valid plan, does not fit, cannot be better, was not better in short replays,
misses the SLO at the search's rate, meets it there and yet at no rate once a warm-up is left out, took longer than a
plan may, crashed."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The best that a plan can possibly reach, proven from its step tables; no replay is better than this."""

    attainment: float = 1.0  # share of requests at the search's rate, at most
    goodput_rps: float = float("inf")  # requests/s, at most
    latency_s: float = 0.0  # median E2E at the search's rate, at least
    j_per_output_token: float | None = 0.0  # at goodput, at least; None where the profile knows no power
    usd_per_million_output_tokens: float | None = 0.0  # at goodput, at least; None where no price is known
    binds: str = ""  # the resource that sets the bound on goodput


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plan that fits its devices, with what it can reach at best."""

    plan: Plan
    bounds: Bounds

    @property
    def id(self) -> str:
        return self.plan.id


@dataclass(frozen=True, slots=True)
class Dropped:
    """A plan that is not ranked. ``miss`` tells how near it came: smaller is nearer, within one cause.

    For ``memory`` it is the bytes that a device lacks, for ``slo`` and ``goodput`` target − attainment.
    """

    plan: Plan
    cause: Cause
    reason: str
    miss: float = 0.0
    requests_simulated: int = 0

    @property
    def id(self) -> str:
        return self.plan.id

    @property
    def distance(self) -> tuple[bool, float, str]:
        """Sorts plans of one cause, the nearest first; what was replayed before what only a bound is known of."""
        return (self.requests_simulated == 0, self.miss, self.id)

    def to_dict(self) -> dict[str, Any]:
        """The entry of ``pruned`` in the search's JSON; there are thousands, so plans are without their defaults."""
        return {"plan": self.plan.model_dump(mode="json", exclude_defaults=True), "reason": self.reason}

    def to_entry(self) -> dict[str, Any]:
        """The entry of the journal; ``outcome_of`` reads it."""
        more = {"miss": self.miss, "requests_simulated": self.requests_simulated}
        return {"dropped": {"id": self.id, "cause": self.cause, **self.to_dict(), **more}}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A plan that meets the SLO at the search's rate, as it was replayed.

    Attributes:
        goodput_rps: the largest rate (requests/s) at which the SLO is met, after a warm-up (design §8).
        censored: the SLO was still met at the highest rate that was tried: goodput is at least this.
        at_goodput: attainment, j_per_output_token and usd_per_million_output_tokens of the replay at goodput.
        summary: the summary JSON of the replay at the search's rate.
        binds: the resource that keeps goodput from being higher, ``why`` the line that explains it.
        tested: (rate in requests/s, attainment) of each replay on the way to the goodput, in order.
        requests_simulated: requests of all replays of this plan.
        notes: what a reader must know of these figures: why goodput is censored, or below the search's rate.
    """

    plan: Plan
    goodput_rps: float
    censored: bool
    at_goodput: dict[str, float | None]
    summary: dict[str, Any]
    binds: str
    why: str
    tested: tuple[tuple[float, float], ...] = ()
    requests_simulated: int = 0
    notes: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return self.plan.id

    @property
    def goodput_rps_per_device(self) -> float:
        return self.goodput_rps / self.plan.devices

    def to_dict(self, rank: int) -> dict[str, Any]:
        """The entry of ``plans`` in the search's JSON."""
        return {
            "rank": rank,
            "id": self.id,
            "plan": self.plan.model_dump(mode="json"),
            "goodput_rps": self.goodput_rps,
            "goodput_rps_per_device": self.goodput_rps_per_device,
            "censored": self.censored,
            "at_goodput": self.at_goodput,
            "binds": self.binds,
            "why": self.why,
            "notes": list(self.notes),
            "summary": self.summary,
        }

    def to_entry(self) -> dict[str, Any]:
        """The entry of the journal; ``outcome_of`` reads it."""
        evaluated = self.to_dict(rank=0)
        del evaluated["rank"]
        more = {"tested": self.tested, "requests_simulated": self.requests_simulated}
        return {"evaluated": evaluated | more}


def outcome_of(entry: Mapping[str, Any]) -> Evaluation | Dropped:
    """What ``to_entry`` made the entry of, to the last digit."""
    kind, data = next(iter(entry.items()))
    data = dict(data) | {"plan": Plan.model_validate(data["plan"])}
    del data["id"]
    if kind == "dropped":
        return Dropped(**data)
    del data["goodput_rps_per_device"]
    tested = tuple((rate_rps, share) for rate_rps, share in data["tested"])
    return Evaluation(**data | {"tested": tested, "notes": tuple(data["notes"])})
