"""Plans of several pools: what is legal, what each figure is of, and what a hand-over changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apexsim import scenario
from apexsim.cost.kvlinks import kv_links, place
from apexsim.cost.memory import DoesNotFit
from apexsim.errors import InputError
from apexsim.scenario import Prepared, prepare
from apexsim.spec import catalog
from apexsim.spec.cluster import Cluster
from apexsim.spec.plan import Plan, Pool
from apexsim.workload.trace import Trace

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
MODEL = "Llama-3.1-8B"


def plan(*pools: dict[str, object], cluster: str = "8xh100-sxm", **keys: object) -> Plan:
    return Plan.model_validate({"model": MODEL, "cluster": cluster, "pools": list(pools), **keys})


def ready(declared: Plan) -> Prepared:
    prepared = prepare(declared)
    assert isinstance(prepared, Prepared)
    return prepared


def trace(n: int = 40, spacing_s: float = 0.05) -> Trace:
    random = np.random.default_rng(3)
    return Trace("t", np.arange(n) * spacing_s, random.integers(50, 900, n), random.integers(1, 60, n))


PAIR = ({"role": "prefill", "replicas": 2}, {"role": "decode", "replicas": 2})


def test_every_request_is_prefilled_and_decoded_once():
    run = scenario.run(ready(plan(*PAIR)), trace())
    transfers, columns = run.result.transfers, run.result.requests
    assert transfers is not None
    assert run.summary.requests.completed == 40
    assert transfers.finished == int((trace().output_tokens > 1).sum())
    prefilled, decoded = run.result.pools
    assert prefilled.prefill_tokens == int(columns.input_tokens.sum())
    assert prefilled.decode_tokens == 0
    assert decoded.prefill_tokens == 0
    assert decoded.decode_tokens == int((columns.output_tokens - 1).sum())


def test_time_and_energy_of_all_pools_add_up():
    run = scenario.run(ready(plan(*PAIR)), trace())
    assert sum(run.summary.breakdown_s.values()) == pytest.approx(4 * run.summary.duration_s, rel=1e-9)
    assert run.summary.energy.devices_j is not None
    assert {use.role: use.devices for use in run.summary.by_pool} == {"prefill": 2, "decode": 2}
    assert run.summary.to_dict()["transfers"]["count"] == run.result.transfers.finished


@pytest.mark.parametrize(("preset", "waits"), [("tensorrt-llm", True), ("vllm", False)])
def test_kv_comes_when_there_is_a_seat_under_tensorrt_llm(preset: str, waits: bool) -> None:
    """One seat: there, the KV of a request leaves when the one before it has ended; elsewhere when it has blocks."""
    scheduler = {"preset": preset, "max_num_seqs": 1}
    declared = plan(
        {"role": "prefill", "scheduler": {"preset": preset}}, {"role": "decode", "scheduler": scheduler},
        engine="tensorrt-llm", router="round-robin",
    )  # fmt: skip
    three = Trace("t", np.arange(3) * 1e-3, np.full(3, 100), np.full(3, 50))
    result = scenario.replay(ready(declared), three)
    assert result.transfers is not None
    ended = np.sort(result.requests.finish_s)
    comes = np.sort(result.transfers.reserved_s)
    # a batch composed ahead takes who waits an iteration later; the client sees a token after the engine
    assert (comes[2] > ended[1] - 0.01) == waits
    assert (result.requests.first_token_s[2] > ended[1] - 0.01) == waits


def test_attention_ranks_may_decode_what_others_prefill() -> None:
    ranks = {"dp": 2, "ep": 2, "replicas": 1}
    declared = plan({"role": "prefill", **ranks}, {"role": "decode", **ranks}).model_copy(
        update={"model": "DeepSeek-V2-Lite"}
    )
    run = scenario.run(ready(declared), trace())
    assert run.summary.requests.completed == 40
    assert run.result.pools[1].prefill_tokens == 0
    assert run.result.pools[1].decode_tokens == int((trace().output_tokens - 1).sum())


def test_a_plan_of_one_pool_says_nothing_of_pools():
    data = scenario.run(ready(plan({"replicas": 2})), trace()).summary.to_dict()
    assert not {"by_pool", "transfers"} & set(data)


def test_serve_pools_side_by_side_are_one_pool_of_as_many_replicas():
    """Two pools of one replica go the same way as one of two, to the last digit of every instant."""
    apart = scenario.replay(ready(plan({"replicas": 1}, {"replicas": 1}, router="round-robin")), trace())
    together = scenario.replay(ready(plan({"replicas": 2}, router="round-robin")), trace())
    for name in ("start_s", "first_token_s", "finish_s", "replica", "itl_max_s"):
        np.testing.assert_allclose(
            getattr(apart.requests, name), getattr(together.requests, name), rtol=1e-9, atol=1e-9, err_msg=name
        )


def test_decodes_are_not_held_up_by_prompts():
    """What disaggregation is for: with long prompts the largest gap of the decodes is an iteration of decodes."""
    long = Trace("t", np.arange(30) * 0.1, np.full(30, 6000), np.full(30, 100))
    apart = scenario.run(ready(plan(*PAIR)), long).summary
    mixed = scenario.run(ready(plan({"replicas": 4})), long).summary
    assert apart.itl_s.p99 < 0.5 * mixed.itl_s.p99


def test_layer_by_layer_the_kv_is_there_sooner():
    def ready_s(**transfer: object) -> float:
        summary = scenario.run(ready(plan(*PAIR, cluster="2x4xh100-sxm", transfer=transfer)), trace()).summary
        return summary.ttft_s.mean

    assert ready_s(mode="push", layerwise=True) < ready_s(mode="push")


def test_a_slower_network_hands_over_later():
    pools = ({"role": "prefill", "tp": 4}, {"role": "decode", "tp": 4})

    def mean(link: str) -> float:
        cluster = {"device": "h100-sxm", "devices_per_node": 4, "nodes": 2, "node_link": link}
        prepared = ready(Plan.model_validate({"model": MODEL, "cluster": cluster, "pools": list(pools)}))
        return scenario.run(prepared, trace()).summary.transfers.transfer_s.mean

    assert mean("1GB/s") > 10 * mean("50GB/s")


def test_pools_of_two_kinds_of_devices():
    run = scenario.run(ready(catalog.load_plan(EXAMPLES / "two-kinds.yaml")), trace(10))
    assert run.summary.requests.completed == 10
    assert [use.devices for use in run.summary.by_pool] == [8, 8]


def test_replicas_do_not_straddle_nodes():
    cluster = Cluster.model_validate("2x8xh100-sxm")
    pools = (Pool(role="prefill", replicas=3, tp=2), Pool(role="decode", tp=4), Pool(role="decode", tp=8))
    assert [(unit.first, unit.devices) for unit in place(cluster, pools)] == [
        (0, 2), (2, 2), (4, 2), (8, 4), (16, 8)
    ]  # fmt: skip


def test_paths_take_the_nearest_class_of_links():
    """Inside a node NVLink, between nodes the NICs of the smaller side's devices."""
    profile = catalog.device("h100-sxm")
    cluster = Cluster.model_validate("2x8xh100-sxm")
    links = kv_links(cluster, (Pool(tp=4), Pool(tp=4), Pool(tp=8)), (profile,) * 3)

    def bandwidth(a: int, b: int) -> float:
        return min(links.capacity[link] for link in links.paths[links.ways[a, b, 0]])

    reach = profile.efficiency.link
    assert bandwidth(0, 1) == pytest.approx(4 * profile.scaleup.bandwidth * reach)
    assert bandwidth(0, 2) == pytest.approx(4 * profile.node_link_bandwidth * reach)


@pytest.mark.parametrize(
    ("pools", "keys", "says"),
    [
        (({"role": "prefill"},) * 2, {}, "none with role=decode"),
        (({"role": "serve"}, {"role": "decode"}), {}, "none with role=prefill"),
        (({"role": "prefill"}, {"role": "decode", "kv_cache": "fp8"}), {}, "one format for all"),
        (({"role": "prefill"}, {"role": "decode", "device": "a100-sxm-80gb"}), {}, r"pools\[1\].device"),
        (({"role": "prefill", "tp": 8}, {"role": "decode", "tp": 8}), {}, "they need 16 devices"),
        (({"role": "prefill"}, {"role": "decode", "scheduler": {"max_wait": "1s"}}), {}, r"pools\[1\].scheduler.max_w"),
        (({"role": "prefill"}, {"role": "decode", "tp": 3}), {}, r"pools\[1\]"),
        (PAIR, {"router": {"prefill": "lora-aware"}}, "router=lora-aware: adapters"),
    ],
)
def test_impossible_pools_are_refused_with_a_reason(pools, keys, says):
    with pytest.raises(InputError, match=says):
        prepare(plan(*pools, **keys))


def test_layerwise_needs_push():
    with pytest.raises(ValueError, match="needs mode: push"):
        plan(*PAIR, transfer={"layerwise": True})


def test_a_pool_that_does_not_fit_is_named():
    short = prepare(Plan.model_validate({
        "model": "Llama-3.1-70B", "cluster": "8xh100-sxm",
        "pools": [{"role": "prefill", "tp": 4}, {"role": "decode", "tp": 1}],
    }))  # fmt: skip
    assert isinstance(short, DoesNotFit)
    assert short.reason.startswith("pools[1]")
