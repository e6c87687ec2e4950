"""What a search can look for: any figure of ``figures.py``."""

from __future__ import annotations

from apexsim.search.figures import FIGURES, Figure, figure_named, grams_per_million_tokens, order

Objective = Figure
OBJECTIVES = FIGURES
objective_named = figure_named

__all__ = ["OBJECTIVES", "Objective", "grams_per_million_tokens", "objective_named", "order"]
