"""Plans of searches as candidates of a fleet: each as it was searched, on the devices that it stands on."""

from __future__ import annotations

import json

import pytest

import apexsim as ax
from apexsim.errors import InputError
from apexsim.search.fleet import read_fleet
from apexsim.search.fleet_ilp import best_fleet


def result_of_a_search(goodput: dict[str, float]) -> dict:
    """The JSON of a search on eight H100; plan by tp."""
    def plan(tp: int) -> dict:
        return {"model": "Llama-3.1-70B", "cluster": "8xh100-sxm", "pools": [{"tp": tp, "weights": "fp8"}]}

    return {"plans": [
        {"plan": plan(int(tp)), "goodput_rps": rps, "at_goodput": {"j_per_output_token": 2.0},
         "summary": {"cost": {"usd_per_hour": 2.5 * int(tp)},
                     "throughput": {"requests_per_s": 1.0, "output_tokens_per_s": 250.0}}}
        for tp, rps in goodput.items()
    ]}  # fmt: skip


def test_the_plans_of_searches_are_candidates(tmp_path):
    for name, goodput in {"chat": {"4": 6.0, "8": 11.0}, "code": {"8": 4.0}}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(result_of_a_search(goodput)))
    question = "demand: {chat: 12, code: 4}\nsearches: {chat: chat, code: code/result.json}\n"
    (tmp_path / "fleet.yaml").write_text(question)
    problem = read_fleet(tmp_path / "fleet.yaml")
    four, eight = problem.candidates
    assert (four.devices, four.goodput, eight.goodput) == (4, {"chat": 6.0}, {"chat": 11.0, "code": 4.0})
    assert (eight.usd_per_hour, eight.busy("code")) == (20.0, 2.0 * 250 * 4.0)
    assert four.idle_w == 4 * ax.device("h100-sxm").idle_w
    found = best_fleet(problem)
    assert found.replicas == ((2,), (1,))


def searched_on_two_kinds(*pools: dict) -> dict:
    data = result_of_a_search({"4": 6.0})
    data["plans"][0]["plan"] |= {"cluster": "8xh100-sxm+8xa100-sxm-80gb", "pools": list(pools)}
    return data


def test_a_plan_of_a_mixed_cluster_is_of_the_devices_that_it_stands_on(tmp_path):
    """Their stock and their idle power, not those of the cluster's first group."""
    file = tmp_path / "result.json"
    file.write_text(json.dumps(searched_on_two_kinds({"tp": 4, "device": "a100-sxm-80gb"})))
    (found,) = read_fleet({"demand": {"chat": 1}, "searches": {"chat": str(file)}}).candidates
    assert found.device == "a100-sxm-80gb"
    assert found.name.startswith("a100-sxm-80gb ")
    assert found.idle_w == 4 * ax.device("a100-sxm-80gb").idle_w


def test_a_plan_on_two_kinds_of_devices_is_no_replica_of_a_fleet(tmp_path):
    file = tmp_path / "result.json"
    both = {"tp": 4, "device": "a100-sxm-80gb"}, {"tp": 4, "device": "h100-sxm"}
    file.write_text(json.dumps(searched_on_two_kinds(*both)))
    with pytest.raises(InputError, match="stands on a100-sxm-80gb and h100-sxm, and a replica of a fleet on one kind"):
        read_fleet({"demand": {"chat": 1}, "searches": {"chat": str(file)}})


def test_a_file_that_is_no_search_is_said(tmp_path):
    (tmp_path / "result.json").write_text('{"plans": [{"id": "x"}]}')
    with pytest.raises(InputError, match="is not the result of apexsim search"):
        read_fleet({"demand": {"chat": 1}, "searches": {"chat": str(tmp_path)}})
