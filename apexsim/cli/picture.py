"""A picture that a command draws into a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from apexsim.cli.terminal import say

PICTURES = (".png", ".pdf", ".svg")


def require_picture(flag: str, path: Path | None) -> None:
    """Raise UsageError where a file's ending says no kind of picture."""
    from apexsim.errors import UsageError

    if path is not None and path.suffix.lower() not in PICTURES:
        raise UsageError(f"{flag} {path}: ending {path.suffix!r} (allowed: {', '.join(PICTURES)})")


def draw(plot: Callable[[], Any], path: Path) -> None:
    """Write what ``plot`` draws, a figure or axes of one, whole or not at all."""
    import io

    import matplotlib

    from apexsim.spec.files import write_atomically

    matplotlib.use("Agg")
    buffer, drawn = io.BytesIO(), plot()
    getattr(drawn, "figure", drawn).savefig(buffer, format=path.suffix.lower().lstrip("."), dpi=150)
    write_atomically(path, buffer.getvalue())
    say(f"written: {path}")
