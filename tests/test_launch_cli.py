"""``apexsim deploy``: what is printed, what is written, what is refused."""

from __future__ import annotations

import pytest
import yaml
from typer.testing import CliRunner

from apexsim.cli.main import app
from tests.house import ROOT

EXAMPLES = ROOT / "docs" / "examples"


def run(*words: str):
    return CliRunner().invoke(app, ["deploy", *words])


def test_the_command_goes_to_stdout_and_what_it_cannot_do_to_stderr():
    result = run(str(EXAMPLES / "disaggregated.yaml"), "--engine", "sglang")
    assert result.exit_code == 0, result.stderr
    assert "python -m sglang.launch_server --model-path meta-llama/Llama-3.1-70B" in result.stdout
    assert "sglang cannot: transfer.mode=pull" in result.stderr
    assert "as the engine does by itself: pp=1" in result.stderr


def test_a_plan_that_does_not_fit_is_written_and_said():
    result = run(str(EXAMPLES / "too-large.yaml"))
    assert result.exit_code == 0
    assert "a simulation refuses this plan" in result.stderr
    assert "vllm serve" in result.stdout


def test_files_of_every_format_that_fits(tmp_path):
    result = run(str(EXAMPLES / "disaggregated.yaml"), "--out", str(tmp_path / "new"))
    assert result.exit_code == 0, result.stderr
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "launch.sh", "kubernetes.yaml", "dynamo.yaml", "llm-d.yaml"
    }  # fmt: skip


def test_one_format_with_an_image_and_a_version():
    words = ("--format", "kubernetes", "--image", "my/image:1", "--engine-version", "0.11.0")
    result = run(str(EXAMPLES / "plan.yaml"), *words)
    images = [
        container["image"]
        for each in yaml.safe_load_all(result.stdout) if each["kind"] == "StatefulSet"
        for container in each["spec"]["template"]["spec"]["containers"]
    ]  # fmt: skip
    assert images == ["my/image:1"]
    assert "# flags of vllm 0.11.0" in result.stdout


@pytest.mark.parametrize(
    ("cluster", "variable", "resource"),
    [
        ("8xascend-910c", "ASCEND_RT_VISIBLE_DEVICES=0,1", "huawei.com/Ascend910"),
        ("8xmi300x", "CUDA_VISIBLE_DEVICES=0,1", "amd.com/gpu"),  # ROCm's variable is the same
        ("8xgaudi-3", "HABANA_VISIBLE_MODULES=0,1", "habana.ai/gaudi"),
        ("8xb60", "ZE_AFFINITY_MASK=0,1", "gpu.intel.com/xe"),
        ("4xtpu-v6e", "TPU_VISIBLE_CHIPS=0,1", "google.com/tpu"),
        ("4xtrainium2", "vllm serve", "aws.amazon.com/neuron"),
    ],
)
def test_a_process_is_told_its_devices_as_their_maker_calls_them(tmp_path, cluster, variable, resource):
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"{{model: Llama-3.1-8B, cluster: {cluster}, pools: [{{tp: 2, replicas: 2}}]}}")
    result = run(str(plan))
    assert result.exit_code == 0, result.stderr
    first = next(line for line in result.stdout.splitlines() if "vllm serve" in line)
    assert first.startswith(variable)
    assert ("no variable tells processes" in result.stderr) is ("trainium" in cluster)
    assert ("needs its plug-in" in result.stderr) is (cluster[2:] not in ("mi300x", "b60"))
    assert resource in run(str(plan), "--format", "kubernetes").stdout
    elsewhere = run(str(plan), "--engine", "tensorrt-llm")
    assert f"tensorrt-llm cannot: device={cluster[2:]}: it does not run there" in elsewhere.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("plan.yaml", "--engine", "sglan"), 2, "did you mean 'sglang'"),
        (("plan.yaml", "--engine-version", "0.1"), 2, "vllm 0.1: its flags are not known (known: 0.8.5"),
        (("plan.yaml", "--engine-version", "latest"), 2, "must be a version, as 0.33.0 is"),
        (("plan.yaml", "--format", "helm"), 2, "unknown format 'helm'"),
        (("plan.yaml", "--format", "llm-d"), 2, "has no pools that prefill and decode"),
        (("disaggregated.yaml", "--format", "llm-d", "--engine", "sglang"), 2, "allowed: engine vllm"),
        (("plan.yaml", "--out", "/proc/nowhere"), 2, "cannot be written"),
        (("misspelt.yaml",), 5, "misspelt.yaml"),
        (("nowhere.yaml",), 5, "no such file"),
    ],
)
def test_mistakes_are_one_line_with_their_exit_code(words, code, said):
    result = run(str(EXAMPLES / words[0]), *words[1:])
    assert result.exit_code == code, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last
    assert result.stdout == ""
