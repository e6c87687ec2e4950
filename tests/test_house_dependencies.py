"""Lower bounds are what ``make test-lowest`` installs, and the package imports nothing that it does not declare."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pulp

from tests.house import ROOT, sources

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMPORTED_AS = {"pyyaml": "yaml"}
PARTS = {"pydantic_core"}
"""Packages that are a half of a declared one and come in its version."""
EXTRAS = ("calibrate", "ray", "dask")
OPTIONAL = {r.partition(">=")[0] for extra in EXTRAS for r in PROJECT["optional-dependencies"][extra]} | {"dask"}
"""What only an extra brings; ``distributed`` brings ``dask``."""
TEST_TOOLS = {"pytest", "hypothesis"}
"""What ``apexsim.testing`` may import: who runs a contract suite has them."""


def test_lowest_versions_are_the_lower_bounds():
    declared = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    lines = (ROOT / ".ci" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert pinned == [requirement.replace(">=", "==") for requirement in declared]


def test_every_dependency_has_a_lower_bound_and_no_upper_one():
    for requirement in PROJECT["dependencies"]:
        assert re.fullmatch(r"[a-z-]+>=[\d.]+", requirement)


def test_every_dependency_is_recorded_with_its_reason():
    record = (ROOT / "docs" / "decisions" / "0001-dependencies.md").read_text(encoding="utf-8")
    declared = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    missing = [r for r in declared if f"| {r.partition('>=')[0]} | {r.partition('>=')[2]} |" not in record]
    assert missing == []


def imported_by(path: Path) -> set[str]:
    """Top-level names of everything that a file imports from outside."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"apexsim"}


def imported(folder: str) -> set[str]:
    """The same of all files of a folder."""
    return set().union(*(imported_by(path) for path in sources(folder)))


def test_nothing_is_imported_that_is_not_declared():
    declared = {IMPORTED_AS.get(name, name) for name in (r.partition(">=")[0] for r in PROJECT["dependencies"])}
    assert imported("apexsim") - declared - OPTIONAL - PARTS - TEST_TOOLS == set()


def test_only_files_that_say_so_in_their_name_import_an_optional_library():
    """``torch_*.py``, ``ray_*.py`` and so on, which are loaded when they are asked for."""
    users = {path.name for path in sources("apexsim") if OPTIONAL & imported_by(path)}
    assert users
    assert all(name.startswith(("torch_", "transformers_", "ray_", "dask_")) for name in users), users


def test_the_solver_of_integer_programs_works_as_we_call_it():
    """The one way that PuLP 3.3 and 4 share; PuLP 4 has neither ``LpVariable.dicts`` nor a solver of its own."""
    weight, value = (3, 4, 5), (4, 5, 7)
    knapsack = pulp.LpProblem("knapsack", pulp.LpMaximize)
    taken = knapsack.add_variable_dicts("taken", range(3), lowBound=0, upBound=1, cat="Integer")
    knapsack += pulp.lpSum(value[i] * taken[i] for i in range(3))
    knapsack += pulp.lpSum(weight[i] * taken[i] for i in range(3)) <= 8
    knapsack.solve(pulp.HiGHS(msg=False, timeLimit=10, gapRel=0.0))
    assert [round(pulp.value(taken[i])) for i in range(3)] == [1, 0, 1]
