"""Every key of every file that a user writes stands in a table of the docs, with its default; invariants are numbered.

The classes come from the JSON Schemas, so a new key or a new nested mapping fails here until a page explains it.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from apexsim.search.space import Space
from apexsim.spec.schema import schemas
from apexsim.workload.formats.own import COLUMNS
from tests.house import ROOT

TABLES = {
    "plan": ("files.md", "A plan"), "Pool": ("files.md", "A plan"), "Scheduler": ("files.md", "A plan"),
    "Experts": ("files.md", "A plan"), "KvTier": ("files.md", "A KV tier"), "Cluster": ("files.md", "A cluster"),
    "DeviceGroup": ("files.md", "A cluster"), "slo": ("files.md", "An SLO"), "SLO": ("files.md", "An SLO"),
    "Limit": ("files.md", "An SLO"), "Speculative": ("speculation.md", "What a plan says"),
    "AttentionDp": ("parallelism.md", "Prompts of all ranks together"),
    "Fleet": ("fleet.md", "Keys"), "Autoscale": ("fleet.md", "Autoscaling"), "Failures": ("fleet.md", "Failures"),
    "Failure": ("fleet.md", "Failures"), "Straggler": ("fleet.md", "Stragglers"), "Drain": ("fleet.md", "Maintenance"),
    "Switch": ("fleet.md", "Changes of role"), "SwitchPool": ("fleet.md", "Changes of role"),
    "Transfer": ("pools.md", "A request's way"), "Network": ("network.md", "What a cluster says"),
    "Lora": ("lora.md", "LoRA adapters"), "PrecisionRule": ("precision.md", "Single layers"),
}  # fmt: skip
"""Class of a user's file → the page and the section that explain its keys."""

LAWS = {"Zipf", "Popularity"}
"""Mappings of one key, ``{zipf: 1.0}``: explained in the row of the key that holds them."""


def section(page: str, heading: str) -> str:
    """The text below a heading, up to the next one of any level."""
    text = (ROOT / "docs" / page).read_text("utf-8")
    parts = re.split(r"^#+ (.+)$", text, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    return found[heading]


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """Key → the defaults that its rows give; a row may name several keys, with as many defaults."""
    found: dict[str, list[str]] = {}
    for line in section(page, heading).splitlines():
        if not line.startswith("| `"):
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        keys = re.findall(r"`(\w+)`", cells[0])
        each = cells[1].split(", ")
        for place, key in enumerate(keys):
            found.setdefault(key, []).append(each[place] if len(each) == len(keys) > 1 else cells[1])
    return found


def own_keys(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Properties of a class, those of its alternatives included."""
    found: dict[str, dict[str, Any]] = dict(schema.get("properties", {}))
    for part in schema.get("anyOf", ()):
        found |= own_keys(part)
    return found


def classes() -> dict[str, dict[str, Any]]:
    """The classes of what a user writes in a plan, a cluster or an SLO."""
    found = {}
    for name in ("plan", "cluster", "slo"):
        schema = schemas()[name]
        found |= {name: schema} | schema.get("$defs", {})
    return {name: schema for name, schema in found.items() if own_keys(schema) and name not in LAWS}


@pytest.mark.parametrize("name", sorted(classes()))
def test_every_key_has_a_row_with_its_default(name: str) -> None:
    schema = classes()[name]
    page, heading = TABLES["Cluster" if name == "cluster" else name]
    table = rows(page, heading)
    keys = own_keys(schema)
    assert sorted(set(keys) - set(table)) == [], f"{page}, {heading}"
    needed = set(schema.get("required", ())) | {
        key for part in schema.get("anyOf", ()) for key in part.get("required", ())
    }
    for key, about in keys.items():
        default = about.get("default")
        said = [word.strip("`") for word in table[key]]
        if key in needed:
            assert "–" in said, f"{key} is needed, and its row says {said}"
        elif isinstance(default, bool):
            assert str(default).lower() in said, key
        elif isinstance(default, str | int | float):
            assert f"{default:g}" in said if not isinstance(default, str) else default in said, (key, said)
        else:
            assert all(word and word != "–" for word in said), key


def test_every_key_of_a_space_has_a_row() -> None:
    table = rows("files.md", "A space")
    assert sorted(set(Space.model_fields) - set(table)) == []


def test_every_column_of_a_trace_has_a_row() -> None:
    assert sorted(set(COLUMNS) - set(rows("files.md", "Traces"))) == []


# --- invariants -----------------------------------------------------------------------------------------------


def invariants() -> list[tuple[int, str]]:
    """(number, who checks it) of each row."""
    text = (ROOT / "docs/invariants.md").read_text("utf-8")
    return [(int(number), by) for number, by in re.findall(r"^\| (\d+) \|.* \| (.+) \|$", text, re.MULTILINE)]


def test_an_invariant_has_a_number_of_its_own() -> None:
    numbers = [number for number, _ in invariants()]
    assert len(numbers) >= 55
    assert numbers == sorted(set(numbers))


def test_each_invariant_names_a_test_that_exists() -> None:
    folders = (ROOT / "tests", ROOT / "apexsim/testing")
    sources = " ".join(path.read_text("utf-8") for folder in folders for path in folder.glob("*.py"))
    defined = set(re.findall(r"def (test_\w+)", sources))
    for number, by in invariants():
        named = re.findall(r"`(test_\w+)`", by)
        assert named, f"{number} names no test"
        assert sorted(set(named) - defined) == [], number


def test_a_test_with_a_number_stands_in_the_row_of_that_number() -> None:
    held = {name: number for number, by in invariants() for name in re.findall(r"`(test_\w+)`", by)}
    for path in (ROOT / "tests").glob("test_*invariants.py"):
        for name, number in re.findall(r"^def (test_(\d+)_\w+)", path.read_text("utf-8"), re.MULTILINE):
            assert held.get(name) == int(number), name
