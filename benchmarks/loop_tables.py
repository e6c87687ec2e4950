"""Tables of docs/calibrate.md: what was measured of the closed loop, and how well the CPU's own kernels were fitted."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from apexsim.cost.coefficients import load

MEASURED = Path(__file__).parents[1] / "docs" / "measured" / "cpu-closed-loop"
LOOP = ("model", "load", "requests/s", "metric", "measured", "simulated", "error of the mean", "of a request: median",
        "p90")  # fmt: skip
FITS = ("operator", "head dimension", "shapes", "held out", "median", "p90", "worst")
HOST = ("model", "an iteration", "a sequence more", "before a request", "iteration of 1", "of 16",
        "kernels' share of it")  # fmt: skip


def loop() -> Iterator[Iterable[str]]:
    """A row for each model, load and metric."""
    for path in sorted(MEASURED.glob("*/errors.csv")):
        for row in csv.DictReader(path.open(encoding="utf-8")):
            times = (f"{1e3 * float(row[f'{side}_mean_s']):.1f} ms" for side in ("measured", "simulated"))
            errors = (f"{100 * float(row[name]):.1f} %" for name in ("median_request_error", "p90_request_error"))
            yield (
                path.parent.name, row["run"].removeprefix("load-"), f"{float(row['rate_rps']):.2f}",
                row["metric"].removesuffix("_s").upper(), *times, f"{100 * float(row['mean_error']):+.1f} %", *errors,
            )  # fmt: skip


def host() -> Iterator[Iterable[str]]:
    """A row for each model: the terms, and what the fastest batches of one and of 16 took."""
    for folder in sorted(path.parent for path in MEASURED.glob("*/host.csv")):
        batches = [{name: float(cell) for name, cell in row.items()}
                   for row in csv.DictReader((folder / "host.csv").open(encoding="utf-8"))]  # fmt: skip
        ends = [min((b for b in batches if b["sequences"] == n), key=lambda b: b["measured_s"]) for n in (1, 16)]
        (engine,) = folder.glob("*/engines/*.yaml")
        terms = dict(line.strip().split(": ", 1) for line in engine.read_text("utf-8").splitlines() if ": " in line)
        shares = (f"{100 * end['device_s'] / end['measured_s']:.0f} %" for end in ends)
        yield (
            folder.name, terms["iteration"], terms["sequence"], terms["entry"],
            *(f"{1e3 * end['measured_s']:.1f} ms" for end in ends), " and ".join(shares),
        )  # fmt: skip


def fits() -> Iterator[Iterable[str]]:
    """A row for each fit of the calibrated CPU; both models ran on the same."""
    kernels = sorted(MEASURED.glob("*/*/kernels"))[0]
    for path in sorted(kernels.glob("*.json")):
        file = load(path)
        for fit in file.fits:
            errors = (f"{100 * fit.held_out[name]:.1f} %" for name in ("median", "p90", "worst"))
            width = str(fit.variant) if fit.variant else "–"
            yield file.operator.replace("_", " "), width, str(fit.rows), str(int(fit.held_out["n"])), *errors


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    cells = [tuple(header), *map(tuple, rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(cells[0]), *lines[1:]]) + "\n"


TABLES = {
    "closed loop": ("docs/calibrate.md", lambda: markdown(LOOP, loop())),
    "closed loop host": ("docs/calibrate.md", lambda: markdown(HOST, host())),
    "own kernels": ("docs/calibrate.md", lambda: markdown(FITS, fits())),
}
"""Name in the mark -> file, and what makes the table."""
