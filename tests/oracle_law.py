"""What an instant is, and a line through knots: the arithmetic of the oracle."""

from __future__ import annotations


def one_instant(now: float) -> float:
    return min(1e-12 * abs(now), 1e-9)


def line(x: float, xs: list[float], ys: list[float]) -> float:
    """Piecewise linear through (xs, ys); the last slope goes on."""
    for i in range(len(xs) - 1):
        if x < xs[i + 1] or i == len(xs) - 2:
            return ys[i] + (ys[i + 1] - ys[i]) * (x - xs[i]) / (xs[i + 1] - xs[i])
    raise AssertionError("at least two knots")
