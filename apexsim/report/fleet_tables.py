"""The table of a fleet whose replicas come and go."""

from __future__ import annotations

from apexsim.metrics.summary import Summary
from apexsim.report.tables import Table, show
from apexsim.spec.units import format_bytes


def fleet_tables(summary: Summary) -> tuple[Table, ...]:
    """None where no replica ever goes."""
    use = summary.fleet
    if use is None:
        return ()
    rows = [
        ("replicas that serve, mean", f"{use.serving_mean:.4g}"),
        ("fewest, most", f"{use.serving_min}, {use.serving_max}"),
        ("device-hours", f"{use.device_hours:.4g}"),
        ("failures of replicas", show(use.failures, "count")),
        ("requests offered again", show(use.retries, "count")),
        ("requests failed", show(use.failed_requests, "count")),
    ]
    if use.added or use.released:
        rows.append(("replicas added, released", f"{use.added}, {use.released}"))
    if use.maintenance:
        rows.append(("replicas in maintenance", show(use.maintenance, "count")))
    if use.role_switches:
        rows.append(("changes of role", show(use.role_switches, "count")))
    if use.slowed_s:
        rows.append(("busy time due to stragglers", show(use.slowed_s, "s")))
    if use.lost_transfers:
        lost = f"{use.lost_transfers:,}, {format_bytes(use.lost_bytes, 4)}"
        rows.append(("transfers lost, bytes that had not gone", lost))
    return (Table("Fleet", ("", "value"), tuple(rows)),)
