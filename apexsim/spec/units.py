"""Quantities with their unit, as a user writes them: ``500ms``, ``80GB``, ``3.35TB/s``, ``989.4TFLOP/s``.

Inside the code everything is SI; these functions are the edge. A number without a unit is an error, because
nobody can tell whether 50 meant milliseconds. Text and value convert exactly: parsing what a formatter wrote
gives the same float again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, ValidationInfo, WithJsonSchema

from apexsim.errors import UsageError

_TIME = {"ns": "1e-9", "us": "1e-6", "µs": "1e-6", "ms": "1e-3", "s": "1", "min": "60", "h": "3600"}
_DECIMAL = {"B": "1", "kB": "1e3", "MB": "1e6", "GB": "1e9", "TB": "1e12"}
_BINARY = {"KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}
_BYTES = _DECIMAL | {unit: str(2**power) for unit, power in _BINARY.items()}
_BITS = {"Mbit": "125e3", "Gbit": "125e6", "Tbit": "125e9"}
_RATE = {f"{unit}/s": scale for unit, scale in (_BYTES | _BITS).items()}
_FLOPS = {"GFLOP/s": "1e9", "TFLOP/s": "1e12", "PFLOP/s": "1e15"}
_NUMBER_AND_UNIT = re.compile(r"\s*(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)\s*([A-Za-zµ/]*)\s*")


class UnitError(UsageError, ValueError):
    """A quantity without a unit or with a wrong one; a ValueError too, so that pydantic says in which key."""


def parse_seconds(text: str) -> float:
    """Seconds of ``"500ms"``; units ns, us, ms, s, min, h. UnitError otherwise."""
    return _parse(text, _TIME, "a duration such as 500ms")


def parse_bytes(text: str) -> float:
    """Bytes of ``"80GB"`` (1e9 each) or ``"81559MiB"`` (2**20 each). UnitError otherwise."""
    return _parse(text, _BYTES, "a size such as 80GB")


def parse_bandwidth(text: str) -> float:
    """Bytes per second of ``"3.35TB/s"`` or ``"400Gbit/s"``, one direction. UnitError otherwise."""
    return _parse(text, _RATE, "a bandwidth such as 50GB/s")


def parse_flops(text: str) -> float:
    """FLOP per second of ``"989.4TFLOP/s"``. UnitError otherwise."""
    return _parse(text, _FLOPS, "a rate such as 989.4TFLOP/s")


def format_seconds(seconds: float, digits: int | None = None) -> str:
    """``0.5`` as ``"500ms"``: exact, or rounded to ``digits`` significant ones for a table."""
    return _format(seconds, {unit: _TIME[unit] for unit in ("ns", "us", "ms", "s")}, digits)


def format_bytes(count: float, digits: int | None = None) -> str:
    """``80e9`` as ``"80GB"``: exact (in whole binary units where that is shorter), or rounded to ``digits``."""
    decimal = _format(count, _DECIMAL, digits)
    if digits is not None:
        return decimal
    binary = [f"{count / 2**power:.0f}{unit}" for unit, power in _BINARY.items() if count % 2**power == 0 < count]
    return min([decimal, *binary], key=len)


def format_bandwidth(bytes_per_s: float, digits: int | None = None) -> str:
    """``3.35e12`` as ``"3.35TB/s"``: exact, or rounded to ``digits`` significant ones."""
    return _format(bytes_per_s, {f"{unit}/s": scale for unit, scale in _DECIMAL.items()}, digits)


def format_flops(flop_per_s: float, digits: int | None = None) -> str:
    """``989.4e12`` as ``"989.4TFLOP/s"``: exact, or rounded to ``digits`` significant ones."""
    return _format(flop_per_s, _FLOPS, digits)


def _parse(text: str, units: Mapping[str, str], example: str) -> float:
    """Exactly rounded: the decimal text times the decimal scale, then to the nearest float."""
    if not isinstance(text, str):
        raise UnitError(f"{text!r} has no unit: write {example} (units: {', '.join(units)})")
    match = _NUMBER_AND_UNIT.fullmatch(text)
    if match is None:
        raise UnitError(f"{text!r} is not {example} (units: {', '.join(units)})")
    number, unit = match.groups()
    if unit not in units:
        wrong = f"unknown unit {unit!r} in {text!r}" if unit else f"{text!r} has no unit"
        raise UnitError(f"{wrong}: write {example} (units: {', '.join(units)})")
    value = float(Decimal(number) * Decimal(units[unit]))
    if value == float("inf"):
        raise UnitError(f"{text!r} is too large")
    return value


def _format(value: float, units: Mapping[str, str], digits: int | None) -> str:
    """In the largest unit that does not exceed the value; ``units`` ascend."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"a quantity is finite and not negative, got {value}")
    exact = Decimal(repr(float(value))) if digits is None else Decimal(f"{value:.{digits - 1}e}")
    fitting = [unit for unit, scale in units.items() if Decimal(scale) <= exact]
    if exact == 0:
        unit = "s" if "s" in units else next(iter(units))
    else:
        unit = fitting[-1] if fitting else next(iter(units))
    return f"{_plain(exact / Decimal(units[unit]))}{unit}"


def format_number(value: float) -> str:
    """The shortest text without an exponent that parses back to the same float."""
    return _plain(Decimal(repr(float(value))))


def _plain(number: Decimal) -> str:
    return f"{number.normalize():f}"


def _before(parse: Callable[[str], float]) -> BeforeValidator:
    """Text with its unit everywhere; a bare SI number from Python, but never from a file (``base.parse``)."""

    def read(value: Any, info: ValidationInfo) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if is_number and not (info.context or {}).get("units") else parse(value)

    return BeforeValidator(read)


def _schema(example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "examples": [example]})


Bandwidth = Annotated[
    float, _before(parse_bandwidth), PlainSerializer(format_bandwidth, when_used="json"), _schema("50GB/s")
]
"""Bytes per second in one direction; text with its unit in a file."""
Bytes = Annotated[float, _before(parse_bytes), PlainSerializer(format_bytes, when_used="json"), _schema("80GB")]
"""Bytes; text with its unit in a file."""
Flops = Annotated[float, _before(parse_flops), PlainSerializer(format_flops, when_used="json"), _schema("989.4TFLOP/s")]
"""FLOP per second, dense; text with its unit in a file."""
Seconds = Annotated[float, _before(parse_seconds), PlainSerializer(format_seconds, when_used="json"), _schema("5us")]
"""Seconds; text with its unit in a file."""
