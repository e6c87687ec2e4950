"""What a fit of host terms leaves behind: terms in ``engine_profiles/<engine>.yaml``, errors in one JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from apexsim.spec import catalog
from apexsim.spec.engine import EngineProfile, HostPreset
from apexsim.spec.files import write_atomically
from apexsim.validation.host_fit import Fitted, groups

ERRORS = "host-fit.json"


def write_terms(fits: Iterable[Fitted], folder: Path) -> list[Path]:
    """Rewrite the engine files of ``folder`` with the fitted terms; what was not fitted stays as it is."""
    fitted = {fit.group: fit for fit in fits}
    chosen = {
        (profile.engine, preset.since): fitted[group]
        for group, members in groups().items() if group in fitted for profile, preset in members
    }  # fmt: skip
    paths = []
    for profile in catalog.engine_profiles():
        presets = [_preset(preset, chosen.get((profile.engine, preset.since))) for preset in profile.presets]
        path = folder / f"{profile.engine}.yaml"
        write_atomically(path, _yaml(profile, presets))
        paths.append(path)
    return paths


def _preset(preset: HostPreset, fit: Fitted | None) -> HostPreset:
    terms: dict[str, Any] = {} if fit is None else {term: fit.terms[term] for term in preset.fitted}
    return preset.model_copy(update=terms)


def _yaml(profile: EngineProfile, presets: list[HostPreset]) -> str:
    data: dict[str, Any] = {"engine": profile.engine, "presets": []}
    for preset in presets:
        kept = preset.model_dump(mode="json", exclude_defaults=True)
        data["presets"].append(kept)
    if profile.kv_managers:
        data["kv_managers"] = [known.model_dump(mode="json", exclude_defaults=True) for known in profile.kv_managers]
    return yaml.safe_dump(data, sort_keys=False, width=120)


def write_errors(fits: Iterable[Fitted], folder: Path, date: str, version: str) -> Path:
    """The errors of each group by set and metric, fitted and left out, for the tables of the docs.

    Groups that the folder's file knows and that were not fitted now keep theirs.
    """
    path = folder / ERRORS
    fits = list(fits)
    anew = {fit.group for fit in fits}
    kept = json.loads(path.read_text("utf-8"))["rows"] if path.exists() else []
    rows = [row for row in kept if row["group"] not in anew] + [
        {
            "group": fit.group, "set": name, "metric": metric, "fitted": asdict(figures),
            "left_out": asdict(fit.left_out[name][metric]) if name in fit.left_out else None,
        }
        for fit in fits for name, metrics in fit.errors.items() for metric, figures in metrics.items()
    ]  # fmt: skip
    rows.sort(key=lambda row: (row["group"], row["set"]))
    write_atomically(path, json.dumps({"date": date, "version": version, "rows": rows}, indent=1) + "\n")
    return path
