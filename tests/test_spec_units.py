"""Quantities: units are mandatory, and text and value convert without loss."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexsim.errors import UsageError
from apexsim.spec import units

POSITIVE = st.floats(min_value=0, max_value=1e18, allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (units.parse_seconds, "500ms", 0.5),
        (units.parse_seconds, "35 ms", 0.035),
        (units.parse_seconds, "1.5us", 1.5e-6),
        (units.parse_seconds, "2min", 120.0),
        (units.parse_bytes, "80GB", 80e9),
        (units.parse_bytes, "81559MiB", 81559 * 2**20),
        (units.parse_bandwidth, "3.35TB/s", 3.35e12),
        (units.parse_bandwidth, "400Gbit/s", 50e9),
        (units.parse_flops, "989.4TFLOP/s", 989.4e12),
    ],
)
def test_text_to_value(parse: Callable[[str], float], text: str, value: float) -> None:
    assert parse(text) == value


@pytest.mark.parametrize("text", ["500", "ms", "", "-5ms", "5 parsecs", "nanms", "infs", "1,5s", "5MS", "0x10s"])
def test_a_quantity_without_a_proper_unit_is_one_line_of_error(text: str) -> None:
    with pytest.raises(UsageError) as error:
        units.parse_seconds(text)
    assert repr(text) in str(error.value)
    assert "500ms" in str(error.value)
    assert "\n" not in str(error.value)


def test_bits_and_bytes_are_not_confused() -> None:
    with pytest.raises(UsageError, match="unknown unit 'Gb/s'"):
        units.parse_bandwidth("400Gb/s")


def test_a_bare_number_is_refused() -> None:
    with pytest.raises(UsageError, match="50 has no unit"):
        units.parse_bandwidth(50)  # type: ignore[arg-type]  # what YAML gives for a number


@pytest.mark.parametrize(
    ("parse", "write"),
    [
        (units.parse_seconds, units.format_seconds),
        (units.parse_bytes, units.format_bytes),
        (units.parse_bandwidth, units.format_bandwidth),
        (units.parse_flops, units.format_flops),
    ],
)
@given(value=POSITIVE)
def test_value_to_text_to_value_is_exact(
    parse: Callable[[str], float], write: Callable[[float], str], value: float
) -> None:
    assert parse(write(value)) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.format_seconds(0.5), "500ms"),
        (units.format_seconds(0), "0s"),
        (units.format_seconds(0.0123456, digits=3), "12.3ms"),
        (units.format_seconds(0.99999, digits=2), "1s"),
        (units.format_bytes(85520809984), "81559MiB"),
        (units.format_bytes(80e9), "80GB"),
        (units.format_bytes(85520809984, digits=3), "85.5GB"),
        (units.format_bandwidth(3.35e12), "3.35TB/s"),
    ],
)
def test_value_to_text(text: str, expected: str) -> None:
    assert text == expected


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_no_text_for_what_is_no_quantity(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        units.format_seconds(value)
