"""Names to values: models, devices, clusters, SLOs and plans.

A name is a file's name, an alias (full Hugging Face name) or a path, upper and lower case alike. Two matches
are an error; an unknown name says which one is nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

from apexsim.errors import ApexsimError, InputError, UsageError, unknown_name
from apexsim.spec import huggingface
from apexsim.spec.base import load_file, load_yaml, parse
from apexsim.spec.cluster import Cluster
from apexsim.spec.dtypes import WeightDtype
from apexsim.spec.engine import EngineProfile
from apexsim.spec.formats import word_of
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.model import ModelSpec, Part
from apexsim.spec.plan import Plan
from apexsim.spec.quantization import Quantization
from apexsim.spec.slo import SLO, parse_slo

_PACKAGE = Path(__file__).resolve().parent.parent
_OWN_KEY = "_apexsim"  # in a file of model_specs/: aliases, quantised aliases, source


def data_root() -> Path:
    """The folder with model_specs/, hardware_profiles/ and traces/: the wheel's, else the checkout's."""
    shipped = _PACKAGE / "_data"
    return shipped if shipped.is_dir() else _PACKAGE.parent


def model(name_or_path: str | Path) -> ModelSpec:
    """The model of that name, alias or path (a config.json or its folder).

    Raises:
        UsageError: nobody knows the name, or two things have it.
        InputError: the file cannot be read.
    """
    text = str(name_or_path)
    known = _model_index().get(text.lower(), {})
    path = _as_path(text)
    if len(known) + (path is not None) > 1:
        matches = [*sorted(known), *([f"./{text}"] if path else [])]
        raise UsageError(f"model {text!r} is ambiguous: {', '.join(matches)}; name one of them in full")
    if known:
        (entry,) = known.values()
        return _load_entry(entry)
    if path is not None:
        return huggingface.load_model(path)
    raise UsageError(unknown_name("model", text, model_names(), hints=_aliases()))


@dataclass(frozen=True, slots=True)
class Published:
    """A checkpoint by its full Hugging Face name, and those of the same model in other formats: name, weights."""

    name: str
    quantized: tuple[tuple[str, str], ...]


def published(name_or_path: str) -> Published | None:
    """The checkpoint that a model's name stands for; None for a path, of which nobody says where it came from."""
    known = _model_index().get(name_or_path.lower(), {})
    if len(known) != 1:
        return None
    (entry,) = known.values()
    own = load_yaml(entry.path).get(_OWN_KEY, {})
    quantized = {name: _quantization(value, entry.path).weights for name, value in own.get("quantized", {}).items()}
    names = (*own.get("aliases", ()), *quantized)
    asked = name_or_path.lower()
    same = [name for name in names if asked in (name.lower(), name.lower().rpartition("/")[2])]
    name = next(iter((*same, *names)), entry.name)
    return Published(name, () if entry.quantization else tuple(quantized.items()))


def model_names() -> tuple[str, ...]:
    """The models of model_specs/, sorted."""
    return tuple(sorted(path.stem for path in (data_root() / "model_specs").glob("*.json")))


def device(name_or_path: str | Path) -> HardwareProfile:
    """The profile of that name, or of a folder with a profile.yaml.

    Raises:
        UsageError: nobody knows the name. InputError: the profile cannot be read.
    """
    return _load_profile(profile_folder(name_or_path))


def device_names() -> tuple[str, ...]:
    """The devices of hardware_profiles/, sorted."""
    return tuple(sorted(path.parent.name for path in (data_root() / "hardware_profiles").glob("*/profile.yaml")))


def profile_folder(name_or_path: str | Path) -> Path:
    """The folder with the device's profile.yaml and calibrated kernels; UsageError for an unknown name."""
    text = str(name_or_path)
    folder = data_root() / "hardware_profiles" / text.lower()
    if text and "/" not in text and (folder / "profile.yaml").is_file():
        return folder
    path = Path(text)
    if (path / "profile.yaml").is_file():
        return path
    raise UsageError(unknown_name("device", text, device_names()))


@cache
def engine_profiles(folder: Path | None = None) -> tuple[EngineProfile, ...]:
    """The engines of a folder, engine_profiles/ where None, sorted by name; InputError for one that cannot be read."""
    paths = sorted((folder or data_root() / "engine_profiles").glob("*.yaml"))
    return tuple(load_file(EngineProfile, path) for path in paths)


def cluster(text_or_path: str | Path) -> Cluster:
    """The cluster of a short text, ``4x8xh100-sxm``, or of a YAML file; its devices are known ones.

    Raises:
        UsageError: neither a cluster nor a file, or an unknown device. InputError: a bad file.
    """
    text = str(text_or_path)
    if _looks_like_file(text):
        found = load_file(Cluster, text)
    else:
        found = parse(Cluster, text, source="cluster", error=UsageError)
    for group in found.groups:
        device(group.device)
    return found


def slo(text_or_path: str) -> SLO:
    """The SLO of a text, ``ttft=2s,tpot=100ms@0.9``, or of a YAML file."""
    return load_file(SLO, text_or_path) if _looks_like_file(text_or_path) else parse_slo(text_or_path)


def load_plan(path: Path | str) -> Plan:
    """The plan of a YAML or JSON file. Relative paths of its model and device count from the plan's own folder.

    Raises:
        InputError: a key or value that is no plan. UsageError: an unknown model or device.
    """
    plan = load_file(Plan, path)
    beside = Path(path).parent / plan.model
    if plan.model.lower() not in _model_index() and beside.exists():
        plan = plan.model_copy(update={"model": str(beside)})
    own_device = Path(path).parent / plan.cluster.device
    if (own_device / "profile.yaml").is_file():
        plan = plan.model_copy(update={"cluster": plan.cluster.model_copy(update={"device": str(own_device)})})
    _known(model, plan.model, f"{path}: model")
    for group in plan.cluster.groups:
        _known(device, group.device, f"{path}: cluster.device")
    for index, pool in enumerate(plan.pools):
        if pool.device is not None:
            _known(device, pool.device, f"{path}: pools[{index}].device")
        if pool.speculative is not None and pool.speculative.draft_model is not None:
            _known(model, pool.speculative.draft_model, f"{path}: pools[{index}].speculative.draft_model")
    return plan


def _known(lookup: Callable[[str], object], name: str, where: str) -> None:
    """Look ``name`` up; an error says which file and key asked for it."""
    try:
        lookup(name)
    except ApexsimError as problem:
        raise type(problem)(f"{where}: {problem}") from None


@dataclass(frozen=True)
class _Entry:
    """A name in model_specs/: its file, and what is quantised where the name is a quantised checkpoint's."""

    path: Path
    name: str
    quantization: Quantization | None = None


@cache
def _model_index() -> Mapping[str, dict[str, _Entry]]:
    """Lower-case name -> canonical name -> entry. The part after the organisation is a name too."""
    index: dict[str, dict[str, _Entry]] = {}
    for path in sorted((data_root() / "model_specs").glob("*.json")):
        own = load_yaml(path).get(_OWN_KEY, {})
        entries = [(alias, _Entry(path, path.stem)) for alias in (path.stem, *own.get("aliases", ()))]
        entries += [
            (alias, _Entry(path, alias.rpartition("/")[2], _quantization(value, path)))
            for alias, value in own.get("quantized", {}).items()
        ]
        for alias, entry in entries:
            for text in {alias.lower(), alias.lower().rpartition("/")[2]}:
                index.setdefault(text, {})[entry.name] = entry
    return index


def _aliases() -> set[str]:
    return {alias for alias in _model_index() if "/" in alias}


def _quantization(value: Any, path: Path) -> Quantization:
    """``"fp8"``, or ``{"weights": "fp8", "unquantized": ["attention"]}``; the LM head keeps the model's dtype."""
    given = value if isinstance(value, dict) else {"weights": value}
    weights: Any = given.get("weights")
    parts = ("lm_head", *given.get("unquantized", ()))
    for word, allowed in ((weights, get_args(WeightDtype)), *((part, get_args(Part)) for part in parts)):
        if word not in allowed:
            raise InputError(f"{path}: {_OWN_KEY}.quantized: {unknown_name('word', str(word), allowed)}")
    group = given.get("group_size")
    return Quantization(weights, parts, word_of(weights, None, group, symmetric=given.get("symmetric") is True))


@cache
def _load_entry(entry: _Entry) -> ModelSpec:
    config = load_yaml(entry.path)
    found = huggingface.model_from_config(config, entry.name, str(entry.path))
    own: dict[str, Any] = config.get(_OWN_KEY, {})
    changes: dict[str, Any] = {"aliases": tuple(own.get("aliases", ())), "source": own.get("source", "")}
    if entry.quantization is not None:
        quantized = entry.quantization
        changes |= {"aliases": (), "quantization": quantized.weights, "unquantized": quantized.unquantized}
        changes |= {"quantization_format": quantized.format}
    return found.model_copy(update=changes)


@cache
def _load_profile(folder: Path) -> HardwareProfile:
    profile = load_file(HardwareProfile, folder / "profile.yaml")
    if profile.name != folder.name:
        raise InputError(f"{folder / 'profile.yaml'}: name = {profile.name!r}: must be its folder's, {folder.name!r}")
    kernels = tuple(sorted(path.stem for path in (folder / "kernels").glob("*.json")))
    return profile.model_copy(update={"kernels": kernels}).read_from(folder)


def _looks_like_file(text: str) -> bool:
    return text.endswith((".yaml", ".yml", ".json")) or Path(text).is_file()


def _as_path(text: str) -> Path | None:
    """A path where the text is written as one, or where such a file or folder with a config.json exists."""
    path = Path(text).expanduser()
    written_as_path = text.startswith((".", "/", "~")) or text.endswith(".json")
    exists = path.is_file() or (path / "config.json").is_file()
    return path if written_as_path or exists else None
