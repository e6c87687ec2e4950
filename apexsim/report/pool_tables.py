"""What each of several pools did, and what went between them, as tables."""

from __future__ import annotations

from apexsim.metrics.summary import Summary
from apexsim.report.tables import Table, show
from apexsim.spec.units import format_bytes


def pool_tables(summary: Summary) -> tuple[Table, ...]:
    """None where the plan has one pool."""
    if not summary.by_pool:
        return ()
    header = ("pool", "replicas", "devices", "busy", "MFU", "MBU", "KV peak", "preemptions")
    rows = tuple(
        (
            use.role, show(use.replicas, "count"), show(use.devices, "count"), show(use.busy_fraction, "share"),
            show(use.mfu, "share"), show(use.mbu, "share"), show(use.kv_peak_fraction, "share"),
            show(use.preemptions, "count"),
        )
        for use in summary.by_pool
    )  # fmt: skip
    return (Table("Pools", header, rows), *transfer_tables(summary))


def transfer_tables(summary: Summary) -> tuple[Table, ...]:
    """None where nothing went from pool to pool."""
    use = summary.transfers
    if use is None:
        return ()
    rows = (
        ("transfers", show(use.count, "count")),
        ("KV of one", format_bytes(use.mean_bytes, 4)),
        ("on its way, mean", show(use.transfer_s.mean, "s")),
        ("on its way, p99", show(use.transfer_s.p99, "s")),
        ("waited for blocks, mean", show(use.reserve_s.mean, "s")),
        ("waited for blocks, p99", show(use.reserve_s.p99, "s")),
        ("time in which something moved", show(use.busy_fraction, "share")),
    )
    return (Table("KV between pools", ("", "value"), rows),)
