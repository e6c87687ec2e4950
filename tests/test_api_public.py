"""``import apexsim as ax``: the public surface is what was meant, and it is lazy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import apexsim as ax

MEANT = {
    "ApexsimError", "Cluster", "HardwareProfile", "ModelSpec", "Plan", "SLO", "Trace", "__version__", "compare",
    "device", "explain", "listing", "model", "parse_slo", "plan_experts", "plan_fleet", "plan_pools",
    "plan_precision", "read_trace", "search", "simulate", "validate", "what_if",
}


def test_the_public_surface_is_what_was_meant():
    assert set(ax.__all__) == set(dir(ax)) == MEANT


@pytest.mark.parametrize("name", sorted(MEANT - {"__version__"}))
def test_every_public_name_loads_and_is_documented(name):
    found = getattr(ax, name)
    assert callable(found)
    assert found.__doc__


def test_the_stub_says_the_same_to_type_checkers():
    stub = ast.parse(Path(ax.__file__).with_suffix(".pyi").read_text())
    named = {alias.asname: f"{node.module}:{alias.name}" for node in stub.body if isinstance(node, ast.ImportFrom)
             for alias in node.names}
    assert named == ax._PUBLIC


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        ax.simulat  # noqa: B018  # the access is the test


def test_importing_the_package_imports_nothing_else():
    code = "import sys, apexsim; print([m for m in sys.modules if m.startswith('apexsim.')], 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"


def test_search_stays_the_function_when_its_package_is_imported():
    code = (
        "import apexsim as ax, apexsim.search.pareto, sys; from apexsim.search import pareto;"
        "print(pareto is sys.modules['apexsim.search.pareto'], type(ax.search).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True function"
