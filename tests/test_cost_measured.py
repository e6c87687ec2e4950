"""Step tables against measured serving runs, without the engine: a decode iteration at the run's mean batch.

These are the runs that the host and power terms were fitted on (``cost/host.py``, ``cost/power.py``), so they show
how well a few global terms explain them, not how well unseen runs are predicted. Runs are skipped where a table
cannot stand for them: queueing, or layers that run on another path.
"""

from __future__ import annotations

import numpy as np

from apexsim.cost.ledger import JOULES, MOVED_BYTES
from apexsim.cost.memory import DoesNotFit
from apexsim.cost.step import CompiledPool
from tests.cost_worlds import attempt, compiled, device_s, shared, table


def iteration_s(pool: CompiledPool, sequences: float, context: float) -> float:
    """A decode iteration with its host time."""
    n = max(1, round(sequences))
    device = device_s(pool, sequences, context)
    return max(device, float(pool.tables.host_floor_s[n])) + float(pool.tables.host_serial_s[n])


def errors_of(pairs: list[tuple[float, float]]) -> np.ndarray:
    predicted, measured = np.array(pairs).T
    return predicted / measured - 1.0


def test_step_times_by_batch() -> None:
    """vllm-h100-steps: medians of exact cycles, Llama-2-70B TP4 and CodeLlama-34B TP2, vLLM 0.15.1."""
    pairs = []
    for row in table("validation/vllm-h100-steps/cycle_by_batch.csv"):
        if row["kind"] != "decode only" or int(row["steps"]) < 10:
            continue
        model, tp = ("Llama-2-70B", 4) if "70b" in row["run"] else ("CodeLlama-34B", 2)
        pool = compiled(model, tp=tp, tokens=2048, seqs=128, engine_version="0.15.1")
        sequences = float(row["decode_requests_mean"])
        context = max(float(row["kv_tokens_mean"]) / sequences, 700.0)  # shared blocks are counted once
        pairs.append((iteration_s(pool, sequences, context), float(row["cycle_p50_s"])))
    errors = errors_of(pairs)
    assert len(errors) >= 10
    assert np.median(np.abs(errors)) < 0.04, errors
    assert np.abs(errors).max() < 0.08, errors


def test_time_per_token_in_open_loop_runs() -> None:
    """vllm-h100-open-loop: nine models from 7B to 109B, TP1 to TP4; the batch by Little's law from the measured E2E."""
    pairs = []
    for row in table("validation/vllm-h100-open-loop/runs.csv"):
        if "reasoning" in row["run"]:
            continue  # long outputs that queue, or whose batch changes all the time
        requests = table(f"validation/vllm-h100-open-loop/{row['trace']}") if "/" in row["trace"] else table(
            f"validation/vllm-h100-open-loop/traces/{row['trace']}")
        arrival, prompt, output = (
            np.array([float(request[name]) for request in requests])
            for name in ("arrival_s", "input_tokens", "output_tokens")
        )
        rate = (len(arrival) - 1) / (arrival[-1] - arrival[0])
        sequences = min(float(row["mean_running_requests"] or 0) or rate * float(row["e2e_mean_s"]), 127.0)
        pool = compiled(
            row["model"], tp=int(row["tp"]), tokens=int(row["max_num_batched_tokens"]), seqs=int(row["max_num_seqs"]),
            engine_version=row["engine_version"],
        )
        predicted = iteration_s(pool, sequences, float(prompt.mean() + output.mean() / 2))
        pairs.append((predicted, float(row["tpot_mean_s"])))
    errors = errors_of(pairs)
    assert len(errors) >= 30
    assert np.median(np.abs(errors)) < 0.035, errors
    assert abs(np.median(errors)) < 0.03, errors
    assert np.abs(errors).max() < 0.16, errors


def test_an_old_engine_pays_its_host_every_step() -> None:
    """apex-h100-llama70b: vLLM 0.6.0, TPOT = 7.9 ms + 48.4 ms / TP; light load, so the batch is the mean one.

    A law of two terms: the runs themselves lie up to a tenth beside it.
    """
    shared("validation/apex-h100-llama70b/runs.csv")
    for tp in (2, 4, 8):
        pool = compiled(tp=tp, tokens=2048, seqs=256, engine_version="0.6.0")
        assert abs(iteration_s(pool, 1.5, 100.0) / (7.9e-3 + 48.4e-3 / tp) - 1) < 0.10, tp


def test_decode_power() -> None:
    """mlenergy-h100-dense: steady-state power of dense models but Gemma, at the measured step time; 231 to 694 W.

    Light rows only (up to 32 sequences), where prefill has little share.
    """
    pairs = []
    for row in table("validation/mlenergy-h100-dense/runs.csv"):
        sequences = min(float(row["mean_running_requests"]), float(row["max_num_seqs"]))
        if "gemma" in row["model"] or sequences > 32:
            continue
        pool = attempt(
            row["model"], tp=int(row["tp"]), tokens=int(row["max_num_batched_tokens"] or 2048),
            seqs=int(row["max_num_seqs"]), engine_version=row["engine_version"],
        )
        if isinstance(pool, DoesNotFit):
            continue
        context = float(row["input_tokens"]) + float(row["output_tokens"]) / 2
        watts = decode_power_w(pool, sequences, context, float(row["itl_p50_s"]))
        pairs.append((watts, float(row["power_w_per_device"])))
    errors = errors_of(pairs)
    assert len(errors) >= 20
    assert np.median(np.abs(errors)) < 0.12, errors
    assert abs(np.median(errors)) < 0.12, errors
    assert np.abs(errors).max() < 0.3, errors


def decode_power_w(pool: CompiledPool, sequences: float, context: float, step_s: float) -> float:
    """Watts of one device that decodes ``sequences`` and takes ``step_s`` for each iteration."""
    accounting, n = pool.accounting, round(sequences)
    full = accounting.attention[0]
    assert accounting.power is not None
    linear = accounting.decode[JOULES, n] + accounting.head[JOULES, n]
    assert accounting.decode[MOVED_BYTES, n] > 0
    kv = sequences * context
    assert accounting.attention_power is not None
    seconds = float(np.interp(context, pool.tables.context_knots, pool.tables.decode_attention_s[0, 0, n]))
    attention = accounting.power.running_j(
        accounting.attention_power[1], "bf16", seconds, full.decode_pair_flops * kv, full.token_bytes * kv
    )
    return float(accounting.power.idle_w + (linear + attention) / step_s)
