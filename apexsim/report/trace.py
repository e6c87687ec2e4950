"""Tables of what a trace is like."""

from __future__ import annotations

from typing import Any

from apexsim.report.tables import UNDEFINED, Table, show

LENGTHS = ("mean", "min", "p50", "p90", "p99", "max")
MOST_CLASSES = 12
"""More rows than this hide the others; the JSON has all classes."""


def trace_tables(described: dict[str, Any]) -> tuple[Table, ...]:
    """Overview and token lengths, from what ``workload.stats.describe`` found."""
    return _overview(described), _lengths(described)


def _overview(described: dict[str, Any]) -> Table:
    dropped = described["dropped"]
    rows = [
        ("requests", show(described["requests"], "count")),
        ("dropped rows", ", ".join(f"{count:,} {reason}" for reason, count in dropped.items()) or "0"),
        ("span", show(described["span_s"], "s")),
        ("rate", show(described["rate_rps"], "requests/s")),
        ("CV of the gaps", _bare(described["iat_cv"])),
        ("CV of the gaps, median of 5-minute windows", _bare(described["iat_cv_5min_median"])),
        ("variance / mean of arrivals per second", _bare(described["dispersion_1s"])),
        ("input", show(described["input_tokens_per_s"], "tokens/s")),
        ("output", show(described["output_tokens_per_s"], "tokens/s")),
    ]
    if sessions := described["sessions"]:
        rows += [
            ("sessions", show(sessions["sessions"], "count")),
            ("requests a session (mean, p50, max)", "{turns_mean:.2f}, {turns_p50:g}, {turns_max}".format(**sessions)),
        ]
    if len(priorities := described["priorities"]) > 1:
        rows.append(("requests by priority", ", ".join(f"{name}: {count:,}" for name, count in priorities.items())))
    if clients := described["clients"]:
        rows += [
            ("clients", show(clients["clients"], "count")),
            ("requests of the largest client", show(clients["largest_share"], "share")),
        ]
    if adapters := described["adapters"]:
        rows += [
            ("LoRA adapters", show(adapters["adapters"], "count")),
            ("requests of the most popular adapter", show(adapters["largest_share"], "share")),
            ("requests of the base model alone", show(adapters["base_share"], "share")),
        ]
    if deadlines := described["deadlines"]:
        rows.append(("deadlines (requests, median)", "{requests:,}, {p50_s:g} s".format(**deadlines)))
    if images := described["images"]:
        rows += [
            ("requests with images", show(images["requests"], "count")),
            ("image slices of those (mean, max)", "{mean:.4g}, {max:,}".format(**images["slices"])),
        ]
    if prefix := described["prefix"]:
        if "ideal_reuse" in prefix:
            rows += [
                ("hashed blocks (tokens each)", f"{prefix['blocks']:,} ({prefix['block_tokens']})"),
                ("blocks seen before (endless cache)", show(prefix["ideal_reuse"], "share")),
            ]
        else:
            rows.append(("input tokens shared with earlier requests", show(prefix["shared_token_share"], "share")))
    return Table(described["source"] or described["name"], ("", "value"), tuple(rows))


def _lengths(described: dict[str, Any]) -> Table:
    rows = [_row("input", described["input_tokens"]), _row("output", described["output_tokens"])]
    classes = described["classes"]
    largest = sorted(classes, key=lambda name: (-classes[name]["requests"], name))[:MOST_CLASSES]
    for name in largest if len(classes) > 1 else ():
        label = f"{name} ({classes[name]['requests']:,} requests)"
        rows += [_row(f"{label}: {part}", classes[name][f"{part}_tokens"]) for part in ("input", "output")]
    if len(classes) > MOST_CLASSES:
        rows.append((f"… {len(classes) - MOST_CLASSES} more classes", *([""] * len(LENGTHS))))
    return Table("Tokens of a request", ("", *LENGTHS), tuple(rows))


def _row(name: str, lengths: dict[str, float]) -> tuple[str, ...]:
    return (name, *(f"{lengths[which]:,.0f}" for which in LENGTHS))


def _bare(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.3g}"
