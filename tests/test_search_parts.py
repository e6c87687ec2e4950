"""The parts of a search by themselves: space, ranking, front, why, copies, executors, journal, problem."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexsim.errors import InputError, UsageError
from apexsim.metrics.goodput import goodput_trace
from apexsim.metrics.summary import Summary
from apexsim.scenario import run
from apexsim.search.combinations import plans
from apexsim.search.copies import GoodputLoads
from apexsim.search.evaluate import prepare_candidate
from apexsim.search.executors import Serial, executor
from apexsim.search.figures import FIGURES
from apexsim.search.journal import Journal, read
from apexsim.search.outcome import Evaluation
from apexsim.search.pareto import dominated, front, rank
from apexsim.search.problem import make_problem
from apexsim.search.space import Space, default_space, load_space
from apexsim.search.why import what_binds
from apexsim.spec import catalog
from apexsim.spec.base import load_yaml
from apexsim.spec.plan import Plan, Pool, Scheduler
from apexsim.spec.slo import parse_slo
from apexsim.workload.synthetic import poisson

CLUSTER = catalog.cluster("8xh100-sxm")
BOTH = parse_slo("ttft=1s,tpot=50ms")


def usual_space(model: str = "Llama-3.1-70B", cluster: str = "8xh100-sxm") -> Space:
    where = catalog.cluster(cluster)
    return default_space(catalog.model(model), catalog.device(where.device), where)


def evaluation(goodput: float, joules: float | None = 1.0, dollars: float | None = 1.0, **pool: int) -> Evaluation:
    plan = Plan(model="toy", cluster=CLUSTER, pools=(Pool(**pool),))
    at_goodput = {"attainment": 0.9, "j_per_output_token": joules, "usd_per_million_output_tokens": dollars}
    summary = {"slo": {"attainment": 1.0}, "e2e_s": {"p50": 1.0}}
    return Evaluation(plan, goodput, False, at_goodput, summary, "compute", "toy")


def test_the_default_space_holds_what_the_device_can():
    space = usual_space()
    assert space.tp == (1, 2, 4, 8)
    assert space.pp == (1, 2, 4, 8)
    assert usual_space(cluster="2x8xl40s").pp == (1, 2, 4, 8, 16)  # no fast links: stages over both nodes
    assert space.weights == space.kv_cache == ("bf16", "fp8")
    assert usual_space(cluster="8xa100-sxm-80gb").weights == ("bf16",)
    assert usual_space(model="DeepSeek-V3").weights == ("fp8-block",)


def test_tp_divides_the_heads_and_leaves_a_node_only_when_it_must():
    assert 7 not in usual_space(cluster="7xh100-sxm").tp  # 64 heads
    assert max(usual_space(cluster="2x8xh100-sxm").tp) == 8
    assert max(usual_space(model="DeepSeek-V3", cluster="2x8xh100-sxm").tp) == 16


def test_attention_ranks_are_looked_at_where_tensor_parallel_ranks_would_copy_the_cache():
    """Experts and MLA: DeepSeek. Others keep the space they had."""
    space = usual_space(model="DeepSeek-V3", cluster="8xh200-sxm")
    assert (space.dp, space.ep) == ((1, 2, 4, 8), (1, "all"))
    pools = {(p.pools[0].tp, p.pools[0].dp, p.pools[0].ep) for p in plans(space, "m", CLUSTER)}
    assert {(8, 1, 1), (8, 1, 8), (1, 8, 8), (2, 4, 8), (1, 8, 1)} <= pools
    for model in ("Mixtral-8x7B", "Llama-3.1-70B", "Qwen3-235B-A22B"):
        assert (usual_space(model).dp, usual_space(model).ep) == ((1,), (1,))


def test_expert_degrees_are_those_that_divide_the_devices():
    lists = {"tp": (2,), "pp": (1,), "dp": (1, 3), "ep": (2, 4, "all"), "replicas": (1,)}
    space = usual_space().model_copy(update=lists)
    found = [(p.pools[0].dp, p.pools[0].ep) for p in plans(space, "m", CLUSTER)]
    assert sorted(set(found)) == [(1, 2), (3, 2), (3, 6)]


def test_plans_are_lazy_legal_in_size_unique_and_in_the_same_order():
    space = usual_space()
    first = next(iter(plans(space, "m", CLUSTER)))
    listed = list(plans(space, "m", CLUSTER))
    assert listed[0] == first
    assert listed == list(plans(space, "m", CLUSTER))
    assert len({plan.id for plan in listed}) == len(listed)
    assert all(plan.devices <= 8 for plan in listed)
    assert any(plan.devices < 8 for plan in listed)


def test_a_space_file_replaces_lists_and_is_strict(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text("tp: [1, 2]\nweights: [fp8]\n")
    space = load_space(file, usual_space())
    assert (space.tp, space.weights, space.pp) == ((1, 2), ("fp8",), (1, 2, 4, 8))
    for text, words in (
        ("tpp: [1]", "tpp"), ("weights: [fp9]", "fp9"), ("tp: []", "at least one"), ("tp: [0]", "from 1"),
        ("tp: [1,", "YAML"),
    ):  # fmt: skip
        file.write_text(text)
        with pytest.raises(InputError, match=words) as error:
            load_space(file, usual_space())
        assert str(file) in str(error.value)
        assert "\n" not in str(error.value)


def test_a_space_may_be_a_mapping_and_is_as_strict():
    space = load_space({"tp": [1, 2], "weights": ["fp8"]}, usual_space())
    assert (space.tp, space.weights, space.pp) == ((1, 2), ("fp8",), (1, 2, 4, 8))
    with pytest.raises(UsageError, match=r"space: .*tpp"):
        load_space({"tpp": [1]}, usual_space())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("router: lest-loaded", "router: unknown router 'lest-loaded'; did you mean 'least-loaded'"),
        ("preset: [vllm, vlm]", "preset: unknown preset 'vlm'; did you mean 'vllm'"),
        ("disaggregated: {decode: {preset: [vlm]}}", "preset: unknown preset 'vlm'"),
        ("device: [h200]", "device: unknown device 'h200'; did you mean 'h100-sxm'"),
        ("mixed: {}", "mixed: the cluster 8xh100-sxm has one kind of devices"),
        ("encode: {}", "encode: no request of few brings an image"),
        ("colocated: false", "colocated = false leaves no plan"),
    ],
)
def test_what_no_plan_could_use_is_an_error_of_the_space_file(tmp_path, text, words):
    """Not an answer, "no feasible plan", and not half of the plans dropped as illegal."""
    file, trace = tmp_path / "space.yaml", poisson(2.0, 40, 300, 50).with_columns(name="few")
    file.write_text(text)
    cluster, slo = catalog.cluster("8xh100-sxm"), parse_slo("ttft=1s@0.9")
    with pytest.raises(InputError, match=words) as error:
        make_problem("Llama-3.1-8B", cluster, trace, slo, space=file)
    assert str(error.value).startswith(f"{file}: ")
    with pytest.raises(UsageError, match=words):
        make_problem("Llama-3.1-8B", cluster, trace, slo, space=load_yaml(file))


def test_goodput_ranks_by_rate_then_per_device_then_id():
    fast, small, large = evaluation(3.0, tp=8), evaluation(2.0, tp=2), evaluation(2.0, tp=4)
    twin = evaluation(2.0, tp=1, pp=2)
    ranked = rank([large, twin, small, fast], FIGURES["goodput"])
    assert [e.id for e in ranked] == [e.id for e in (fast, *sorted([small, twin], key=lambda e: e.id), large)]


def test_an_undefined_figure_comes_last():
    known, unknown = evaluation(1.0, dollars=9.0, tp=8), evaluation(5.0, dollars=None, tp=1)
    assert [e.id for e in rank([unknown, known], FIGURES["cost"])] == [known.id, unknown.id]


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=30))
def test_the_front_is_what_nobody_dominates(rows):
    points = np.array(rows, dtype=float)
    for point, beaten in zip(points, dominated(points), strict=True):
        better = [other for other in points if (other <= point).all() and (other < point).any()]
        assert beaten == bool(better)


def test_the_front_keeps_trades_and_drops_the_beaten():
    frugal, fast = evaluation(1.0, joules=1.0, tp=1), evaluation(4.0, joules=2.0, tp=2)
    beaten = evaluation(2.0, joules=3.0, tp=2, pp=2)
    assert set(front([frugal, fast, beaten])) == {frugal.id, fast.id}
    assert front([]) == ()


def summary_of(scheduler: Scheduler | None = None, rate: float = 2.0, **pool: object) -> Summary:
    pool = {"tp": 4, "weights": "fp8", "scheduler": scheduler or Scheduler()} | pool
    plan = Plan(model="Llama-3.1-70B", cluster=CLUSTER, pools=(Pool(**pool),))
    trace = poisson(rate, 300, 800, 200, seed=1)
    return run(prepare_candidate(plan), trace, slo=BOTH).summary


def test_why_names_the_resource():
    binding = what_binds(summary_of(), BOTH)
    assert binding.line.startswith(f"{binding.resource}: ")
    base = summary_of()
    parts = dict.fromkeys(base.breakdown_s, 1.0)
    assert what_binds(replace(base, breakdown_s=parts | {"communication": 99.0}), BOTH).resource == "links"
    assert what_binds(replace(base, breakdown_s=parts | {"host": 99.0}), BOTH).resource == "host"
    assert what_binds(replace(base, breakdown_s=parts | {"idle": 99.0}), BOTH).resource == "queueing"
    device = replace(base, breakdown_s=parts | {"gemm": 99.0})
    for mfu, mbu, resource in ((0.6, 0.2, "compute"), (0.1, 0.6, "bandwidth")):
        used = replace(device, utilization=replace(base.utilization, mfu=mfu, mbu=mbu))
        assert what_binds(used, BOTH).resource == resource


def test_a_full_cache_binds_only_where_waiting_breaks_the_slo():
    base = summary_of()
    full = replace(base, memory=replace(base.memory, kv_peak_fraction=0.99))
    waits = replace(full, slo=replace(base.slo, by_limit={"ttft": 0.8, "tpot": 1.0}))
    slow = replace(full, slo=replace(base.slo, by_limit={"ttft": 1.0, "tpot": 0.8}))
    assert what_binds(waits, BOTH).resource == "KV memory"
    assert what_binds(slow, BOTH).resource != "KV memory"


@pytest.mark.parametrize("n", [150, 700, 2500])
def test_loads_of_copies_are_those_of_the_goodput_traces(n):
    trace = poisson(3.0, n, 300, 20, seed=3)
    trace = trace.with_columns(input_tokens=np.random.default_rng(n).integers(1, 50, n))
    loads = GoodputLoads(trace)
    for rate in (1.0, 6.0, 9.0, 30.0):
        tested = goodput_trace(trace, rate)
        assert loads.requests_at(rate) == len(tested)
        copies = len(tested) // n
        assert loads.most_rps(copies - 1) < rate <= loads.most_rps(copies)
        load = loads.of(copies)
        counted = tested.arrival_s >= tested.arrival_s[0] + 0.1 * tested.span_s
        assert load.number.sum() == counted.sum()
        assert load.arrivals_s * load.rate_rps == pytest.approx(np.ptp(tested.arrival_s[counted]) * rate)


def double(x: int) -> int:
    return 2 * x


@pytest.mark.parametrize("workers", [1, 2])
def test_every_executor_applies_the_function_to_all_items(workers):
    with executor("process", workers) as pool:
        assert sorted(pool.run(double, range(50))) == list(range(0, 100, 2))
        assert list(pool.run(double, [])) == []


def test_one_worker_is_this_process():
    assert isinstance(executor("process", 1), Serial)


@pytest.mark.parametrize(
    ("backend", "workers", "words"),
    [("slurm", 2, "unknown backend 'slurm'.*dask, process, ray"), ("process", 0, "at least 1")],
)
def test_an_executor_that_cannot_be_is_a_usage_error(backend, workers, words):
    with pytest.raises(UsageError, match=words):
        executor(backend, workers)


def test_a_torn_last_line_of_a_journal_is_left_out(tmp_path):
    path = tmp_path / "deep" / "journal.jsonl"
    with Journal(path, {"a": 1}) as journal:
        journal.write({"b": 2})
    path.write_bytes(path.read_bytes() + b'{"c": ')
    assert read(path) == [{"a": 1}, {"b": 2}]
    path.write_text('{"a": \n{"b": 2}\n')
    with pytest.raises(InputError, match="line 1"):
        read(path)


def test_a_journal_that_cannot_be_written_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        Journal(tmp_path / "file" / "journal.jsonl", {})


def question(**changes: object):
    given = {
        "model": "Llama-3.1-8B", "cluster": CLUSTER, "slo": parse_slo("ttft=1s"),
        "trace": poisson(2.0, 50, 100, 10, seed=0),
    }  # fmt: skip
    return make_problem(**(given | changes))


def test_equal_questions_have_equal_names_and_others_have_others():
    assert question().run_name == question().run_name
    assert question().run_name.startswith("Llama-3.1-8B-8xh100-sxm-")
    others = [question(objective="energy"), question(rate_rps=3.0), question(price_usd_per_hour=9.0), question(seed=1)]
    assert len({question().run_name, *(other.run_name for other in others)}) == 5


def test_the_rate_of_the_search_is_the_traces_own_or_the_one_asked_for():
    assert question(rate_rps=7.0).rate_rps == pytest.approx(7.0)
    assert question().rate_rps == pytest.approx(question().trace.rate_rps)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objective": "speed"}, "unknown objective"),
        ({"objective": "carbon"}, "--carbon"),
        ({"rate_rps": 0.0}, "--rate 0"),
        ({"price_usd_per_hour": -1.0}, "--price -1"),
        ({"carbon_g_per_kwh": float("nan")}, "--carbon nan"),
        ({"cluster": catalog.cluster("8xh100-sxm+8xh200-sxm"), "space": {"device": ["l40s"]}}, "l40s"),
        ({"model": "Llama-9"}, "Llama-9"),
    ],
)
def test_a_question_that_cannot_be_is_one_line(changes, words):
    with pytest.raises(UsageError, match=words) as error:
        question(**changes)
    assert "\n" not in str(error.value)


def test_a_trace_without_rate_cannot_be_searched():
    trace = question().trace
    with pytest.raises(UsageError, match="at once"):
        question(trace=trace.with_columns(arrival_s=np.zeros(len(trace))))


def test_evaluations_are_json(tmp_path):
    data = evaluation(2.0, tp=2).to_dict(rank=1)
    assert json.loads(json.dumps(data, allow_nan=False))["rank"] == 1


def test_speculation_of_no_drafts_is_no_second_plan():
    """Else a search would rank one plan twice."""
    off, one = ({"method": "ngram", "num_speculative_tokens": k} for k in (0, 1))
    space = load_space({"tp": [4], "pp": [1], "speculative": [None, off, one]}, usual_space())
    listed = [plan.id for plan in plans(space, "m", CLUSTER)]
    assert space.speculative[0] is None
    assert len(set(listed)) == len(listed)


def test_bounds_on_goodput_copy_no_hashes(monkeypatch):
    """Lengths and arrivals say all; the hashes of millions of copies would not fit a worker's memory."""
    trace = poisson(2.0, 300, 800, 200, seed=1)
    blocks = trace.input_tokens // 16
    offsets = np.concatenate([[0], np.cumsum(blocks)])
    hashed = trace.with_columns(hash_ids=np.arange(blocks.sum()), hash_offsets=offsets, hash_block_tokens=16)
    plain = GoodputLoads(trace).of(20)
    monkeypatch.setattr("apexsim.workload.trace.take_ragged", lambda *_: pytest.fail("hashes were copied"))
    counted = GoodputLoads(hashed).of(20)
    assert (counted.number == plain.number).all()
    assert counted.arrivals_s == plain.arrivals_s
