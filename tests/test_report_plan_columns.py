"""``plans.parquet``: knobs of every pool have columns, whole numbers stay whole, and the plan itself is there."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from apexsim.report.plan_columns import plan_row, plan_table, prefixes_of
from apexsim.search.outcome import Evaluation
from apexsim.spec.catalog import cluster
from apexsim.spec.plan import Plan, Pool, Scheduler

STATISTICS = dict.fromkeys(("mean", "p50", "p90", "p99"), 1.0)
SUMMARY = {
    **{f"{name}_s": STATISTICS for name in ("ttft", "tpot", "e2e", "queue")},
    "slo": {"attainment": 1.0}, "memory": {"kv_peak_fraction": 0.5}, "preemptions": 0,
}  # fmt: skip


def evaluation(*pools: Pool, **changes: object) -> Evaluation:
    plan = Plan(model="toy", cluster=cluster("8xh100-sxm"), pools=pools, **changes)
    figures = {"attainment": 0.9, "j_per_output_token": 1.0, "usd_per_million_output_tokens": None}
    return Evaluation(plan, 2.0, False, figures, SUMMARY, "compute", "toy")


ONE = evaluation(Pool(tp=2, scheduler=Scheduler(max_num_seqs=64)))
TWO = evaluation(
    Pool(role="prefill", tp=4, kv_cache="fp8"),
    Pool(role="decode", tp=2, replicas=2, kv_cache="fp8", scheduler=Scheduler(max_num_seqs=128)),
    router="round-robin",
)
THREE = evaluation(
    Pool(role="encode", replicas=3), Pool(role="prefill", tp=1, weights="fp8"), Pool(role="decode", tp=4)
)


MIXED = evaluation(Pool(tp=2), Pool(tp=1, replicas=2))


def table(*evaluations: Evaluation) -> pd.DataFrame:
    prefixes = prefixes_of(e.plan for e in evaluations)
    return plan_table([plan_row(place, e, True, prefixes) for place, e in enumerate(evaluations, start=1)])


def test_plans_of_one_pool_have_no_columns_of_others():
    found = table(ONE)
    assert not [name for name in found if name.startswith(("decode_", "encode_"))]
    assert found.loc[0, ["roles", "tp", "max_num_seqs", "router", "engine"]].tolist() == [
        "serve", 2, 64, "least-loaded", "vllm"
    ]  # fmt: skip
    assert found["max_num_seqs"].dtype == "int64"


def test_every_pool_of_a_plan_has_its_columns():
    found = table(TWO, ONE, THREE)
    assert found["roles"].tolist() == ["prefill+decode", "serve", "encode+prefill+decode"]
    assert found["tp"].tolist() == [4, 2, 1]
    assert found["decode_tp"].tolist() == [2, pd.NA, 4]
    assert found["decode_replicas"].tolist() == [2, pd.NA, 1]
    assert found["encode_replicas"].tolist() == [pd.NA, pd.NA, 3]
    assert found["weights"].isna().tolist() == [True, True, False]
    assert found["router"].tolist()[0] == "round-robin"
    assert found["decode_max_num_seqs"].dtype == "Int64"


def test_a_second_pool_with_the_same_role_is_not_lost():
    found = table(MIXED, ONE)
    assert found["serve2_replicas"].tolist() == [2, pd.NA]
    assert found["roles"].tolist() == ["serve+serve", "serve"]


@pytest.mark.parametrize("one", [ONE, TWO, THREE, MIXED])
def test_the_whole_plan_can_be_read_back(one, tmp_path):
    table(one, TWO).to_parquet(tmp_path / "plans.parquet")
    back = pd.read_parquet(tmp_path / "plans.parquet")
    plan = Plan.model_validate(json.loads(back.loc[0, "plan"]))
    assert plan == one.plan
    assert plan.id == back.loc[0, "id"]
