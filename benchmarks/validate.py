"""The error tables of README.md and docs/validation.md: every measured run of a folder of sets, simulated.

    python benchmarks/validate.py ../shared/validation            print them
    python benchmarks/validate.py ../shared/validation --write    put them between their marks

Nothing here is typed by hand: date, version, counts and errors come from the run.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from datetime import date
from itertools import product
from pathlib import Path

from apexsim import __version__
from apexsim.report.tables import Table
from apexsim.report.validation import ValidationReport, validate
from apexsim.report.validation_tables import (
    HEADLINE,
    STATISTICS,
    cells,
    note_table,
    order_table,
    percent,
    regime_table,
    request_table,
    set_table,
    skipped_table,
)
from apexsim.validation.case import read_set
from apexsim.validation.errors import by_metric
from apexsim.validation.run import simulate_all
from apexsim.validation.sets import find_sets

ROOT = Path(__file__).parents[1]
PAGES = ("docs/validation.md", "README.md")
MARK = r"(<!-- table: {name} -->\n)(.*?)(<!-- end of table -->)"

ENDS = {"none of the prompt tokens cached": "0", "half of them cached": "0.5"}
"""Both ends of what a set leaves open that does not publish how many prompt tokens its prefix cache held."""

GUESSES = {"speculative = none": "speculative = mtp"}
"""What rows are taken to have run where nobody can tell -> the other thing that they may have."""

SHORT = {
    "ttft_mean_s": "TTFT", "tpot_mean_s": "TPOT", "itl_mean_s": "ITL mean", "itl_p50_s": "ITL p50",
    "e2e_mean_s": "E2E", "output_tokens_per_s": "throughput", "power_w_per_device": "power",
}  # fmt: skip
"""Columns of the short table."""


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]]) + "\n"


def of(table: Table) -> str:
    """A table of the report, with its title."""
    return f"{table.title}:\n\n{markdown(table.header, table.rows)}" if table.rows else ""


def heading(report: ValidationReport) -> str:
    """What was run, when, and with which version."""
    return f"{report.heading}. apexsim {__version__}, {date.today().isoformat()}, `make validate`.\n"


def short(report: ValidationReport, _folder: Path) -> str:
    """Median absolute error of the means, one line a set."""
    rows = []
    for name, outcomes in report.result.groups.items():
        figures = by_metric(outcomes)
        if figures:
            medians = (figures[c].median_abs_error if c in figures else None for c in SHORT)
            rows.append((name, f"{len(outcomes):,}", *map(percent, medians)))
    title = "Median absolute errors, simulated against measured (–: not measured).\n"
    return "\n".join((heading(report), title, markdown(("set", "runs", *SHORT.values()), rows)))


def long(report: ValidationReport, folder: Path) -> str:
    """All tables of the report, and the two ends of what a set leaves open."""
    result = report.result
    parts = [
        heading(report), of(set_table(result)), both_ends(report, folder), otherwise(report, folder),
        of(regime_table(result.simulated)), of(request_table(result)), of(order_table(result.orders)),
        of(note_table(result.simulated)), of(skipped_table(result)),
    ]  # fmt: skip
    return "\n".join(part for part in parts if part)


def both_ends(report: ValidationReport, folder: Path) -> str:
    """Sets whose prefix cache is a guess, with that guess at either end."""
    guessed = {
        outcome.set for outcome in report.result.simulated
        if any(text.startswith("prefix_hit_share") for text in outcome.assumptions)
    }  # fmt: skip
    rows = []
    for name in sorted(guessed):
        for words, share in ENDS.items():
            ends = validate(folder, sets=[name], assume={"prefix_hit_share": share})
            figures = by_metric(ends.result.simulated)
            rows += [(name, words, c, *cells(figures[c])) for c in HEADLINE if c in figures]
    if not rows:
        return ""
    title = "Where the share of prompt tokens found in the prefix cache is not published, at either end:"
    return f"{title}\n\n{markdown(('set', 'prefix cache', 'metric', *STATISTICS), rows)}"


def otherwise(report: ValidationReport, folder: Path) -> str:
    """Rows that rest on a guess, with the other thing that they may have run."""
    rows = []
    for (guess, other), name in product(GUESSES.items(), report.result.sets):
        mine = [outcome for outcome in report.result.of(name) if guess in outcome.guessed]
        runs, assume = {outcome.run for outcome in mine}, dict([other.split(" = ")])
        tables = [table for table in find_sets(folder).sets if table.name == name] if mine else []
        cases = [case for table in tables for case in read_set(table, assume) if case.run in runs]
        for words, outcomes in ((guess, mine), (other, simulate_all(cases) if cases else ())):
            figures = by_metric(outcomes)
            rows += [(name, words, c, *cells(figures[c])) for c in HEADLINE if c in figures]
    if not rows:
        return ""
    title = "Rows that do not say which of two things ran, all taken as the one and all as the other:"
    return f"{title}\n\n{markdown(('set', 'taken', 'metric', *STATISTICS), rows)}"


TABLES: dict[str, Callable[[ValidationReport, Path], str]] = {"validation": long, "validation in short": short}
"""Name in the mark -> what makes the text. A page shows those whose mark it has."""


def write(page: Path, name: str, text: str) -> bool:
    """Put the text between its marks; False where the page has none."""
    before = page.read_text("utf-8")
    pattern = MARK.format(name=re.escape(name))
    after, count = re.subn(pattern, lambda m: f"{m.group(1)}\n{text}\n{m.group(3)}", before, flags=re.DOTALL)
    if count:
        page.write_text(after, "utf-8")
    return count > 0


def main() -> None:
    folders = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("--")]
    if len(folders) != 1 or not folders[0].is_dir():
        sys.exit(f"usage: {Path(sys.argv[0]).name} FOLDER [--write]: a folder of validation sets")
    report = validate(folders[0])
    for name, make in TABLES.items():
        text = make(report, folders[0])
        if "--write" in sys.argv[1:]:
            pages = [page for page in PAGES if write(ROOT / page, name, text)]
            print(f"{name}: written to {', '.join(pages) or 'no page: none has its mark'}")
        else:
            print(text)
    print(f"{report.wall_s:.0f} s")


if __name__ == "__main__":
    main()
