"""What is known of a row: its cells, what the caller assumes, what its notes say; and every default that was used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apexsim.validation.columns import Row
from apexsim.validation.facts import stated


class CannotSimulate(Exception):
    """A row is not simulated; the message is the reason.

    Attributes:
        mistake: the row is wrong, not the release too small.
    """

    def __init__(self, reason: str, *, mistake: bool = False) -> None:
        super().__init__(reason)
        self.mistake = mistake


class Known:
    """Looks a column up, and keeps a list of what was assumed on the way (``assumed``).

    A cell comes first, then what the caller assumes for empty cells, then the notes, then the default. ``guessed`` are
    columns whose default is one of several things that may have run, as ``column = value``.
    """

    def __init__(self, row: Row, assume: Mapping[str, Any]) -> None:
        self.row = row
        self.assumed: list[str] = []
        self.guessed: list[str] = []
        self._given = assume

    def get(self, column: str) -> Any:
        """The value of a column; None where nothing says it."""
        value = self.row.get(column)
        if value is not None:
            return value
        if column in self._given:
            value = self._given[column]
            self.assume(f"{column} = {_shown(value)} (given)")
            return value
        said = stated(self.row, column)
        if said is None:
            return None
        value, words = said
        self.assume(f"{column} = {_shown(value)} (notes: {words!r})")
        return value

    def default(self, column: str, value: Any, why: str = "", *, silent: bool = False) -> Any:
        """The value of a column, or ``value`` for want of it.

        Args:
            silent: the default is what everyone means by saying nothing: it is no assumption.
        """
        found = self.get(column)
        if found is not None:
            return found
        if not silent:
            self.assume(f"{column} = {_shown(value)}{f' ({why})' if why else ''}")
        return value

    def need(self, column: str, load: str) -> Any:
        """The value of a column that has no honest default.

        Raises:
            CannotSimulate: it is not known.
        """
        found = self.get(column)
        if found is None:
            raise CannotSimulate(f"column {column!r} is empty: a run with load {load!r} needs it")
        return found

    def guess(self, column: str, value: str, why: str) -> None:
        """Take one of several values that the run may have had."""
        self.guessed.append(f"{column} = {value}")
        self.assume(f"{column} = {value} ({why})")

    def assume(self, text: str) -> None:
        """Note a default in force, once."""
        if text not in self.assumed:
            self.assumed.append(text)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
