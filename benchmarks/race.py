"""What a race makes of plans of two pools, on DeepSeek-V3 and 32 H200: the rate that a plan seems to sustain, put
together from trials of its pools apart, against a trial of the whole plan on the same requests. Figures are printed,
never asserted:

    python benchmarks/race.py [--plans 12] [--match REGEX] [--requests 1500 4000] [--seed 1] [--trace FILE]
"""

from __future__ import annotations

import argparse
import random
import re
import time
from collections.abc import Iterator
from itertools import islice

from search import AZURE, large

from apexsim.scenario import Prepared, prepare
from apexsim.search.apart import comes_apart, joined, parts_of, try_parts
from apexsim.search.ladder import rungs, sustained
from apexsim.search.outcome import Bounds, Candidate
from apexsim.search.problem import Problem
from apexsim.search.prune import Context
from apexsim.search.trial import Request, try_one
from apexsim.workload.read import read_trace

LOWEST_RPS, HIGHEST_RPS = 3.0, 200.0


def drawn(question: Problem, match: str, seed: int) -> Iterator[Candidate]:
    """Plans of two pools that fit, in a drawn order; ``match``: of what is in their names."""
    plans = [plan for plan in question.plans() if comes_apart(plan) and re.search(match, plan.id)]
    random.Random(seed).shuffle(plans)
    return (Candidate(plan, Bounds()) for plan in plans if isinstance(prepare(plan), Prepared))


def compare(context: Context, candidates: list[Candidate], requests: int) -> None:
    """Print a row for each plan that sustains anything, and what joining took."""
    target = context.problem.slo.target
    climb = rungs(LOWEST_RPS, HIGHEST_RPS)
    asked = [Request(candidate, requests, (context.problem.rate_rps,), climb, apart=True) for candidate in candidates]
    alone = {part.pool: at for part, at in try_parts(context, parts_of(asked))}
    list(joined(context, asked[:1], alone))  # compiles
    began = time.process_time()
    trials = list(joined(context, asked, alone))
    joining_s = time.process_time() - began
    ratios = []
    for request, trial in zip(asked, trials, strict=True):
        apart, whole = sustained(trial, target), sustained(try_one(context, request), target)
        if whole:
            ratios.append(apart / whole)
            print(f"| {requests} | {request.candidate.id} | {apart:.2f} | {whole:.2f} | {apart / whole - 1:+.1%} |")
    rates = sum(len(trial.at) for trial in trials)
    print(
        f"| {requests} | {len(ratios)} of {len(asked)} plans | | | {min(ratios) - 1:+.1%} to {max(ratios) - 1:+.1%}; "
        f"{1e3 * joining_s / rates:.2f} ms a plan and rate |",
        flush=True,
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--plans", type=int, default=12)
    arguments.add_argument("--match", default="")
    arguments.add_argument("--requests", type=int, nargs="+", default=[1500, 4000])
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--trace", default=str(AZURE) if AZURE.exists() else "burstgpt-day")
    given = arguments.parse_args()
    question = large(read_trace(given.trace))
    candidates = list(islice(drawn(question, given.match, given.seed), given.plans))
    print("| requests | plan | req/s by its pools | by the whole | apart |\n|---|---|---|---|---|")
    for requests in given.requests:
        compare(Context.of(question), candidates, requests)


if __name__ == "__main__":
    main()
