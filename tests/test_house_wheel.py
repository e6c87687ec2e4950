"""The wheel is whole: installed alone, in an empty folder, it knows its data and runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from apexsim import __version__
from apexsim.spec import catalog
from tests.house import ROOT
from tests.scenario_worlds import PLAN_YAML


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from the checkout as ``pip install`` builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory) -> Path:
    """A folder that holds the wheel and nothing else; dependencies come from the environment of the tests."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    return target


def apexsim(installed: Path, folder: Path, *arguments: str) -> str:
    """Standard output of the installed ``python -m apexsim`` in ``folder``."""
    kernels = str(installed / "cache")  # of a copy that is thrown away: not into the user's cache
    environment = os.environ | {"PYTHONPATH": str(installed), "APEXSIM_CACHE_DIR": kernels}
    command = [sys.executable, "-m", "apexsim", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_data_and_says_that_it_is_typed(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"apexsim/py.typed", "apexsim/__init__.pyi", "apexsim/_data/traces/burstgpt-day.csv.gz"} <= names
    assert {f"apexsim/_data/hardware_profiles/{name}/profile.yaml" for name in catalog.device_names()} <= names
    assert {name for name in names if name.startswith("apexsim/_data/model_specs/") and name.endswith(".json")}
    assert not {name for name in names if name.startswith(("tests/", "benchmarks/", "docs/"))}


def test_every_data_file_of_the_checkout_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    folders = ("hardware_profiles", "model_specs", "traces")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    assert {f"apexsim/_data/{path.relative_to(ROOT).as_posix()}" for path in files} <= names


def test_the_installed_copy_is_what_runs(installed, tmp_path):
    code = "import apexsim, apexsim.spec.catalog as c; print(apexsim.__file__, c.data_root())"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert all(Path(where).is_relative_to(installed) for where in done.stdout.split())


def test_it_answers_and_lists_in_an_empty_folder(installed, tmp_path):
    assert "simulate" in apexsim(installed, tmp_path, "--help")
    assert apexsim(installed, tmp_path, "--version") == f"apexsim {__version__}\n"
    models = json.loads(apexsim(installed, tmp_path, "list", "models", "--json"))
    devices = json.loads(apexsim(installed, tmp_path, "list", "devices", "--json"))
    assert {entry["name"] for entry in models} == set(catalog.model_names())
    assert {entry["name"] for entry in devices} == set(catalog.device_names())
    assert list(tmp_path.iterdir()) == []


def test_it_simulates_the_bundled_trace_in_an_empty_folder(installed, tmp_path):
    (tmp_path / "plan.yaml").write_text(PLAN_YAML)
    out = apexsim(
        installed, tmp_path, "simulate", "plan.yaml", "--trace", "burstgpt-day", "--requests", "200", "--json", "-"
    )
    assert json.loads(out)["requests"]["completed"] == 200


def test_the_script_is_installed(installed, tmp_path):
    script = installed / "bin" / "apexsim"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run([script, "--version"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == f"apexsim {__version__}\n"
