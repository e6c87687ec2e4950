"""An answer as a terminal and a notebook show it: a heading and tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from apexsim.report.console import render
from apexsim.report.markup import tables_html
from apexsim.report.tables import Table

if TYPE_CHECKING:
    from rich.console import Group


class Answer(ABC):
    """What result classes with one heading and some tables share."""

    @property
    @abstractmethod
    def heading(self) -> str:
        """One line."""

    @property
    @abstractmethod
    def tables(self) -> tuple[Table, ...]:
        """In the order in which they are shown."""

    def __rich__(self) -> Group:
        return render(self.tables)

    def _repr_html_(self) -> str:
        return tables_html(self.heading, self.tables)
