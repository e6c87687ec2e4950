"""A file over 400 lines, or a function over 60, is two things."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.house import ROOT, sources

FILE_LINES, FUNCTION_LINES = 400, 60

EXCEPTIONS: dict[str, str] = {}
"""Path, or path:function -> why it may be longer."""


def functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every function with its lines, from ``def`` to its end, docstring and comments included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def too_long() -> dict[str, int]:
    """Path or path:function -> lines, of all that are over the limit."""
    found = {}
    for path in sources("apexsim", "tests", "benchmarks"):
        text = path.read_text(encoding="utf-8")
        where = path.relative_to(ROOT).as_posix()
        if (lines := len(text.splitlines())) > FILE_LINES:
            found[where] = lines
        found |= {f"{where}:{name}": lines for name, lines in functions(ast.parse(text)) if lines > FUNCTION_LINES}
    return found


def test_files_and_functions_are_one_thing_each():
    assert {where: lines for where, lines in too_long().items() if where not in EXCEPTIONS} == {}


def test_every_exception_is_needed_and_has_a_reason():
    assert set(EXCEPTIONS) <= set(too_long())
    assert all(reason.strip() for reason in EXCEPTIONS.values())


def test_length_is_counted_from_def_to_the_last_line():
    tree = ast.parse("@decorated\ndef f():\n    '''Doc.'''\n\n    return 1\n\n\nclass C:\n    def g(self): pass\n")
    assert dict(functions(tree)) == {"f": 4, "g": 1}
