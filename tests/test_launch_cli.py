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
