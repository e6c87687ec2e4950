"""Lower bounds are what ``make test-lowest`` installs, and the package imports nothing that it does not declare."""

from __future__ import annotations

import ast
import re
import sys
import tomllib

from tests.house import ROOT, sources

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMPORTED_AS = {"pyyaml": "yaml"}
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


def imported(folder: str) -> set[str]:
    """Top-level names of everything that the files of a folder import from outside."""
    found: set[str] = set()
    for path in sources(folder):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"apexsim"}


def test_nothing_is_imported_that_is_not_declared():
    declared = {name: IMPORTED_AS.get(name, name) for name in (r.partition(">=")[0] for r in PROJECT["dependencies"])}
    assert imported("apexsim") - set(declared.values()) - TEST_TOOLS == set()
