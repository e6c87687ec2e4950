"""Small random questions, colocated and disaggregated, on which every plan can be replayed."""

from __future__ import annotations

from functools import cache
from unittest.mock import patch

import numpy as np

from apexsim.search.combinations import families
from apexsim.search.evaluate import evaluate
from apexsim.search.outcome import Candidate, Evaluation
from apexsim.search.problem import Problem, make_problem
from apexsim.search.prune import Context, screen
from apexsim.spec.catalog import cluster
from apexsim.spec.slo import parse_slo
from apexsim.workload.trace import Trace

SLOS = ("ttft=1s,tpot=60ms@0.9", "e2e=8s@0.8", "ttft:p90<=500ms;tpot:p80<=40ms", "ttft=2s,itl=300ms@0.85")
SHORT = {
    "apexsim.metrics.goodput.MIN_REQUESTS": 300, "apexsim.metrics.goodput.MIN_SPAN_S": 20.0,
    "apexsim.search.copies.MIN_REQUESTS": 300, "apexsim.search.copies.MIN_SPAN_S": 20.0,
}  # fmt: skip


class ShortGoodput:
    """Goodput runs of fewer requests than a user gets: the argument of a bound holds for any length."""

    def __enter__(self) -> None:
        self._patches = [patch(name, value) for name, value in SHORT.items()]
        for each in self._patches:
            each.start()

    def __exit__(self, *_: object) -> None:
        for each in self._patches:
            each.stop()


def drawn_trace(seed: int, n: int = 100) -> Trace:
    rng = np.random.default_rng(seed)
    rate = float(rng.choice([1.0, 3.0, 8.0]))
    return Trace(
        name=f"drawn-{seed}",
        arrival_s=np.cumsum(rng.gamma(0.7, 1 / (0.7 * rate), n)),
        input_tokens=np.maximum(1, rng.lognormal(6.5, 1.0, n)).astype(np.int64),
        output_tokens=np.maximum(1, rng.lognormal(4.0, 0.8, n)).astype(np.int64),
    )


def instance(seed: int) -> Problem:
    """Up to a dozen plans that fit, of one pool or two."""
    rng = np.random.default_rng(1000 + seed)
    where = ("4xh100-sxm", "4xl40s", "2x2xa100-sxm-80gb", "2xh100-sxm+2xl40s")[seed % 4]
    space = {
        "tp": [1, 2], "pp": [1], "replicas": [1, 2], "weights": ["bf16"], "kv_cache": ["bf16"],
        "max_num_batched_tokens": [int(rng.choice([1024, 8192]))], "max_num_seqs": [int(rng.choice([8, 64]))],
        "disaggregated": {
            "prefill": {"tp": [1], "max_num_batched_tokens": [int(rng.choice([2048, 8192]))]},
            "decode": {"tp": [int(rng.choice([1, 2]))], "max_num_seqs": [int(rng.choice([16, 128]))]},
            "transfer": {
                "first_token": str(rng.choice(["prefill", "decode"])), "mode": str(rng.choice(["pull", "push"])),
            },
        },
    }  # fmt: skip
    return make_problem(
        ("Llama-3.1-8B", "Qwen3-14B")[int(rng.integers(2))], cluster(where), drawn_trace(seed),
        parse_slo(SLOS[int(rng.integers(len(SLOS)))]), space=space, price_usd_per_hour=2.0 if seed % 2 else None,
        carbon_g_per_kwh=400.0,
    )  # fmt: skip


@cache
def exhaustive(seed: int) -> tuple[Problem, tuple[Candidate, ...], dict[str, Evaluation | None], tuple[object, ...]]:
    """(the question, its candidates, what each of them reaches, what the screening dropped)."""
    with ShortGoodput():
        question = instance(seed)
        context = Context.of(question)
        screened = [outcome for family in families(question.plans()) for outcome in screen(context, family)]
        candidates = tuple(outcome for outcome in screened if isinstance(outcome, Candidate))
        done = {c.id: evaluate(context, c) for c in candidates}
    truth = {name: e if isinstance(e, Evaluation) else None for name, e in done.items()}
    return question, candidates, truth, tuple(o for o in screened if not isinstance(o, Candidate))
