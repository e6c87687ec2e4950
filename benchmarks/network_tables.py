"""Tables of docs/network.md: what routing policies cost the patterns of collectives, over ideal spraying."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from apexsim.cost.patterns import PATTERNS, leaf_spine, pattern_s
from apexsim.spec.network import Network

LEAVES, BELOW, SEEDS = 16, 16, 8
MESSAGE = 64e6


def _taken_s(pattern: str, draw: int, **keys: object) -> float:
    network = Network.model_validate({"topology": "leaf-spine", "hop_latency": 0.0, **keys})
    return pattern_s(leaf_spine(LEAVES, BELOW, network), pattern, MESSAGE, seed=draw)


def _rows() -> Iterator[tuple[str, ...]]:
    """A pattern each: completion time over that of spraying, and under ecmp the mean, least and most of the seeds."""
    for pattern in PATTERNS:
        sprayed = [_taken_s(pattern, seed, routing="spray") for seed in range(SEEDS)]
        split = [_taken_s(pattern, seed, routing="split") / sprayed[seed] for seed in range(SEEDS)]
        cells = [f"{np.mean(split):.3f}"]
        for pairs in (1, 4):
            taken = [
                _taken_s(pattern, seed, routing="ecmp", queue_pairs=pairs, seed=seed) / sprayed[seed]
                for seed in range(SEEDS)
            ]
            cells.append(f"{np.mean(taken):.2f} ({min(taken):.2f} to {max(taken):.2f})")
        yield pattern, *cells


def policies() -> str:
    lines = [" | ".join(row) for row in (("pattern", "`split`", "`ecmp`", "`ecmp`, 4 queue pairs"), *_rows())]
    return "\n".join([f"| {lines[0]} |", "|---|---|---|---|", *(f"| {line} |" for line in lines[1:])]) + "\n"


TABLES: dict[str, tuple[str, Callable[[], str]]] = {"routing policies": ("docs/network.md", policies)}
"""Name in the mark -> file, and what makes the table."""
