"""The pictures of a search, each with its title and with what it shows in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from apexsim.report.pictures import Picture

if TYPE_CHECKING:
    from apexsim.report.search_results import SearchReport

NAMED = 10
"""Plans of the front that are said by name."""


def search_pictures(report: SearchReport) -> tuple[Picture, ...]:
    """Drawn anew; none where no plan is feasible. Who asks for them closes them."""
    result = report.result
    if not result.ranked:
        return ()
    best, target = result.ranked[0], result.problem.slo.target
    pareto, goodput = report.plot_pareto(), report.plot_goodput()
    shown = [
        Picture(
            "pareto.png",
            "All feasible plans; those that no other beats on every count are ringed.",
            f"{pareto.get_ylabel()} over {pareto.get_xlabel()}, a dot for each of {len(result.ranked)} plans. On the "
            f"Pareto front over {', '.join(axis.label for axis in result.problem.axes)}: {_first(result.pareto)}.",
            pareto,
        ),
        Picture(
            "goodput.png",
            "SLO attainment at the rates that were tested, of the best plan of each shape; large dots are goodputs.",
            f"Curves of SLO attainment that fall as the offered rate rises. That of {best.id} falls below {target:.3g} "
            f"at {best.goodput_rps:.4g} requests/s.",
            goodput,
        ),
    ]
    if report.doubt.sensitivity is not None:
        shown.append(
            Picture(
                "sensitivity.png",
                "What other loads, step times and lengths of outputs do to the best plan and to its lead.",
                f"Headroom and lead of {best.id} under each change, as bars; the table below has the figures.",
                report.plot_sensitivity()[0],
            )
        )
    return tuple(shown)


def _first(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
