"""Plans, and what every file that a user writes shares: strict keys, and errors of one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from apexsim.errors import ApexsimError, InputError, UsageError
from apexsim.spec import catalog
from apexsim.spec.base import load_file, load_yaml, parse
from apexsim.spec.plan import Plan, Pool, Scheduler

PLAN: dict[str, Any] = {
    "model": "meta-llama/Llama-3.1-70B-Instruct",
    "cluster": {"device": "h100-sxm", "devices_per_node": 8, "nodes": 1},
    "pools": [
        {
            "role": "serve", "replicas": 2, "tp": 4, "pp": 1, "dp": 1, "ep": 1, "weights": "fp8", "kv_cache": "fp8",
            "scheduler": {
                "preset": "vllm", "max_num_batched_tokens": 8192, "max_num_seqs": 256, "prefix_caching": True,
            },
        }
    ],
    "router": "least-loaded",
    "techniques": [],
}  # fmt: skip


def changed(**changes: Any) -> dict[str, Any]:
    return {**PLAN, **changes}


def pool(**changes: Any) -> dict[str, Any]:
    return changed(pools=[{**PLAN["pools"][0], **changes}])


def test_the_plan_of_the_design_document_is_read(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(PLAN))
    plan = catalog.load_plan(file)
    assert (plan.devices, plan.cluster.devices, plan.pools[0].devices_per_replica) == (8, 8, 4)
    assert plan.id == "2xtp4-fp8-kvfp8-t8192-s256-prefix"


def test_a_plan_survives_json() -> None:
    plan = parse(Plan, changed(cluster={"device": "h100-sxm", "node_link": "50GB/s"}), source="plan.yaml")
    assert parse(Plan, json.loads(plan.model_dump_json()), source="plan.json") == plan


@pytest.mark.parametrize("cluster", ["2x8xh100-sxm", [{"device": "h100-sxm", "nodes": 2}]])
def test_a_cluster_may_be_written_short(cluster: Any) -> None:
    plan = parse(Plan, changed(cluster=cluster), source="plan.yaml")
    assert plan.cluster == parse(Plan, changed(cluster={"device": "h100-sxm", "nodes": 2}), source="").cluster


def test_what_the_pool_leaves_out_is_derived() -> None:
    assert Pool(tp=4).experts_tp == 4
    assert Pool(tp=4, dp=2, ep=8).experts_tp == 1
    assert Pool(tp=4, ep=2, moe_tp=2).experts_tp == 2


def test_every_field_that_differs_shows_in_the_id() -> None:
    variants = [
        Pool(), Pool(tp=2), Pool(pp=2), Pool(replicas=2), Pool(dp=2, moe_tp=2), Pool(dp=2, ep=2), Pool(cp=2),
        Pool(weights="fp8"), Pool(kv_cache="fp8"), Pool(activations="fp8"), Pool(gpu_memory_utilization=0.8),
        Pool(block_size=32), Pool(max_model_len=4096), Pool(device="a100-sxm-80gb"), Pool(role="decode"),
        Pool(scheduler=Scheduler(preset="orca")), Pool(scheduler=Scheduler(max_num_batched_tokens=512)),
        Pool(scheduler=Scheduler(max_num_seqs=512)), Pool(scheduler=Scheduler(prefix_caching=True)),
    ]  # fmt: skip
    plans = [Plan(model="m", cluster=parse(Plan, PLAN, source="").cluster, pools=(v,)) for v in variants]
    assert len({plan.id for plan in plans}) == len(plans)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (changed(modle="x"), "p.yaml: modle: unknown key; did you mean 'model'?"),
        (changed(cluster={"devise": "h100-sxm"}), "cluster.devise: unknown key; did you mean 'device'?"),
        (pool(tpp=2), "pools[0].tpp: unknown key; did you mean 'tp'?"),
        (pool(scheduler={"max_num_seq": 1}), "scheduler.max_num_seq: unknown key; did you mean 'max_num_seqs'"),
        (changed(pools={"tp": 1}), "p.yaml: pools = {'tp': 1}: must be a list"),
        (changed(pools=[]), "p.yaml: pools = []: needs at least 1 entry"),
        (changed(pools=["tp1"]), "p.yaml: pools[0] = 'tp1': must be a mapping of keys to values"),
        (pool(scheduler="vllm"), "pools[0].scheduler = 'vllm': must be a mapping of keys to values"),
        (pool(tp=0), "pools[0].tp = 0: input should be greater than or equal to 1"),
        (pool(tp="4"), "pools[0].tp = '4': input should be a valid integer"),
        (pool(tp=True), "pools[0].tp = True: input should be a valid integer"),
        (pool(gpu_memory_utilization=float("nan")), "pools[0].gpu_memory_utilization = nan"),
        (pool(gpu_memory_utilization=1.5), "pools[0].gpu_memory_utilization = 1.5"),
        (pool(weights="fp88"), "pools[0].weights = 'fp88': unknown value; did you mean 'fp8'? (allowed: bf16"),
        (pool(ep=3), "ep · moe_tp must be tp · dp, got 3 · 1 != 4 · 1"),
        (pool(moe_tp=2), "ep · moe_tp must be tp · dp, got 1 · 2 != 4 · 1"),
        (changed(pools=[]), "pools = []"),
        (changed(pools=None), "pools = None"),
        (changed(cluster="h100"), "cluster = 'h100': 'h100' is not a cluster; write 8xh100-sxm"),
        (changed(cluster={"device": "h100-sxm", "node_link": 50}), "cluster.node_link = 50: 50 has no unit"),
        (changed(cluster=[]), "a cluster is a list of groups"),
        ({"cluster": "8xh100-sxm", "pools": [{}]}, "model: missing"),
    ],
)  # fmt: skip
def test_a_bad_plan_is_one_line_that_names_the_key(data: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as error:
        parse(Plan, data, source="p.yaml")
    message = str(error.value)
    assert message.startswith("p.yaml: ")
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected a mapping of keys to values, got nothing"),
        ("- 1\n", "expected a mapping of keys to values, got a list"),
        ("a: [1, 2\n", "line 2: not YAML"),
        ("a: 'b\n", "not YAML"),
        ("a: 1\na: 2\n", "the key 'a' stands twice"),
        ("a: \x00\n", "plan.yaml: "),
        ("a: !!python/object:os.system x\n", "plan.yaml: "),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as error:
        load_yaml(file)
    assert says in str(error.value)
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)


def test_truncated_json_and_double_keys_are_errors(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text('{"model": "x", "pools": [')
    with pytest.raises(InputError, match="line 1: not JSON"):
        load_yaml(file)
    file.write_text('{"model": "x", "model": "y"}')
    with pytest.raises(InputError, match="the key 'model' stands twice"):
        load_yaml(file)


def test_a_missing_file_and_a_binary_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_file(Plan, tmp_path / "plan.yaml")
    (tmp_path / "plan.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        load_file(Plan, tmp_path / "plan.yaml")


@pytest.mark.parametrize(
    ("data", "kind", "says"),
    [
        (changed(model="Lama-3.1-70B"), UsageError, "model: unknown model 'Lama-3.1-70B'; did you mean 'Llama-3.1"),
        (changed(cluster="8xh100"), UsageError, "cluster.device: unknown device 'h100'"),
        (pool(device="h200"), UsageError, "pools[0].device: unknown device 'h200'; did you mean 'h200-"),
        (changed(model="./nothing.json"), InputError, "model: "),
    ],
)  # fmt: skip
def test_unknown_names_in_a_plan_say_where_they_stand(
    tmp_path: Path, data: dict[str, Any], kind: type[ApexsimError], says: str
) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(data))
    with pytest.raises(kind) as error:
        catalog.load_plan(file)
    assert str(error.value).startswith(f"{file}: ")
    assert says in str(error.value)


def test_a_model_path_counts_from_the_folder_of_the_plan(tmp_path: Path) -> None:
    config = load_yaml(catalog.data_root() / "model_specs" / "Qwen3-8B.json")
    (tmp_path / "mine.json").write_text(json.dumps(config))
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(changed(model="mine.json")))
    assert catalog.model(catalog.load_plan(file).model).name == "mine"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"lora": {"adapters": 2, "targets": ["q", "kv"]}}, "lora.targets[1] = 'kv': unknown value; did you mean 'v'?"),
        ({"experts": {"routing": {"zipf": -1}}}, "experts.routing.zipf = -1: input should be greater"),
        ({"experts": {"routing": 5}}, "experts.routing = 5: input should be a valid string"),
    ],
)
def test_a_value_of_several_types_is_one_error_without_names_of_types(data: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as error:
        parse(Plan, {"model": "Mixtral-8x7B", "cluster": "1xh100-sxm", "pools": [data]}, source="p")
    assert str(error.value).startswith(f"p: pools[0].{says}")
    assert "more)" not in str(error.value)
