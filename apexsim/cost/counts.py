"""Measured popularity of experts: a file with how many tokens each of them got."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apexsim.errors import InputError

PREFIX = "counts:"
"""Before the path, in the routing of an operator."""


@lru_cache(maxsize=32)
def counts(path: str, experts: int) -> NDArray[np.float64]:
    """[layers, experts] tokens of each expert of each layer, or of one that stands for all.

    The file is JSON (a list of counts, or a list of such lists) or text (a line of counts for each layer, divided by
    commas or spaces; # begins a comment).

    Raises:
        InputError: the file cannot be read, or has other than ``experts`` counts a layer, or a layer without any.
    """
    found = measured(path)
    if found.ndim != 2 or found.shape[1] != experts:
        held = f"{found.shape[-1]} counts" if found.ndim in (1, 2) and found.size else "no counts"
        raise InputError(f"{path}: {held} a layer: the model has {experts} experts")
    return found


def measured(path: str) -> NDArray[np.float64]:
    """[layers, experts] of such a file, whatever the number of experts; InputError where it holds anything else."""
    found = _parsed(path)
    if found.ndim == 2 and found.size and not (
        np.isfinite(found).all() and (found >= 0).all() and (found.sum(axis=1) > 0).all()
    ):
        raise InputError(f"{path}: counts must be numbers of at least 0, and some of each layer more")
    return found


def _parsed(path: str) -> NDArray[np.float64]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"{path}: cannot be read: {getattr(problem, 'strerror', None) or 'not text'}") from None
    try:
        if text.lstrip().startswith("["):
            rows = json.loads(text)
        else:
            lines = (line.partition("#")[0].replace(",", " ").split() for line in text.splitlines())
            rows = [[float(word) for word in line] for line in lines if line]
        return np.atleast_2d(np.asarray(rows, dtype=np.float64))
    except (ValueError, TypeError):
        raise InputError(f"{path}: expected numbers of tokens, equally many for each layer") from None
