"""Tables of the host terms: what they are, and how far simulated runs are off with them, each set in and left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from apexsim.spec import catalog
from apexsim.spec.engine import HostPreset
from apexsim.spec.units import format_seconds
from apexsim.validation.host_files import ERRORS

SHOWN = (
    "e2e_mean_s", "tpot_mean_s", "itl_mean_s", "itl_p50_s", "ttft_mean_s", "output_tokens_per_s", "power_w_per_device",
)  # fmt: skip
"""Metrics that the table of errors shows."""


def markdown(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]]) + "\n"


def terms() -> str:
    """Every preset; fitted terms are bold."""
    header = (
        "engine, from", "iteration", "a sequence more", "where", "gap", "a sequence more", "entry", "exit",
        "bytes a logit", "launch", "fitted on",
    )  # fmt: skip
    rows = [
        (
            f"{profile.engine} {preset.since}", _term(preset, "iteration"), _term(preset, "sequence"),
            "beside the device" if preset.asynchronous else "before it", _term(preset, "gap"),
            _term(preset, "gap_sequence"), _term(preset, "entry"), _term(preset, "exit"),
            _term(preset, "logit_bytes"), _term(preset, "eager_kernel"), ", ".join(preset.sets) or "nothing",
        )
        for profile in catalog.engine_profiles() for preset in profile.presets
    ]  # fmt: skip
    return markdown(header, rows)


def _term(preset: HostPreset, name: str) -> str:
    value: float = getattr(preset, name)
    text = f"{value:.0f}" if name == "logit_bytes" else format_seconds(value)
    return f"**{text}**" if name in preset.fitted else text


def errors() -> str:
    """Median absolute errors over all runs of a set, with terms fitted with it and without it."""
    path = catalog.data_root() / "engine_profiles" / ERRORS
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    rows = [
        (
            row["group"], row["set"], row["metric"], str(row["fitted"]["n"]), _share(row["fitted"]),
            _share(row["left_out"]) if row["left_out"] else "one set only",
        )
        for row in found["rows"] if row["metric"] in SHOWN
    ]  # fmt: skip
    made = f"Made on {found['date']} by version {found['version']}.\n\n"
    return made + markdown(("presets", "set", "metric", "runs", "median error", "with the set left out"), rows)


def _share(figures: dict[str, float]) -> str:
    return f"{100 * figures['median_abs_error']:.1f} %"


TABLES: dict[str, tuple[str, Callable[[], str]]] = {
    "host terms": ("docs/cost.md", terms),
    "host errors": ("docs/cost.md", errors),
}
