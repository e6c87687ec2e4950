"""The documentation is executed: commands, snippets, links, and the names that its tables promise to explain.

A bash block after ``<!-- run -->`` runs, line by line, from a folder that looks like the repository's root;
``<!-- run: exit 3 -->`` is what its last line must end with, and each line of a text block that follows must be in
what it prints. Every python block runs. The blocks of one page share their folder and their names.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import matplotlib
import matplotlib.pyplot as plt
import pytest
import typer
from typer.testing import CliRunner

from apexsim.cli.main import app
from apexsim.report.simulation import simulate
from apexsim.search.space import Space
from apexsim.spec.schema import schemas
from benchmarks import doc_tables
from tests.house import ROOT

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
LINKED = (*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md")), *sorted(ROOT.glob("*s/README.md")))
FENCE = re.compile(
    r"(?:<!-- run(?:: exit (?P<code>\d+))? -->\n(?P<marked>))?```(?P<language>\w*)\n(?P<body>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass
class Block:
    """One fenced block; ``expected`` are the lines of a text block right behind a command."""

    language: str
    body: str
    runs: bool
    exit_code: int
    expected: list[str] = field(default_factory=list)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    end, text = 0, page.read_text("utf-8")
    for match in FENCE.finditer(text):
        language, body = match["language"], match["body"]
        if language == "text" and found and found[-1].runs and not text[end : match.start()].strip():
            found[-1].expected = [line.strip() for line in body.splitlines() if line.strip()]
        marked = match["marked"] is not None
        found.append(Block(language, body, marked or language == "python", int(match["code"] or 0)))
        end = match.end()
    return found


def pages_with(language: str) -> list[Path]:
    return [page for page in PAGES if any(block.runs and block.language == language for block in blocks(page))]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the examples where the repository has them."""
    shutil.copytree(ROOT / "docs" / "examples", tmp_path / "docs" / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", pages_with("bash"), ids=name_of)
def test_commands_do_what_the_page_says(page: Path, checkout: Path) -> None:
    for block in (block for block in blocks(page) if block.runs and block.language == "bash"):
        lines = block.body.replace("\\\n", " ").splitlines()
        for number, line in enumerate(lines, start=1):
            name, *arguments = shlex.split(line)
            assert name == "apexsim", line
            result = CliRunner().invoke(app, arguments)
            wanted = block.exit_code if number == len(lines) else 0
            assert result.exit_code == wanted, f"{line}\n{result.output}\n{result.exception!r}"
        said = " ".join(result.output.split())
        for expected in block.expected:
            assert " ".join(expected.split()) in said, f"{line}\n{result.output}"


@pytest.mark.parametrize("page", pages_with("python"), ids=name_of)
def test_snippets_run(page: Path, checkout: Path) -> None:
    matplotlib.use("Agg")
    names: dict[str, Any] = {}
    for block in blocks(page):
        if block.language == "python":
            exec(compile(block.body, name_of(page), "exec"), names)
    plt.close("all")


def test_marked_blocks_are_found() -> None:
    """A mark that the pattern misses would be a command that nobody runs."""
    for page in PAGES:
        marks = page.read_text("utf-8").count("<!-- run")
        assert marks == sum(block.runs and block.language == "bash" for block in blocks(page)), name_of(page)
    assert sum(block.runs for page in PAGES for block in blocks(page)) >= 15
    assert any(block.exit_code and block.expected for page in PAGES for block in blocks(page))


def anchors(page: Path) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    text = re.sub(r"```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def links(page: Path) -> Iterator[str]:
    text = re.sub(r"```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            yield target


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        found = (page.parent / unquote(path)).resolve() if path else page
        assert found.exists(), f"{target}: no such file"
        assert not anchor or anchor in anchors(found), f"{target}: no such heading"


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")}
    assert [name_of(page) for page in PAGES[1:] if page not in linked] == []


def words(page: str) -> set[str]:
    """Everything that stands in backticks or code."""
    text = (ROOT / page).read_text("utf-8")
    return set(re.findall(r"[\w./-]+", " ".join(re.findall(r"`([^`]+)`", text)))) | set(re.findall(r"--[\w-]+", text))


def keys(schema: dict[str, Any]) -> set[str]:
    """The properties of a JSON Schema, those of its definitions included."""
    own = set(schema.get("properties", {}))
    for part in (*schema.get("$defs", {}).values(), *schema.get("anyOf", ())):
        own |= keys(part)
    return own


@pytest.mark.parametrize("name", ["plan", "cluster", "slo"])
def test_files_explains_every_key_that_a_user_writes(name: str) -> None:
    assert sorted(keys(schemas()[name]) - words("docs/files.md")) == []


def test_files_explains_every_key_of_a_space() -> None:
    assert sorted(set(Space.model_fields) - words("docs/files.md")) == []


def nested(data: dict[str, Any], *free: str) -> set[str]:
    """Keys at every depth, but below the ``free`` ones, whose keys are names of the run."""
    found = set(data)
    for key, value in data.items():
        if isinstance(value, dict) and key not in free:
            found |= nested(value, *free)
    return found


def test_files_explains_every_key_of_the_summary_and_every_column() -> None:
    run = simulate(ROOT / "docs/examples/plan.yaml", ROOT / "docs/examples/requests.csv", "ttft=2s")
    wanted = nested(run.to_dict(), "by_limit") | set(run.to_pandas().columns)
    assert sorted(wanted - words("docs/files.md")) == []


def test_python_names_the_whole_public_surface() -> None:
    import apexsim

    public = {name for name in apexsim.__all__ if not name.startswith("_")}
    assert sorted(public - words("docs/python.md")) == []


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below a group of the command line, with its path."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def test_cli_explains_every_command_and_flag() -> None:
    text, known = (ROOT / "docs/cli.md").read_text("utf-8"), words("docs/cli.md")
    missing = []
    for path, command in commands(typer.main.get_command(app)):
        if path[-1] not in text:
            missing.append(" ".join(path))
        flags = [flag for parameter in command.params for flag in parameter.opts if flag.startswith("--")]
        missing += [f"{' '.join(path)} {flag}" for flag in flags if flag not in known and flag != "--help"]
    assert missing == []


def test_the_readme_asks_what_make_demo_asks() -> None:
    makefile, readme = ((ROOT / name).read_text("utf-8").replace("\\\n", " ") for name in ("Makefile", "README.md"))
    (demo,) = re.findall(r"apexsim (search .*--out results/demo)", makefile)
    asked = [" ".join(line.split()) for line in readme.splitlines() if "apexsim search" in line]
    assert f"apexsim {' '.join(demo.split())}" in asked


@pytest.mark.parametrize("name", sorted(doc_tables.TABLES))
def test_tables_made_from_data_are_up_to_date(name: str) -> None:
    """`python benchmarks/doc_tables.py --write` mends this."""
    assert doc_tables.written(name) == doc_tables.TABLES[name][1]()
