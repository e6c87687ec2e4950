"""A format for each layer: least time, energy, memory or loss within an accuracy budget (a multiple-choice knapsack).

    x[i, f] = 1 where item i (a layer, or a part of one) has format f
    minimise Σ cost[i, f] · x[i, f];   Σ_f x[i, f] = 1;   Σ loss · x ≤ budget;   base + Σ weights · x ≤ memory,
    and the time likewise

Losses add up: that is what a table by layer says, and what HAWQ-V3 (arXiv 2011.10680), whose program this is, assumes.
Ties: less loss, then less time, then fewer bytes, then the formats that stand first in the table.
"""

from __future__ import annotations

from dataclasses import dataclass

from apexsim.errors import InputError
from apexsim.search.formats import Cost, FormatsQuestion
from apexsim.search.ilp import TIME_LIMIT_S, Limit, Outcome, Program, Terms, gap_of
from apexsim.search.shortfall import solved

GIGA = 1e9


@dataclass(frozen=True)
class Formats:
    """What was found: ``chosen[(layer, part)]`` is a format.

    Attributes:
        loss: sum of the table's losses. predicted: as the program adds it up. simulated: None where it does not fit.
        uniform: format → (loss, cost) of one format everywhere, where every item may have it.
        value, bound: of the objective; nothing is below the bound.
    """

    question: FormatsQuestion
    chosen: dict[tuple[int, str], str]
    loss: float
    predicted: Cost
    simulated: Cost | None
    uniform: dict[str, tuple[float, Cost]]
    value: float
    bound: float
    gap: float
    timed_out: bool
    wall_s: float


def best_formats(question: FormatsQuestion, time_limit_s: float = TIME_LIMIT_S) -> Formats:
    """The formats of a question that ``read_formats`` priced.

    Raises:
        NoFeasiblePlan: no choice keeps the limits; the message says which would have to give way, and by how much.
    """
    model = _Model(question)
    outcome = model.program.solve(model.objectives, time_limit_s)
    refused, missing = "no formats keep the limits", "no choice of formats was found"
    return model.read(solved(model.program, outcome, time_limit_s, refused=refused, missing=missing))


def total(question: FormatsQuestion, chosen: dict[tuple[int, str], str]) -> tuple[float, Cost]:
    """(loss, cost) of a choice, added up."""
    loss, time_s, energy_j, weights = 0.0, question.base.time_s, question.base.energy_j, question.base.weights_bytes
    for place, item in enumerate(question.items):
        word = chosen[item.layer, item.part]
        added = question.added[place, word]
        loss, time_s, weights = loss + item.losses[word], time_s + added.time_s, weights + added.weights_bytes
        energy_j = None if energy_j is None or added.energy_j is None else energy_j + added.energy_j
    return loss, Cost(time_s, energy_j, weights)


class _Model:
    def __init__(self, question: FormatsQuestion) -> None:
        self.question, self.program = question, Program()
        if question.problem.objective == "energy" and question.base.energy_j is None:
            raise InputError("objective: energy: the device's profile knows no power")
        self._taken = {key: self.program.variable(0, 1, whole=True) for key in question.added}
        for place, item in enumerate(question.items):
            mine = [(1.0, self._taken[place, word]) for word in item.losses if (place, word) in self._taken]
            self.program.equal(mine, 1.0)
        limits, base = question.problem.limits, question.base
        if limits.loss is not None:
            self.program.at_most(self._loss(), limits.loss, Limit("limits.loss", "of loss", limits.loss))
        name = "memory for weights beside the KV of the batch" if limits.weights is None else "limits.weights"
        memory = Limit(name, "GB a device", question.weights_most / GIGA)
        self.program.at_most(self._weights(), question.weights_most - base.weights_bytes, memory, give=GIGA)
        if limits.time is not None:
            self.program.at_most(self._time(), limits.time - base.time_s, Limit("limits.time", "s", limits.time))

    def _loss(self) -> Terms:
        return [(self.question.items[place].losses[word], v) for (place, word), v in self._taken.items()]

    def _time(self) -> Terms:
        return [(self.question.added[key].time_s, v) for key, v in self._taken.items()]

    def _energy(self) -> Terms:
        return [(self.question.added[key].energy_j or 0.0, v) for key, v in self._taken.items()]

    def _weights(self) -> Terms:
        return [(self.question.added[key].weights_bytes, v) for key, v in self._taken.items()]

    def _place(self) -> Terms:
        places = {(place, word): i for place, item in enumerate(self.question.items)
                  for i, word in enumerate(item.losses)}  # fmt: skip
        return [(float(places[key]), v) for key, v in self._taken.items()]

    @property
    def objectives(self) -> list[Terms]:
        """What is asked for, then what breaks ties."""
        asked = {"time": self._time, "energy": self._energy, "memory": self._weights, "loss": self._loss}
        wanted = [asked[self.question.problem.objective], self._loss, self._time, self._weights, self._place]
        return [terms() for terms in dict.fromkeys(wanted)]

    def read(self, outcome: Outcome) -> Formats:
        question = self.question
        chosen = {
            (question.items[place].layer, question.items[place].part): word
            for (place, word), v in self._taken.items() if outcome.values[v] > 0.5
        }
        loss, predicted = total(question, chosen)
        base = question.base
        start = {"time": base.time_s, "energy": base.energy_j or 0.0, "memory": base.weights_bytes, "loss": 0.0}
        value, bound = (start[question.problem.objective] + each for each in (outcome.objective, outcome.bound))
        gap = gap_of(value, bound) if outcome.timed_out else 0.0
        words = list(dict.fromkeys(word for item in question.items for word in item.losses))
        uniform = {
            word: total(question, {(item.layer, item.part): word for item in question.items})
            for word in words if all((place, word) in self._taken for place in range(len(question.items)))
        }
        return Formats(
            question, chosen, loss, predicted, question.simulated(chosen), uniform, value, bound, gap,
            outcome.timed_out, outcome.wall_s,
        )
