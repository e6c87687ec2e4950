"""``report.html``: well formed, whole, the same each time, and nothing that a user wrote is taken for markup."""

from __future__ import annotations

import re
import shutil
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

import apexsim as ax
from apexsim.report.page import code, document, element, section, table
from apexsim.report.search_results import SearchReport
from apexsim.report.search_tables import defaults_line
from apexsim.report.search_words import question, slo_words
from apexsim.report.tables import Table, brief
from apexsim.search.problem import make_problem
from apexsim.spec import catalog
from apexsim.spec.slo import parse_slo
from apexsim.workload.synthetic import poisson
from tests.house import ROOT

VOID = {"meta", "img", "br", "hr", "link", "input"}
SPACE = {"tp": [2, 4], "pp": [1], "weights": ["fp8"], "kv_cache": ["bf16"], "max_num_batched_tokens": [8192],
         "max_num_seqs": [64, 256]}  # fmt: skip
EVIL = "<script>alert(1)</script>.json"


class Page(HTMLParser):
    """Reads a page strictly: every element is closed where it must be, every name is used once."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str]]] = []
        self.parents: list[tuple[str, ...]] = []
        self.text: list[str] = []
        self.style = ""
        self.feed(text)
        self.close()
        assert self.open == []
        names = [attributes["id"] for _, attributes in self.found if "id" in attributes]
        assert len(names) == len(set(names))

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.found.append((tag, dict(attrs)))
        self.parents.append(tuple(self.open))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        raise AssertionError(f"<{tag}/> is no HTML")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.style += data
        elif self.open:
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.found if name == tag]

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """The path of a config.json that spells a script."""
    path = tmp_path_factory.mktemp("models") / EVIL
    path.parent.mkdir()
    shutil.copy(ROOT / "model_specs" / "Llama-3.1-8B.json", path)
    return str(path)


def search(model: str, slo: str = "ttft=2s,tpot=100ms@0.9", cluster: str = "4xh100-sxm", **more) -> SearchReport:
    return ax.search(model, cluster, poisson(2.0, 200, 600, 150, seed=4), slo, workers=1, **({"space": SPACE} | more))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("results") / "run"


@pytest.fixture(scope="module")
def report(model: str, folder: Path) -> SearchReport:
    return search(model, out=folder, sensitivity=2, carbon=400)


@pytest.fixture(scope="module")
def page(report: SearchReport, folder: Path) -> Page:
    return Page((folder / "report.html").read_text("utf-8"))


@pytest.fixture(scope="module")
def nothing(model: str) -> SearchReport:
    """A search without a winner; some plans miss the SLO, others have more devices than there are."""
    return search(model, "ttft=1ms@0.9")


def test_every_ranked_plan_and_every_cause_is_on_it(report, page, nothing):
    assert len(report.result.ranked) > 3
    assert all(evaluation.id in page.words for evaluation in report.result.ranked)
    other = Page(nothing.to_html())
    causes = {dropped.cause for dropped in nothing.result.dropped}
    assert causes == {"slo"}
    assert "misses the SLO" in other.words
    assert "the nearest is" in other.words
    assert other.all("img") == []


def test_the_answer_is_said_with_its_doubts(report, page):
    best, verdict = report.best, report.doubt.confidence.verdicts[report.best.id]
    assert question(report.result.problem) in page.words
    low, high = verdict.goodput_ci
    assert f"{best.goodput_rps:.2f} req/s95%: {low:.3g} to {high:.3g}" in page.words
    assert f"{verdict.next_one.beats:.0%} of the draws" in page.words
    for words in (best.why, "vllm serve", report.result.problem.fingerprint, "lead", "g CO2e", "seed"):
        assert words.lower() in page.words.lower()
    for note in best.summary["confidence"]["notes"]:
        assert " ".join(note.split()) in page.words


def test_it_lists_what_lies_beside_it(folder, page):
    links = [unquote(a["href"]) for a in page.all("a") if not a["href"].startswith("#")]
    assert "launch/plan.yaml" in links
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {*links, "report.html", "journal.jsonl"} == written


def test_nothing_that_a_user_wrote_is_markup(page, report):
    assert page.all("script") == []
    assert EVIL in report.plan_yaml
    assert EVIL in page.words


def test_it_loads_and_runs_nothing(page):
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    for tag, attributes in page.found:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form", "svg"}
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "srcset", "href", "action", "poster", "data"):
            value = attributes.get(name, "")
            assert value.startswith("data:image/svg+xml;base64,") if name == "src" and value else True
            assert not re.match(r"[a-z]+:|//", value) or name == "src"
    assert not re.search(r"url\(|@import|https?:", page.style)
    for img in page.all("img"):
        drawn = b64decode(img["src"].partition(",")[2]).decode("utf-8")
        assert ElementTree.fromstring(drawn).tag.endswith("svg")
        outside = set(re.findall(r"""(?:href|src)=["']([^"'#]+)""", drawn))
        assert {value for value in outside if not value.startswith("data:")} == set()


def test_equal_results_are_equal_bytes_without_a_clock(report, folder, tmp_path):
    saved = (folder / "report.html").read_text("utf-8")
    report.save(tmp_path)
    assert (tmp_path / "report.html").read_text("utf-8") == saved
    alone = report.to_html()
    pictures = re.findall(r"data:image[^\"]+", saved)
    assert len(pictures) == 3
    assert pictures == re.findall(r"data:image[^\"]+", alone)
    slower = replace(report, result=replace(report.result, wall_s=report.result.wall_s + 1234.5))
    assert slower.to_html() == alone
    for picture in pictures:
        assert b"<dc:date>" not in b64decode(picture.partition(",")[2])


def test_it_can_be_read_aloud(page):
    """Headings in order, a caption and column headings for each table, words for each picture, links that lead."""
    levels = [int(tag[1]) for tag, _ in page.found if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page.all("caption")) == len(page.all("table")) == 3
    assert all(th.get("scope") in ("col", "row") for th in page.all("th"))
    assert all(len(img["alt"]) > 40 for img in page.all("img"))
    assert page.all("html")[0]["lang"] == "en"
    assert all(page.text)
    names = {attributes["id"] for _, attributes in page.found if "id" in attributes}
    assert {a["href"][1:] for a in page.all("a") if a["href"].startswith("#")} <= names
    assert {attributes["aria-labelledby"] for attributes in page.all("section")} <= names


def test_it_is_small(folder):
    assert (folder / "report.html").stat().st_size < 1e6


def test_a_picture_of_thousands_of_plans_stays_small(report):
    many = replace(report, result=replace(report.result, ranked=report.result.ranked * 1500))
    assert len(many.result.ranked) > 5000
    assert len(many.to_html()) < 1e6


@pytest.mark.parametrize(
    ("value", "text"), [(0.12345, "0.123"), (999.4, "999"), (999.6, "1,000"), (3842.0, "3,842"), (-1234.0, "-1,234")]
)
def test_figures_are_written_without_exponents(value, text):
    assert brief(value) == text


def test_the_space_is_said_as_it_was_searched():
    space = {"engine": "sglang", "disaggregated": {}, "colocated": False}
    asked = make_problem(
        "Llama-3.1-8B", catalog.cluster("4xh100-sxm"), poisson(2.0, 20, 600, 150, seed=4), parse_slo("ttft=1s"),
        space=space,
    )  # fmt: skip
    assert "engine=sglang" in defaults_line(asked)
    assert defaults_line(asked).endswith("only pools of their own to prefill and to decode")


def test_a_slo_is_said_in_words():
    assert slo_words(parse_slo("ttft=2s,tpot=100ms@0.95")) == "95% of them must have TTFT ≤ 2s and TPOT ≤ 100ms"
    assert slo_words(parse_slo("ttft:p99<=500ms")) == "must have p99 of TTFT ≤ 500ms"


def test_what_html_cannot_hold_is_replaced():
    """Names of files may have control characters and bytes that are no characters."""
    text = document("a\x00b", element("p", "\udcff<&>\x1b[0m", title='"\x07&'))
    text.encode("utf-8")
    page = Page(text)
    assert "\ufffd<&>\ufffd[0m" in page.words
    assert page.all("p")[0]["title"] == '"\ufffd&'


def test_text_between_elements_stays_where_it_is():
    page = Page(document("t", section("Title", "name", "one ", code("two"), " three")))
    assert page.words == "t Title one two three"


def test_cells_are_escaped_and_columns_of_numbers_marked():
    shown = Table("A <b>\nmore", ("plan", "", "why"), (("x<y", "1", "a & b"),), frozenset({"why"}), frozenset({"plan"}))
    page = Page(document("t", table(shown, "first")))
    assert "x<y" in page.words
    assert "a & b" in page.words
    assert page.all("th") == [
        {"class": "whole", "scope": "col"}, {"scope": "col"}, {"class": "whole", "scope": "row"}
    ]  # fmt: skip
    assert [td.get("class") for td in page.all("td")] == ["number", "number", None]
