"""House rules that a reviewer would otherwise have to look for."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from apexsim import errors
from tests.house import ROOT, sources, tracked

PACKAGE = list(sources("apexsim"))
EDGE = ROOT / "apexsim" / "cli"

UNFINISHED = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error")))
A_MACHINE = re.compile(r"(?<![\w./-])/(?:root|work|home/\w+|Users/\w+|opt/wheels)/")

MAY_PRINT: dict[str, str] = {
    "apexsim/__main__.py": "hands over to cli.main",
}
"""Files outside cli/ that may end the program or write to its streams, each with its reason."""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def prints_and_exits(tree: ast.Module) -> Iterator[str]:
    """Calls and names that reach the terminal or end the process."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in {"print", "exit", "quit", "input", "sys.exit", "os._exit", "os.abort"}:
                yield called
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in {"sys.stdout", "sys.stderr", "typer.echo"}:
            yield ast.unparse(node)
        elif isinstance(node, ast.Name) and node.id == "SystemExit":
            yield node.id


def test_only_the_command_line_prints_or_exits():
    found = {
        name_of(path): sorted(set(prints_and_exits(parsed(path))))
        for path in PACKAGE
        if EDGE not in path.parents and name_of(path) not in MAY_PRINT
    }
    assert {where: what for where, what in found.items() if what} == {}


@pytest.mark.parametrize("line", ["print(1)", "sys.exit(2)", "raise SystemExit", "sys.stderr.write('x')"])
def test_printing_and_exiting_are_noticed(line):
    assert list(prints_and_exits(ast.parse(line)))


PACKED = ROOT / "hardware_profiles"
"""Coefficient files here hold packed numbers, which may spell any word."""


def test_nothing_is_left_unfinished():
    written = (path for path in tracked() if not (PACKED in path.parents and path.suffix == ".json"))
    assert {name_of(path) for path in written if UNFINISHED.search(path.read_text(encoding="utf-8"))} == set()


def test_no_path_of_a_machine_is_tracked():
    here = Path(__file__)
    hits = {name_of(p): m.group() for p in tracked() if p != here and (m := A_MACHINE.search(p.read_text("utf-8")))}
    assert hits == {}


def undocumented(tree: ast.Module) -> Iterator[str]:
    """Public classes and functions of a module that say nothing about themselves."""
    for node in tree.body:
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if named and not node.name.startswith("_") and not ast.get_docstring(node):
            yield node.name


@pytest.mark.parametrize("path", PACKAGE, ids=name_of)
def test_every_module_and_every_public_thing_in_it_has_a_docstring(path):
    tree = parsed(path)
    assert not tree.body or ast.get_docstring(tree)
    assert list(undocumented(tree)) == []


def test_exit_codes_are_those_of_the_design():
    """Each class owns its code: 2 usage, 3 nothing fits, 4 regression, 5 bad input; anything else is a bug, 1."""
    tree = {cls.__name__: cls.exit_code for cls in errors.ApexsimError.__subclasses__()}
    assert tree == {"UsageError": 2, "NoFeasiblePlan": 3, "Regression": 4, "InputError": 5}
    assert errors.ApexsimError.exit_code == 1
    assert all(cls.__doc__ for cls in errors.ApexsimError.__subclasses__())
