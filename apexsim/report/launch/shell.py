"""A command over several lines of a shell script."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH = 100


def wrapped(words: Sequence[str]) -> list[str]:
    """A command over several lines: a flag stays with its argument."""
    lines: list[str] = []
    line = ""
    for index, word in enumerate(words):
        starts = word.startswith("--") or index == 0
        if line and starts and len(line) + len(word) > WIDTH:
            lines.append(f"{line} \\")
            line = f"    {word}"
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]
