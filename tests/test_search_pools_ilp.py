"""Pools on nodes: optimum of brute force over every placement, laws of what is returned, one line if none will do."""

from __future__ import annotations

import itertools
import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

import apexsim as ax
from apexsim.errors import InputError, NoFeasiblePlan
from apexsim.search.pools import PoolsLimits, PoolsProblem, Shape, read_pools
from apexsim.search.pools_ilp import PoolsPlan, best_pools, patterns
from tests.house import ROOT
from tests.test_docs_keys import rows


def shape(name: str, role: str, devices: int, rate: float) -> dict:
    return {"name": name, "role": role, "devices": devices, "rate": rate}


def placed(**question) -> PoolsPlan:
    return best_pools(read_pools({"kv_bytes": "1GB", **question}))


def cluster(nodes: int, devices: int) -> dict:
    """Devices with NVLink and a network that only ``nic`` of the question limits."""
    return {"device": "h100-sxm", "nodes": nodes, "devices_per_node": devices, "node_link": "10TB/s"}


questions = st.fixed_dictionaries({
    "cluster": st.sampled_from((cluster(2, 2), cluster(2, 3), cluster(3, 2))),
    "nic": st.sampled_from(("400MB/s", "1GB/s", "90GB/s")),
    "headroom": st.sampled_from((0.0, 0.25)),
    "shapes": st.tuples(
        st.builds(shape, st.just("p1"), st.just("prefill"), st.just(1), st.sampled_from((0.7, 1.0))),
        st.builds(shape, st.just("p2"), st.just("prefill"), st.just(2), st.sampled_from((1.5, 2.2))),
        st.builds(shape, st.just("d1"), st.just("decode"), st.just(1), st.sampled_from((0.4, 1.1, 2.0))),
        st.builds(shape, st.just("d3"), st.just("decode"), st.just(3), st.just(2.5)),
    ).map(list),
    "limits": st.fixed_dictionaries({}, optional={"devices": st.integers(2, 6), "decode": st.integers(1, 2)}),
})  # fmt: skip


def by_brute_force(question: dict) -> tuple[float, int]:
    """(goodput, fewest devices that reach it) over every set of replicas on every node, KV flowing from node to node.

    A replica that no node holds takes whole ones, from the first on.
    """
    problem = read_pools({"kv_bytes": "1GB", **question}).problem
    nodes, room = problem.cluster.nodes, problem.cluster.devices_per_node
    small = [s for s in problem.shapes if s.devices <= room]
    large = next((s for s in problem.shapes if s.devices > room), None)
    sets = [n for n in itertools.product(range(room + 1), repeat=len(small))
            if sum(c * s.devices for c, s in zip(n, small, strict=True)) <= room]  # fmt: skip
    found = []
    for wide in range((nodes // 2 if large else 0) + 1):
        wholes = [[(1, large)]] * wide
        for rest in itertools.combinations_with_replacement(sets, nodes - 2 * wide):
            each = [list(zip(n, small, strict=True)) for n in rest] + wholes
            devices = sum(n * s.devices for node in each for n, s in node)
            decoding = sum(n for node in each for n, s in node if s.role == "decode")
            if devices <= (problem.limits.devices or 99) and decoding <= (problem.limits.decode or 99):
                # a replica on two nodes has the NICs of both
                nics = [1.0] * len(rest) + [2.0] * wide
                found.append((-goodput(problem, each, nics), devices))
    best, devices = min(found)
    return -best, min(d for value, d in found if value <= best + 1e-6)


def goodput(problem, each, nics) -> float:
    ways = list(itertools.product(range(len(each)), repeat=2))
    above, right = [], []
    for place, node in enumerate(each):
        for role, end in (("prefill", 0), ("decode", 1)):
            rate = sum(n * s.rate for n, s in node if s.role == role) * (1 - problem.headroom)
            devices = sum(n * s.devices for n, s in node if s.role == role)
            above.append([1.0 if way[end] == place else 0.0 for way in ways])
            right.append(rate)
            above.append([1.0 if way[end] == place and way[0] != way[1] else 0.0 for way in ways])
            right.append(nics[place] * problem.nic / 1e9 if devices else 0.0)
    return -linprog([-1.0] * len(ways), A_ub=above, b_ub=right).fun


def drawn_question(nodes: int, devices: int, prefill: float) -> dict:
    shapes = [shape("p1", "prefill", 1, 0.7), shape("p2", "prefill", 2, prefill), shape("d1", "decode", 1, 1.1),
              shape("d3", "decode", 3, 2.5)]  # fmt: skip
    return {"cluster": cluster(nodes, devices), "nic": "90GB/s", "headroom": 0.25, "shapes": shapes, "limits": {}}


@settings(max_examples=15, deadline=None)
@given(questions)
@example(drawn_question(3, 2, 1.5))  # where a solver that bends rows by 1e-6 takes a device more
@example(drawn_question(2, 3, 2.2))
def test_small_clusters_have_the_optimum_of_brute_force(question):
    found = placed(**question)
    best, devices = by_brute_force(question)
    assert found.goodput_rps == pytest.approx(best, abs=1e-6)
    assert found.devices == devices
    holds_what_it_must(found)
    if best > 0.1:
        fewest = placed(**question, objective="devices", rate=best * (1 - 1e-6))
        assert fewest.devices == devices
        holds_what_it_must(fewest)


def holds_what_it_must(found: PoolsPlan) -> None:
    """Nodes hold their replicas, replicas their load, links their KV; what leaves comes."""
    question, near = found.question, 1 + 1e-6
    kept = 1 - question.problem.headroom
    for box in question.boxes:
        assert sum(p.nodes * p.pattern.nodes for p in found.placed if p.pattern.box is box) <= box.count
    for p in found.placed:
        assert p.pattern.devices() <= p.pattern.nodes * p.pattern.box.devices
        for role, crossing in (("prefill", p.out_rps), ("decode", p.in_rps)):
            assert p.local_rps + crossing <= kept * p.nodes * p.pattern.rate(role) * near
            assert crossing * question.kv_bytes <= p.nodes * p.pattern.link(role) * near
            assert crossing * question.kv_bytes <= p.nodes * p.pattern.nodes * p.pattern.box.nic * near
    assert sum(p.out_rps for p in found.placed) == pytest.approx(sum(p.in_rps for p in found.placed))


TWO = [shape("p", "prefill", 4, 2.0), shape("d", "decode", 4, 3.0)]


def test_a_slow_network_keeps_prefill_and_decode_together():
    """Three nodes of eight devices: 4 p to 2 d serve 6 of 8 with a free network; without one a node must have both."""
    free = placed(cluster=cluster(3, 8), shapes=TWO)
    assert (free.goodput_rps, [free.replicas(s) for s in free.question.problem.shapes]) == (pytest.approx(6.0), [3, 2])
    none = placed(cluster=cluster(3, 8), shapes=TWO, nic="1B/s")
    assert none.goodput_rps == pytest.approx(6.0)
    assert [none.replicas(s) for s in none.question.problem.shapes] == [3, 3]
    assert none.crossing_rps == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"limits": {"devices": 3}}, "it takes limits.devices 8 devices instead of 3"),
        ({"cluster": cluster(1, 4)}, "do not fit into the cluster, or no link joins them"),
        ({"cluster": cluster(2, 4), "nic": "1B/s"}, "do not fit into the cluster, or no link joins them"),
    ],
)
def test_where_nothing_can_be_served_the_answer_is_why(question, said):
    with pytest.raises(NoFeasiblePlan, match=f"no placement serves any request: .*{said}") as caught:
        placed(**{"cluster": cluster(3, 8), "shapes": TWO, **question})
    assert "rate" not in str(caught.value)


def test_links_inside_a_node_and_those_of_all_nodes_of_a_replica_bound_what_is_sent():
    """PCIe for one device of each side; NICs of both nodes for a replica on two."""
    pair = [shape("p", "prefill", 1, 1e6), shape("d", "decode", 1, 1e6)]
    inside = placed(cluster={"device": "h100-pcie", "nodes": 1, "devices_per_node": 2}, shapes=pair, nic="1B/s")
    (box,) = inside.question.boxes
    assert inside.goodput_rps == pytest.approx(box.near / inside.question.kv_bytes)
    wide = [shape("p", "prefill", 4, 1e6), shape("d", "decode", 4, 1e6)]
    across = placed(cluster=cluster(4, 2), shapes=wide, nic="3GB/s")
    assert across.goodput_rps == pytest.approx(2 * 3.0), "1 GB a request, over two nodes' NICs"


def test_nodes_that_scale_up_links_join_have_all_of_their_nics():
    (box,) = read_pools({"cluster": "2x4xgb200", "kv_bytes": "1GB", "shapes": TWO, "nic": "3GB/s"}).boxes
    assert box.nic == 2 * 3e9


@pytest.mark.parametrize(("role", "rps"), [("prefill", 2.0), ("decode", 3.0)])
def test_a_limit_of_a_role_counts_its_replicas(role, rps):
    found = placed(cluster=cluster(4, 8), shapes=TWO, limits={role: 1})
    assert found.goodput_rps == pytest.approx(rps)
    assert sum(found.replicas(s) for s in found.question.problem.shapes if s.role == role) == 1


def test_ties_go_to_what_stays_in_its_node_then_to_the_shapes_that_stand_first():
    """Two of each on two nodes: side by side nothing crosses. And twins: the first of them."""
    found = placed(cluster=cluster(2, 8), shapes=TWO)
    assert (found.devices, found.crossing_rps) == (16, 0.0)
    twins = [shape(name, role, 4, 2.0) for role in ("prefill", "decode") for name in (f"a-{role}", f"b-{role}")]
    again = placed(cluster=cluster(2, 8), shapes=twins)
    assert [again.replicas(s) for s in again.question.problem.shapes] == [2, 0, 2, 0]


def test_a_faster_network_never_lowers_goodput():
    speeds = ("10MB/s", "500MB/s", "2GB/s", "9GB/s")
    found = [placed(cluster=cluster(3, 4), shapes=TWO, nic=nic).goodput_rps for nic in speeds]
    assert found == sorted(found)
    assert found[0] < found[-1] == pytest.approx(3.0)


def test_a_replica_larger_than_a_node_takes_whole_nodes():
    shapes = [shape("p", "prefill", 2, 9.0), shape("d", "decode", 6, 1.0)]
    found = placed(cluster=cluster(3, 4), shapes=shapes)
    assert {p.pattern.name: (p.nodes, p.pattern.nodes) for p in found.placed} == {"p": (1, 1), "d": (1, 2)}
    assert len(list(patterns(found.question))) == 3  # one and two of p in a node, and d


def test_kv_of_a_model_and_a_prompt():
    question = {"cluster": "2x8xh100-sxm", "model": "Llama-3.1-70B", "input_tokens": 1000, "shapes": TWO}
    assert read_pools(question).kv_bytes == 1000 * ax.model("Llama-3.1-70B").kv_bytes_per_token()
    assert read_pools({**question, "kv_cache": "fp8"}).kv_bytes == read_pools(question).kv_bytes / 2


def test_shapes_keep_to_their_devices():
    shapes = [{**TWO[0], "device": "h200-sxm"}, TWO[1]]
    found = placed(cluster="8xh100-sxm+8xh200-sxm", shapes=shapes)
    where = {(p.pattern.name, p.pattern.box.device) for p in found.placed}
    assert where == {("2 x p", "h200-sxm"), ("2 x d", "h100-sxm")}


def test_devices_of_a_rack_share_scale_up_links():
    """Nodes that NVLink joins count as one: no KV goes over the network."""
    found = placed(cluster="2x4xgb200", shapes=TWO, nic="1B/s")
    assert (found.question.boxes[0].devices, found.question.boxes[0].count) == (8, 1)
    assert found.goodput_rps == pytest.approx(2.0)


def test_a_pool_in_place_of_a_rate_is_simulated():
    """A decode replica of two devices serves more than one of one; what does not fit or keeps no SLO is said."""
    measured = {"cluster": "2x2xh100-sxm", "model": "Llama-3.1-8B", "trace": str(ROOT / "docs/examples/requests.csv"),
                "slo": "ttft=500ms,tpot=20ms@0.9"}  # fmt: skip
    pools = [{"name": "p", "role": "prefill", "pool": {}}, {"name": "d1", "role": "decode", "pool": {}},
             {"name": "d2", "role": "decode", "pool": {"tp": 2}}]  # fmt: skip
    question = read_pools({**measured, "shapes": pools})
    prefill, one, two = question.problem.shapes
    assert [s.devices for s in (prefill, one, two)] == [1, 1, 2]
    assert 0 < one.rate < two.rate
    trace = ax.read_trace(measured["trace"])
    assert question.kv_bytes == ax.model("Llama-3.1-8B").kv_bytes_per_token() * trace.input_tokens.mean()
    with pytest.raises(NoFeasiblePlan, match=r"shapes: d1: keeps the SLO .* at no rate"):
        read_pools({**measured, "slo": "tpot=1ns", "shapes": pools[:2]})
    with pytest.raises(NoFeasiblePlan, match="shapes: p: Llama-3"):
        read_pools({**measured, "model": "Llama-3.1-70B", "shapes": pools})
    with pytest.raises(InputError, match=r"shapes: p: pool: pools\[0\]\.tpp: unknown key"):
        read_pools({**measured, "shapes": [{**pools[0], "pool": {"tpp": 2}}, pools[1]]})


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"rate": 7.0}, "14.3 % less rate"),
        ({"rate": 5.0, "limits": {"devices": 12}}, "limits.devices 20 devices instead of 12 (short by 8)"),
        ({"rate": 5.0, "limits": {"prefill": 2}}, "limits.prefill 3 replicas instead of 2 (short by 1)"),
    ],
)
def test_what_stands_in_the_way_is_said_with_how_much_is_missing(question, said):
    with pytest.raises(NoFeasiblePlan, match=re.escape(said)):
        placed(cluster=cluster(3, 8), shapes=TWO, **question)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shapes": [TWO[0]]}, "none has role: decode"),
        ({"shapes": [TWO[0], TWO[0], TWO[1]]}, "stands twice"),
        ({"objective": "devices"}, "devices needs rate"),
        ({"kv_bytes": None}, "kv_bytes: needed"),
        ({"kv_bytes": None, "model": "Llama-3.1-70B"}, "input_tokens: missing"),
        ({"kv_bytes": 5}, "has no unit"),
        ({"shapes": [{"name": "p", "role": "prefill", "rate": 1.0}, TWO[1]]}, "shapes: p: devices: missing"),
        ({"shapes": [{"name": "p", "role": "prefill", "devices": 1}, TWO[1]]}, "shapes: p: rate: needed"),
        ({"shapes": [{"name": "p", "role": "prefill", "pool": {}}, TWO[1]]}, "pool: needs model, trace and slo"),
        ({"shapes": [{**TWO[0], "devices": 32}, TWO[1]]}, "its group of the cluster has 24"),
        ({"shapes": [{**TWO[0], "device": "l40s"}, TWO[1]]}, "the cluster holds h100-sxm"),
        ({"shapes": [shape(f"p{n}", "prefill", 1, 1.0) for n in range(9)] + [TWO[1]]}, "more than 20,000 ways"),
    ],
)
def test_a_question_that_cannot_be_is_one_line(change, said):
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        placed(**{"cluster": cluster(3, 8), "shapes": TWO, **change})
    assert "\n" not in str(caught.value)


def test_the_report_says_the_same_everywhere():
    report = ax.plan_pools({"cluster": cluster(3, 8), "shapes": TWO, "kv_bytes": "1GB", "nic": "2GB/s"})
    data, table = report.to_dict(), report.to_pandas()
    assert data["replicas"] == {"p": int(table.p.sum()), "d": int(table.d.sum())}
    assert data["goodput_rps"] == pytest.approx(data["value"])
    assert data["value"] == pytest.approx((table.local_rps + table.out_rps).sum())
    assert table.out_bytes_per_s.max() <= 2e9 * (1 + 1e-6)
    assert "the optimum" in report.heading
    assert "Replicas" in report._repr_html_()
    json.dumps(data, allow_nan=False)


KEYS = (PoolsProblem, Shape, PoolsLimits)


@pytest.mark.parametrize("cls", KEYS, ids=lambda cls: cls.__name__)
def test_every_key_has_a_row_with_its_default(cls):
    table = rows("ilp.md", "Pools on nodes")
    for name, about in cls.model_fields.items():
        assert name in table, name
        assert ("–" in table[name]) >= about.is_required(), name
