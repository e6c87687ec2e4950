"""The base of everything a user writes in a file: strict frozen values, and errors of one line.

A wrong key or value ends as ``file: key = value: what is allowed``, never as a traceback or a page of
pydantic.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from apexsim.errors import ApexsimError, InputError

_CHOICE = re.compile(r"str|int|float|bool|constrained-\w+|[A-Z]\w*|.+\[.+\]")
_EXPECTED = {
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "model_attributes_type": "must be a mapping of keys to values",
}
Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """Frozen; an unknown key, a wrong type (``"4"`` or ``true`` for 4), a NaN or an infinity is an error.

    A field that holds a tuple says ``Field(strict=False)``, because YAML and JSON know only lists.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def load_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping that a YAML or JSON file holds.

    Raises:
        InputError: the file is missing, unreadable, truncated, holds a key twice, or is no mapping.
    """
    data = _parse_text(read_text(path), path)
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected a mapping of keys to values, got {_kind(data)}")
    return data


def load_file(cls: type[Model], path: Path | str) -> Model:
    """The value of class ``cls`` that a YAML or JSON file declares; InputError names file, key and value."""
    return parse(cls, load_yaml(path), source=str(path))


def parse(cls: type[Model], data: Any, *, source: str, error: type[ApexsimError] = InputError) -> Model:
    """``data`` from outside as a ``cls``: quantities need their units (``apexsim.spec.units``).

    What pydantic says about a mistake becomes one line that starts with ``source``, raised as ``error``.
    """
    try:
        return cls.model_validate(data, context={"units": True})
    except ValidationError as problem:
        raise error(f"{source}: {one_line(problem, cls, data)}") from None


def read_text(path: Path | str) -> str:
    """The text of a file in UTF-8; InputError where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError as problem:
        raise InputError(f"{path}: not a text file (byte {problem.start} is not UTF-8)") from None
    except OSError as problem:
        raise InputError(f"{path}: cannot be read: {problem.strerror}") from None


def one_line(problem: ValidationError, cls: type[BaseModel], data: Any) -> str:
    """The most telling of pydantic's errors as ``key = value: what is allowed``."""
    all_errors = _without_choices(problem.errors(include_url=False))
    inner = [e for e in all_errors if not any(_encloses(e["loc"], other["loc"]) for other in all_errors)]
    errors = sorted(inner, key=lambda e: e["type"] != "extra_forbidden")
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return _describe(first, cls, data) + more


def _without_choices(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """Errors of a value that may have one of several types, without pydantic's names of these types.

    Each type that the value is not has an error; the ones told are those furthest inside the value, else the first.
    """
    places = [tuple(step for step in e["loc"] if not _is_choice(step)) for e in errors]
    chosen = []
    for i, (error, place) in enumerate(zip(errors, places, strict=True)):
        if len(place) < len(error["loc"]):
            if any(_encloses(place, other) for other in places) or place in places[:i]:
                continue
            error = {**error, "loc": place}
        chosen.append(error)
    return chosen


def _is_choice(step: int | str) -> bool:
    """``str``, ``Zipf``, ``tuple[int, ...]``: a type, which no key of a file is called."""
    return isinstance(step, str) and bool(_CHOICE.fullmatch(step))


def _encloses(outer: tuple[int | str, ...], inner: tuple[int | str, ...]) -> bool:
    """A list with a bad item is reported as well as the item; only the item is told."""
    return len(outer) < len(inner) and inner[: len(outer)] == outer


def _describe(error: ErrorDetails, cls: type[BaseModel], data: Any) -> str:
    is_key = error["loc"][-1:] == ("[key]",)  # of a mapping by names, itself wrong
    key = _key(error["loc"][:-1] if is_key else error["loc"], data)
    kind = error["type"]
    if kind == "extra_forbidden":
        return f"{key}: unknown key{_hint(str(error['loc'][-1]), _keys_at(cls, error['loc'][:-1]))}"
    if kind == "missing":
        return f"{key}: missing"
    shown = f"{key} = {_short(error['input'])}: " if key else ""
    if kind == "literal_error":
        allowed = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        unknown = f"{key}: unknown key" if is_key else f"{shown}unknown value"
        return f"{unknown}{_hint(str(error['input']), allowed)}"
    message = _plainly(error)
    if kind == "value_error" and isinstance(error["input"], Mapping):
        return _of_mapping(key, error["input"], message)
    return f"{shown}{message[0].lower()}{message[1:]}"


def _of_mapping(key: str, data: Mapping[Any, Any], message: str) -> str:
    """What is wrong with several keys together: the mapping would be shown cut off, so the message names its keys."""
    if not key:
        return message
    named = re.match(r"(\w+)[\w.\[\]]* = ", message)
    return f"{key}.{message}" if named and named[1] in data else f"{key}: {message}"


def _plainly(error: ErrorDetails) -> str:
    """What is allowed, in the words of YAML instead of Python's."""
    kind = error["type"]
    if kind == "too_short":
        least = error["ctx"]["min_length"]
        return f"needs at least {least} {'entry' if least == 1 else 'entries'}"
    return _EXPECTED.get(kind) or error["msg"].removeprefix("Value error, ")


def _hint(wrong: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(wrong, allowed, n=1, cutoff=0.5)
    nearest = f"; did you mean {close[0]!r}?" if close else ""
    return f"{nearest} (allowed: {', '.join(allowed)})" if allowed else nearest


def _key(location: tuple[int | str, ...], data: Any) -> str:
    """``pools[0].tp``. Steps that the user did not write (short forms, unions) are left out, and all after
    them but the last key: an index into something that the user did not write would mislead.
    """
    text = ""
    lost = False
    for position, step in enumerate(location):
        present = not lost and isinstance(data, Mapping | list | tuple) and _holds(data, step)
        is_last = position == len(location) - 1
        if not present and not (is_last and isinstance(step, str)):
            lost = True
            continue
        text += f"[{step}]" if isinstance(step, int) else f"{'.' if text else ''}{step}"
        if present:
            data = data[step]
    return text


def _holds(data: Mapping[Any, Any] | list[Any] | tuple[Any, ...], step: int | str) -> bool:
    if isinstance(data, Mapping):
        return step in data
    return isinstance(step, int) and step < len(data)


def _keys_at(cls: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that are allowed where ``location`` points to; empty where that is no model."""
    models: list[type[BaseModel]] = [cls]
    for step in location:
        if isinstance(step, str):
            fields = [m.model_fields[step].annotation for m in models if step in m.model_fields]
            models = [inner for annotation in fields for inner in _models_in(annotation)]
    return sorted({key for model in models for key in model.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _short(value: Any, limit: int = 60) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _kind(value: Any) -> str:
    if value is None:
        return "nothing (the file is empty)"
    return {"list": "a list", "str": "text"}.get(type(value).__name__, type(value).__name__)


def _parse_text(text: str, path: Path | str) -> Any:
    try:
        if str(path).endswith(".json"):
            return json.loads(text, object_pairs_hook=_unique)
        return yaml.load(text, Loader=_UniqueKeys)
    except json.JSONDecodeError as problem:
        raise InputError(f"{path}: line {problem.lineno}: not JSON: {problem.msg} (truncated?)") from None
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise InputError(f"{path}: {line}not YAML: {problem.problem}") from None
    except (yaml.YAMLError, ValueError) as problem:
        raise InputError(f"{path}: {' '.join(str(problem).split())}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return result


class _UniqueKeys(yaml.SafeLoader):
    """PyYAML lets the last of two equal keys win in silence; here that is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)
