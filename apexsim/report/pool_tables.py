"""What each of several pools did, and what went between them, as tables."""

from __future__ import annotations

from apexsim.metrics.summary import Summary
from apexsim.report.tables import Table, show
from apexsim.spec.units import format_bytes


def pool_tables(summary: Summary) -> tuple[Table, ...]:
    """None where the plan has one pool, and no request brings an image."""
    if not summary.by_pool:
        return encoding_tables(summary)
    header = ("pool", "replicas", "devices", "busy", "MFU", "MBU", "KV peak", "preemptions")
    rows = tuple(
        (
            use.role, show(use.replicas, "count"), show(use.devices, "count"), show(use.busy_fraction, "share"),
            show(use.mfu, "share"), show(use.mbu, "share"), show(use.kv_peak_fraction, "share"),
            show(use.preemptions, "count"),
        )
        for use in summary.by_pool
    )  # fmt: skip
    return (Table("Pools", header, rows), *encoding_tables(summary), *transfer_tables(summary))


def encoding_tables(summary: Summary) -> tuple[Table, ...]:
    """None where no request brings an image."""
    use = summary.encoding
    if use is None:
        return ()
    rows = [
        ("requests with images", show(use.requests, "count")),
        ("image slices encoded", show(use.slices, "count")),
        ("encoding, all devices", show(use.busy_s, "s")),
        ("fetched and preprocessed, mean", show(use.prepare_s.mean, "s")),
    ]
    if use.batches is not None:
        rows += [
            ("queued and encoded, mean", show(use.encode_s.mean, "s")),
            ("queued and encoded, p99", show(use.encode_s.p99, "s")),
            ("embeddings on their way, mean", show(use.transfer_s.mean, "s")),
        ]
    return (Table("Images", ("", "value"), tuple(rows)),)


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
