"""Tables on narrow screens: nothing is cut off, and what says whose figure it is stands beside each."""

from __future__ import annotations

import pytest
from rich.console import Console

from apexsim.report.console import least_width, render
from apexsim.report.tables import Table

RANKING = Table(
    "Plans",
    ("#", "plan", "req/s", "95%", "TTFT ms", "USD/Mtok", "binds"),
    (
        ("=1", "4xtp1-fp8-kvfp8-t2048-s128", "189.39", "148–232", "21.7 / 120", "0.0915", "bandwidth"),
        ("=1", "4xtp1-bf16-kvfp8-t2048-s128", "163.13", "119–204", "25.3 / 152", "0.107", "compute"),
    ),
    prose=frozenset({"plan", "binds"}),
    whole=frozenset({"plan"}),
)
LONG_NAMES = Table(
    "Plans of two pools",
    ("#", "plan", "req/s", "binds"),
    (("1", "3xtp1-fp8-kvfp8-t8192-s128 + 1xtp1-fp8-kvfp8-t8192-s512", "147.25", "bandwidth"),),
    prose=frozenset({"plan", "binds"}),
    whole=frozenset({"plan"}),
)


def lines(table: Table, width: int) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(render((table,)))
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_figures_are_whole_and_beside_the_name_of_their_row(width: int) -> None:
    shown = lines(RANKING, width)
    assert max(map(len, shown)) <= width
    for row in RANKING.rows:
        for figure in row[2:]:
            assert any(row[1] in line and figure in line for line in shown), f"{figure} of {row[1]} at {width} columns"
    for name in RANKING.header:
        assert any(name in line.split() or name in line for line in shown), f"{name} at {width} columns"


def test_names_longer_than_most_of_the_screen_fold_and_lose_nothing() -> None:
    shown = lines(LONG_NAMES, 80)
    assert max(map(len, shown)) <= 80
    for piece in ("3xtp1-fp8-kvfp8-t8192-s128", "1xtp1-fp8-kvfp8-t8192-s512", "147.25", "bandwidth", "req/s"):
        assert any(piece in line for line in shown), piece


def test_a_table_of_its_least_width_is_one_piece() -> None:
    shown = lines(RANKING, least_width(RANKING))
    assert sum("plan" in line.split() for line in shown) == 1
    assert any("189.39" in line and "bandwidth" in line for line in shown)
    narrower = lines(RANKING, least_width(RANKING) - 1)
    assert sum("plan" in line.split() for line in narrower) == 2, "one column less: two parts"


def test_short_words_are_not_broken_where_other_prose_can_be() -> None:
    reasons = Table(
        "", ("", "binds", "why"), (("a", "bandwidth", "word " * 40),), prose=frozenset({"binds", "why"})
    )
    assert any("bandwidth" in line for line in lines(reasons, 60))
