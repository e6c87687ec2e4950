"""A ranked plan as one row of ``plans.parquet``: its knobs, pool by pool, and what it reached.

Columns without a prefix are of the pool that serves, or that prefills where pools have phases. Those of other pools
begin with their role, ``decode_`` or ``encode_``, of a second one with that role with ``serve2_``; they are there where
a plan of the table has such a pool. ``plan`` is the whole plan as JSON, whatever has no column.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from apexsim.search.outcome import Evaluation
from apexsim.spec.plan import Plan, Pool


def plan_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The rows as a table: whole numbers stay whole where some plans have none."""
    table = pd.DataFrame(rows)
    whole = [name for name in table if any(isinstance(row.get(str(name)), int) for row in rows)]
    some = {name: "Int64" for name in whole if table[name].dtype == float and table[name].isna().any()}
    return table.astype(some)


def plan_row(place: int, evaluation: Evaluation, on_front: bool, prefixes: Sequence[str]) -> dict[str, Any]:
    """One row. ``prefixes``: of the columns of all pools of the table."""
    plan, summary = evaluation.plan, evaluation.summary
    pools = _by_prefix(plan)
    none = dict.fromkeys(_knobs(pools[""]))
    latencies = {
        f"{name}_{statistic}_s": summary[f"{name}_s"][statistic]
        for name in ("ttft", "tpot", "e2e", "queue")
        for statistic in ("mean", "p50", "p90", "p99")
    }
    return {
        "rank": place,
        "id": evaluation.id,
        "devices": plan.devices,
        **{
            prefix + name: value
            for prefix in prefixes
            for name, value in (_knobs(pools[prefix]) if prefix in pools else none).items()
        },
        "roles": "+".join(pool.role for pool in plan.pools),
        "router": plan.router if isinstance(plan.router, str) else json.dumps(plan.router),
        "transfer": (plan.transfer.id or "default") if len(plan.pools) > 1 else None,
        "engine": plan.engine,
        "engine_version": plan.engine_version,
        "goodput_rps": evaluation.goodput_rps,
        "goodput_rps_per_device": evaluation.goodput_rps_per_device,
        "censored": evaluation.censored,
        **{f"{key}_at_goodput": value for key, value in evaluation.at_goodput.items()},
        "attainment": summary["slo"]["attainment"],
        **latencies,
        "kv_peak_fraction": summary["memory"]["kv_peak_fraction"],
        "preemptions": summary["preemptions"],
        "on_pareto_front": on_front,
        "binds": evaluation.binds,
        "why": evaluation.why,
        "notes": "; ".join(evaluation.notes),
        "plan": json.dumps(plan.model_dump(mode="json", exclude_defaults=True)),
    }


def prefixes_of(plans: Iterable[Plan]) -> tuple[str, ...]:
    """Of the columns of all pools of the plans; "" first."""
    return tuple(dict.fromkeys(prefix for plan in plans for prefix in _by_prefix(plan)))


def _by_prefix(plan: Plan) -> dict[str, Pool]:
    """The pool that serves or prefills under "", the others under what their columns begin with."""
    first = next((pool for pool in plan.pools if pool.role in ("serve", "prefill")), plan.pools[0])
    found, seen = {"": first}, [first.role]
    for pool in plan.pools:
        if pool is not first:
            seen.append(pool.role)
            number = seen.count(pool.role)
            found[f"{pool.role}{number if number > 1 else ''}_"] = pool
    return found


def _knobs(pool: Pool) -> dict[str, Any]:
    return {
        "replicas": pool.replicas,
        "tp": pool.tp,
        "pp": pool.pp,
        "dp": pool.dp,
        "cp": pool.cp,
        "ep": pool.ep,
        "weights": pool.weights,
        "activations": pool.activations,
        "kv_cache": pool.kv_cache,
        "device": pool.device,
        "preset": pool.scheduler.preset,
        "max_num_batched_tokens": pool.scheduler.max_num_batched_tokens,
        "max_num_seqs": pool.scheduler.max_num_seqs,
        "long_prefill_token_threshold": pool.scheduler.long_prefill_token_threshold,
        "prefix_caching": pool.scheduler.prefix_caching,
        "speculative": pool.speculative.id if pool.speculative else None,
        "kv_tiers": " ".join(tier.short for tier in pool.kv_tiers) or None,
    }
