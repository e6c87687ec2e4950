"""JUnit XML, as CI systems read it: one test case a check, with a failure where it failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree


@dataclass(frozen=True, slots=True)
class Case:
    """One test case; ``failures`` are its messages, none where it passed."""

    name: str
    failures: tuple[str, ...] = ()
    output: str = ""


def junit_text(suite: str, cases: Sequence[Case]) -> str:
    """The XML of a suite. Characters that XML cannot hold are left out."""
    failed = sum(bool(case.failures) for case in cases)
    counts = {"tests": str(len(cases)), "failures": str(failed), "errors": "0", "skipped": "0"}
    root = ElementTree.Element("testsuites", counts)
    inside = ElementTree.SubElement(root, "testsuite", {"name": _clean(suite), **counts})
    for case in cases:
        element = ElementTree.SubElement(inside, "testcase", {"classname": _clean(suite), "name": _clean(case.name)})
        if case.failures:
            failure = ElementTree.SubElement(element, "failure", {"message": _clean(case.failures[0])})
            failure.text = _clean("\n".join(case.failures))
        if case.output:
            ElementTree.SubElement(element, "system-out").text = _clean(case.output)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _clean(text: str) -> str:
    return "".join(letter for letter in text if letter in "\t\n" or ord(letter) >= 32)
