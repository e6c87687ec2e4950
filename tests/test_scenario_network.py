"""Plans over leaves and spines: what the network changes, and what it must not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apexsim import scenario
from apexsim.errors import InputError
from apexsim.scenario import Prepared, prepare
from apexsim.spec import catalog
from apexsim.spec.plan import Plan
from apexsim.workload.trace import Trace

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
PAIR = [{"role": "prefill", "replicas": 2, "tp": 8}, {"role": "decode", "replicas": 2, "tp": 8}]
APART = {"topology": "leaf-spine", "nodes_per_leaf": 2}


def run(network: dict[str, Any] | None, **keys: Any) -> scenario.Run:
    cluster: dict[str, Any] = {"device": "h100-sxm", "nodes": 4}
    if network is not None:
        cluster["network"] = network
    plan = {"model": "Llama-3.1-8B", "cluster": cluster, "pools": PAIR, **keys}
    prepared = prepare(Plan.model_validate(plan))
    assert isinstance(prepared, Prepared)
    random = np.random.default_rng(3)
    trace = Trace("t", np.arange(40) * 0.02, random.integers(2000, 9000, 40), random.integers(2, 60, 40))
    return scenario.run(prepared, trace)


def transfer_s(network: dict[str, Any] | None) -> float:
    transfers = run(network).summary.transfers
    assert transfers is not None
    return float(transfers.transfer_s.mean)


def test_a_flat_network_changes_no_byte() -> None:
    """Left out, or said; and leaf and spine below one leaf, where the pools need no collective between nodes."""
    without = run(None).summary.to_dict()
    for network in ({"topology": "flat"}, {"topology": "leaf-spine"}, {"topology": "flat", "collectives": "auto"}):
        said = run(network).summary.to_dict()
        assert {k: v for k, v in said.items() if k != "simulation"} == {
            k: v for k, v in without.items() if k != "simulation"
        }


def test_routing_and_oversubscription_decide_how_long_kv_travels() -> None:
    spread = transfer_s(APART | {"routing": "spray"})
    assert transfer_s(None) <= spread
    assert transfer_s(APART | {"routing": "split"}) == pytest.approx(spread, rel=1e-9)
    one, four = (transfer_s(APART | {"queue_pairs": pairs}) for pairs in (1, 4))
    assert spread < four < one
    assert transfer_s(APART | {"routing": "spray", "oversubscription": 8.0}) > 1.5 * spread


def test_the_example_runs_and_is_seeded() -> None:
    prepared = prepare(catalog.load_plan(EXAMPLES / "leaf-spine.yaml"))
    assert isinstance(prepared, Prepared)
    trace = Trace("t", np.arange(10) * 0.1, np.full(10, 3000), np.full(10, 20))
    one, two = (scenario.replay(prepared, trace) for _ in range(2))
    assert one.transfers is not None
    assert two.transfers is not None
    assert one.transfers.landed_s.tolist() == two.transfers.landed_s.tolist()
    assert one.transfers.finished == 10


def test_a_wrong_network_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    for network, says in (
        ("{topology: leafspine}", "cluster.network.topology = 'leafspine'"),
        ("{topology: rails, nodes_per_leaf: 3}", "nodes_per_leaf = 3 does not divide the 4 nodes"),
        ("{topology: rails, spine: 3}", "spine"),
        ("{routing: spray}", "cluster.network.routing = spray: has an effect with topology"),
        ("{topology: rails, hop_latency: 5}", "hop_latency"),
    ):
        path.write_text(
            f"model: Llama-3.1-8B\ncluster: {{device: h100-sxm, nodes: 4, network: {network}}}\npools: [{{tp: 8}}]\n"
        )
        with pytest.raises(InputError) as error:
            catalog.load_plan(path)
        assert says in str(error.value), str(error.value)
        assert "\n" not in str(error.value)
