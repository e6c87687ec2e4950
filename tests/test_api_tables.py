"""How values are written for a person."""

from __future__ import annotations

import pytest

from apexsim.report.tables import Table, show


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "s", "–"),
        (0.01234567, "s", "12.35ms"),
        (75.0, "s", "75s"),
        (-0.5, "s", "-500ms"),
        (1.7e-13, "s", "0s"),
        (-3e-17, "share", "0 %"),
        (0.93241, "share", "93.24 %"),
        (1234567, "count", "1,234,567"),
        (0, "count", "0"),
        (5_331_707.0, "J", "5.332 MJ"),
        (12.0, "W", "12.00 W"),
        (0.0, "USD/h", "0 USD/h"),
        (2.3490, "USD/M tokens", "2.349 USD/M tokens"),
        (24607.07, "tokens/s", "24,607 tokens/s"),
        (0.00001234, "g CO2e", "0.00001234 g CO2e"),
        (1.5e-9, "g CO2e", "1.500e-09 g CO2e"),
    ],
)
def test_a_value_has_its_unit_and_four_digits(value, unit, text):
    assert show(value, unit) == text


def test_numbers_are_aligned_to_the_right_and_prose_is_not():
    table = Table("t", ("name", "n", "why"), (("a", "1", "because"),), prose=frozenset({"why"}))
    assert [table.is_number(column) for column in range(3)] == [False, True, False]
