"""Imports run one way, and nothing heavy is loaded before it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from importlinter import cli

from tests.house import ROOT

HEAVY = {
    "numpy", "pandas", "numba", "llvmlite", "matplotlib", "pulp", "highspy", "networkx", "scipy", "pyarrow", "joblib",
    "simpy", "pydantic", "yaml",
}
LOADED_BY_TYPER = {"pydantic"}
"""Typer checks the parameters of a command with pydantic where it is installed, even for its help."""


def test_the_import_contracts_are_kept():
    config = str(ROOT / "pyproject.toml")
    assert cli.lint_imports(config_filename=config, no_cache=True) == cli.EXIT_STATUS_SUCCESS


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], ["simulate", "--help"], ["search", "--help"]])
def test_help_loads_none_of_the_heavy_libraries(arguments):
    heavy = HEAVY - LOADED_BY_TYPER if len(arguments) > 1 else HEAVY
    code = f"""
import atexit, sys
atexit.register(lambda: sys.stderr.write(" ".join(sorted({heavy!r} & set(sys.modules)))))
sys.argv = ["apexsim", *{arguments!r}]
from apexsim.cli.main import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout
    assert done.stderr == ""
