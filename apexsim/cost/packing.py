"""Whole numbers as text, one or two characters each: what keeps the coefficient files small.

A series is written as its steps in base 64 VLQ, the code of JavaScript's source maps: a step's sign goes into its
lowest bit, and each character carries five bits, least first, and whether more follow.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
BITS, MORE = 5, 32

_DIGITS = np.full(256, -1, dtype=np.int64)
_DIGITS[np.frombuffer(ALPHABET.encode("ascii"), dtype=np.uint8)] = np.arange(64)


def pack(values: Ints) -> str:
    """[n] whole numbers as text; near neighbours take one character."""
    steps = np.diff(values, prepend=0)
    return "".join(_digits(2 * step if step >= 0 else -2 * step + 1) for step in steps.tolist())


def _digits(code: int) -> str:
    text = ""
    while code >= MORE:
        text += ALPHABET[code % MORE + MORE]
        code //= MORE
    return text + ALPHABET[code]


def unpack(text: str) -> Ints:
    """[n] what ``pack`` was given.

    Raises:
        ValueError: no such text, or it ends within a number.
    """
    digits = _DIGITS[np.frombuffer(text.encode("latin-1"), dtype=np.uint8)]
    if digits.size == 0:
        return digits
    if digits.min() < 0 or digits[-1] >= MORE:
        raise ValueError("packed numbers are cut short or hold another character")
    last = np.flatnonzero(digits < MORE)
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(digits.size) - np.repeat(first, last - first + 1)
    codes = np.add.reduceat((digits % MORE) << (BITS * place), first)
    return np.cumsum(np.where(codes % 2, -(codes // 2), codes // 2))
