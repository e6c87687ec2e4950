"""What ``apexsim list`` and ``ax.listing`` show: names, each with what a person picks by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from apexsim import registry
from apexsim.engine.order import ABOUT
from apexsim.engine.schedulers import PRESETS
from apexsim.errors import UsageError, unknown_name
from apexsim.report.tables import UNDEFINED, Table
from apexsim.spec import catalog
from apexsim.spec.cluster import NAMED
from apexsim.spec.units import format_bandwidth, format_bytes, format_flops

Entry = dict[str, Any]


def listing_of(kind: str) -> list[Entry]:
    """The entries of a kind of name (a key of ``_LISTINGS``); SI units."""
    return _LISTINGS[kind]()


def listing(kind: str) -> pd.DataFrame:
    """The entries of one kind of name as a table, SI units: what ``apexsim list`` prints.

    Raises:
        UsageError: there is no such kind.
    """
    if kind not in _LISTINGS:
        raise UsageError(unknown_name("listing", kind, _LISTINGS))
    return pd.DataFrame(listing_of(kind))


def table_of(kind: str, entries: list[Entry]) -> Table:
    """The entries for a person."""
    if not entries:
        return Table(kind.capitalize(), ("name",), (("none in this release",),))
    header = tuple(entries[0])
    rows = tuple(tuple(_cell(key, entry[key]) for key in header) for entry in entries)
    titles = tuple(_TITLES.get(key, key) for key in header)
    return Table(kind.capitalize(), titles, rows, prose=frozenset({"kind", "rules", "about", "costs", "weights"}))


def _models() -> list[Entry]:
    models = [catalog.model(name) for name in catalog.model_names()]
    return [
        {
            "name": model.name, "parameters": model.parameters, "active_parameters": model.active_parameters,
            "layers": model.layers, "max_context": model.max_context,
            "weights": model.quantization or model.dtype,
        }
        for model in models
    ]


def _devices() -> list[Entry]:
    profiles = [catalog.device(name) for name in catalog.device_names()]
    return [
        {
            "name": profile.name, "memory_bytes": profile.memory_bytes,
            "memory_bandwidth": profile.memory_bandwidth, "bf16_flops": profile.peak_flops.get("bf16"),
            "fp8_flops": profile.peak_flops.get("fp8"),
            "scaleup_bandwidth": profile.scaleup.bandwidth if profile.scaleup else None,
            "usd_per_hour": profile.price_usd_per_hour,
            "costs": "calibrated" if profile.kernels else "analytic",
        }
        for profile in profiles
    ]


def _clusters() -> list[Entry]:
    """Those with a name; any other is written out, ``4x8xh100-sxm``."""
    found = ((name, catalog.cluster(name)) for name in NAMED)
    return [
        {
            "name": name, "device": cluster.device, "devices": cluster.devices, "nodes": cluster.nodes,
            "devices_per_node": cluster.devices_per_node,
        }
        for name, cluster in found
    ]  # fmt: skip


def _schedulers() -> list[Entry]:
    return [
        {
            "name": name, "kind": "preset", "max_num_batched_tokens": policy.max_num_batched_tokens,
            "max_num_seqs": policy.max_num_seqs, "rules": policy.about,
        }
        for name, policy in sorted(PRESETS.items())
    ] + [
        {"name": name, "kind": "policy", "max_num_batched_tokens": None, "max_num_seqs": None, "rules": about}
        for name, about in ABOUT.items()
    ]  # fmt: skip


def _seam(seam: str) -> list[Entry]:
    """Plug-ins of a seam, each with the first sentence that it says about itself."""
    entries = []
    for name in registry.names(seam):
        about = (registry.load(seam, name).__doc__ or "").strip().partition("\n")[0]
        entries.append({"name": name, "about": about})
    return entries


def _importers() -> list[Entry]:
    readers = ((name, registry.load("importers", name)()) for name in registry.names("importers"))
    return [{"name": name, "about": reader.about} for name, reader in readers]


_LISTINGS: dict[str, Callable[[], list[Entry]]] = {
    "models": _models,
    "devices": _devices,
    "clusters": _clusters,
    "schedulers": _schedulers,
    "techniques": lambda: _seam("techniques"),
    "formats": lambda: _seam("formats"),
    "routers": lambda: _seam("routers"),
    "importers": _importers,
}

_TITLES = {
    "active_parameters": "active",
    "devices_per_node": "a node",
    "max_context": "context",
    "memory_bytes": "memory",
    "memory_bandwidth": "bandwidth",
    "bf16_flops": "bf16",
    "fp8_flops": "fp8",
    "scaleup_bandwidth": "scale-up",
    "usd_per_hour": "USD/h",
}
_SHOWN: dict[str, Callable[[Any], str]] = {
    "parameters": lambda count: f"{count / 1e9:.2f} B",
    "active_parameters": lambda count: f"{count / 1e9:.2f} B",
    "max_context": lambda tokens: f"{tokens:,}",
    "memory_bytes": lambda value: format_bytes(value, 3),
    "memory_bandwidth": lambda value: format_bandwidth(value, 3),
    "scaleup_bandwidth": lambda value: format_bandwidth(value, 3),
    "bf16_flops": lambda value: format_flops(value, 4),
    "fp8_flops": lambda value: format_flops(value, 4),
    "usd_per_hour": lambda value: f"{value:.2f}",
}


def _cell(key: str, value: Any) -> str:
    if value is None:
        return UNDEFINED
    return _SHOWN[key](value) if key in _SHOWN else str(value)
