"""Packed numbers: what goes in comes out, and what is cut is noticed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexsim.cost.packing import pack, unpack


@given(st.lists(st.integers(-(2**40), 2**40)))
def test_what_goes_in_comes_out(values: list[int]) -> None:
    np.testing.assert_array_equal(unpack(pack(np.array(values, dtype=np.int64))), np.array(values, dtype=np.int64))


def test_the_code_is_that_of_source_maps() -> None:
    """0 is A, 1 is C, -1 is D; 16 needs a second character. Steps are coded: 0, +1, -2, +17."""
    assert pack(np.array([0, 1, -1, 16])) == "ACFiB"


def test_neighbours_take_one_character() -> None:
    assert len(pack(np.arange(0, 1500, 15))) == 100


@pytest.mark.parametrize("text", ["g", "Ag", "A!", "Ä", "€"])
def test_cut_or_foreign_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"packed numbers|latin-1"):
        unpack(text)
