"""The command line itself: fast to answer, quiet when its reader leaves, and what it lists."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from apexsim import __version__, registry
from apexsim.cli.main import app
from apexsim.engine.order import ORDERS
from apexsim.engine.schedulers import preset_names
from apexsim.spec import catalog
from apexsim.spec.cluster import NAMED

HEAVY = {
    "numpy", "pandas", "numba", "matplotlib", "rich.console", "pydantic", "yaml", "networkx", "pulp", "scipy", "simpy",
}


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_help_names_every_command():
    result = run("--help")
    assert result.exit_code == 0
    for command in ("simulate", "search", "validate", "import", "trace", "list", "schema"):
        assert command in result.stdout


def test_version():
    assert run("--version").stdout == f"apexsim {__version__}\n"


def test_the_command_line_loads_nothing_heavy_before_a_command_runs():
    code = f"import sys, apexsim.cli.main; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_reader_that_leaves_early_is_no_error():
    code = "from apexsim.cli.main import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        process.wait(timeout=60)
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("models", catalog.model_names()),
        ("devices", catalog.device_names()),
        ("schedulers", (*preset_names(), *ORDERS)),
        ("techniques", registry.names("techniques")),
        ("formats", registry.names("formats")),
        ("routers", registry.names("routers")),
        ("importers", registry.names("importers")),
        ("clusters", tuple(NAMED)),
    ],
)
def test_list_shows_every_name(kind, names):
    listed = json.loads(run("list", kind, "--json").stdout)
    assert {entry["name"] for entry in listed} == set(names)
    shown = run("list", kind)
    assert shown.exit_code == 0
    assert all(name in shown.stdout for name in names)


def test_list_of_an_unknown_kind_ends_with_2():
    result = run("list", "modls")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: unknown kind 'modls'; did you mean 'models'?")
    assert len(result.stderr.splitlines()) == 1


def test_no_argument_at_all_shows_the_help():
    for arguments in ((), ("trace",)):
        result = run(*arguments)
        assert "Usage" in result.output
        assert "Traceback" not in result.output


def test_a_space_that_is_not_there_names_its_flag():
    result = run("search", "--model", "x", "--cluster", "x", "--trace", "x", "--slo", "x", "--space", "nope.yaml")
    assert (result.exit_code, result.stderr) == (5, "error: --space nope.yaml: no such file\n")


@pytest.mark.parametrize(
    ("flag", "value", "allowed"),
    [
        ("--seed", "-1", "greater than or equal to 0"),
        ("--max-usd-per-hour", "5USD", "valid number"),
        ("--strategy", "grd", "did you mean 'grid'? (known: auto, grid, race)"),
    ],
)
def test_a_wrong_value_of_a_flag_is_shown_with_what_is_allowed(tmp_path, flag, value, allowed):
    question = ("--model", "Llama-3.1-8B", "--cluster", "1xh100-sxm", "--trace", "burstgpt-peak", "--slo", "ttft=1s")
    result = CliRunner().invoke(app, ["search", *question, "--out", str(tmp_path), flag, value])
    said = result.stderr.splitlines()[-1]
    assert result.exit_code == 2
    assert said.startswith("error: ")
    assert flag in said or "strategy" in said
    assert value in said
    assert allowed in said


def test_schema_prints_one_or_all():
    every = json.loads(run("schema").stdout)
    assert {"plan", "cluster", "slo", "hardware-profile", "model"} <= set(every)
    assert json.loads(run("schema", "plan").stdout) == every["plan"]
    assert every["plan"]["additionalProperties"] is False


def test_schema_of_an_unknown_name_ends_with_2_and_the_nearest():
    result = run("schema", "plann")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: unknown schema 'plann'; did you mean 'plan'?")
