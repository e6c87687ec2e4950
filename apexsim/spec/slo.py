"""An SLO: limits on latency, and the share of requests (or the percentile) that must keep them.

Two forms (design §8). Joint, one share of requests that must meet all limits at once, 0.9 where left out:

    ttft=2s,tpot=100ms@0.9

Clauses, each with its own percentile; ``p99<=x`` means that the share of values up to x is at least 0.99:

    ttft:p99<=500ms;tpot:p95<=50ms
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Literal, get_args

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from apexsim.errors import UsageError, unknown_name
from apexsim.spec.base import Strict, parse
from apexsim.spec.units import format_number, format_seconds, parse_seconds

Metric = Literal["ttft", "tpot", "itl", "e2e", "queue"]
METRICS: tuple[str, ...] = get_args(Metric)
DEFAULT_TARGET = 0.9

_JOINT_LIMIT = re.compile(r"\s*([^=<>:\s]+)\s*=\s*([^=<>]+?)\s*")
_CLAUSE = re.compile(r"\s*([^=<>:\s]+)\s*:\s*p(\d+(?:\.\d+)?)\s*<=\s*([^=<>]+?)\s*")
_EXAMPLES = "ttft=2s,tpot=100ms@0.9 or ttft:p99<=500ms;tpot:p95<=50ms"


class Limit(Strict):
    """One bound on one metric."""

    metric: Metric = Field(description="what is limited: ttft, tpot, itl, e2e or queue")
    seconds: float = Field(gt=0, description="the largest value that keeps the limit")
    percentile: float | None = Field(
        None, gt=0, le=100, description="percentile of a clause; null in a joint SLO, whose target says it"
    )

    @property
    def share(self) -> float | None:
        """The share of values that must keep a clause: 0.99 for p99; None in a joint SLO."""
        return None if self.percentile is None else float(Decimal(repr(self.percentile)) / 100)


class SLO(Strict):
    """Limits that a service has to keep. ``str(slo)`` is the text that parses back to it."""

    mode: Literal["joint", "clauses"] = Field(
        "joint", description="joint: a share of requests meets all limits; clauses: a percentile for each"
    )
    limits: tuple[Limit, ...] = Field(
        min_length=1, strict=False, description="the limits, in the order they were written"
    )
    target: float = Field(
        DEFAULT_TARGET, gt=0, le=1, description="share of requests that must meet all limits; 1 for clauses"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, data: Any) -> Any:
        return _read(data) if isinstance(data, str) else data

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The mapping, and the text beside it."""
        return {"anyOf": [handler(core_schema), {"type": "string", "examples": ["ttft=2s,tpot=100ms@0.9"]}]}

    @model_validator(mode="after")
    def _consistent(self) -> SLO:
        joint = self.mode == "joint"
        for limit in self.limits:
            if joint != (limit.percentile is None):
                raise ValueError(
                    f"the {limit.metric} limit of a {self.mode} SLO needs "
                    f"{'no percentile' if joint else 'a percentile such as p99'}"
                )
        if not joint and self.target != 1:
            raise ValueError("clauses have percentiles and no target (it is 1: all must hold)")
        keys = [(limit.metric, limit.percentile) for limit in self.limits]
        if len(set(keys)) < len(keys):
            raise ValueError(f"a limit stands twice in {', '.join(limit.metric for limit in self.limits)}")
        return self

    def __str__(self) -> str:
        if self.mode == "joint":
            limits = ",".join(f"{limit.metric}={format_seconds(limit.seconds)}" for limit in self.limits)
            return f"{limits}@{format_number(self.target)}"
        return ";".join(f"{limit.metric}:{_bound(limit)}" for limit in self.limits)


def _bound(limit: Limit) -> str:
    return f"p{format_number(limit.percentile or 0)}<={format_seconds(limit.seconds)}"


def parse_slo(text: str) -> SLO:
    """The SLO that ``text`` says.

    Raises:
        UsageError: an unknown metric, a missing unit, a share outside (0, 1], a limit twice.
    """
    return parse(SLO, text, source=f"SLO {text!r}", error=UsageError)


def _read(text: str) -> dict[str, Any]:
    return _read_clauses(text) if "<=" in text or ":" in text else _read_joint(text)


def _read_joint(text: str) -> dict[str, Any]:
    limits, at, target = text.partition("@")
    return {
        "mode": "joint",
        "limits": [_limit(_JOINT_LIMIT, part, "metric=limit") for part in limits.split(",")],
        "target": _share(target) if at else DEFAULT_TARGET,
    }


def _read_clauses(text: str) -> dict[str, Any]:
    parts = [part for part in text.split(";") if part.strip()]
    limits = [_limit(_CLAUSE, part, "metric:pNN<=limit") for part in parts]
    return {"mode": "clauses", "limits": limits, "target": 1.0}


def _limit(pattern: re.Pattern[str], part: str, form: str) -> dict[str, Any]:
    match = pattern.fullmatch(part)
    if match is None:
        raise ValueError(f"{part.strip()!r} is not {form}; write {_EXAMPLES}")
    metric, *percentile, limit = match.groups()
    if metric.lower() not in METRICS:
        raise ValueError(unknown_name("metric", metric, METRICS))
    seconds = parse_seconds(limit)
    return {
        "metric": metric.lower(),
        "seconds": seconds,
        "percentile": float(percentile[0]) if percentile else None,
    }


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"the share {text.strip()!r} after @ is not a number in (0, 1]") from None
