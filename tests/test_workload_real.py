"""Real traces and statistics beside the repository, where they are: what we read is what others published."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from apexsim.workload import transform
from apexsim.workload.read import read_trace
from apexsim.workload.servegen import servegen
from apexsim.workload.stats import describe
from apexsim.workload.synthetic import with_arrivals

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no real traces beside the repository")

TRACES = ("azure2023_code", "azure2023_conv_first_half", "mooncake_conversation")
LENGTHS = ("lmsys_chat_lengths_100k", "sharegpt_lengths_58k", "sharegpt8k_lengths", "arxiv_summ_lengths", "bwb_lengths")


def published(name):
    with (FOLDER / "TRACE_STATS.csv").open() as file:
        return next(row for row in csv.DictReader(file) if row["file"] == f"{name}.csv.gz")


@pytest.mark.parametrize("name", TRACES + LENGTHS)
def test_statistics_are_those_published(name):
    found, said = describe(read_trace(FOLDER / f"{name}.csv.gz")), published(name)
    assert found["requests"] == int(said["rows"])
    assert found["dropped"] == {}
    for part in ("input", "output"):
        for which in ("mean", "p50", "p90", "p99"):
            assert found[f"{part}_tokens"][which] == pytest.approx(float(said[f"{part}_{which}"]), rel=1e-5)


@pytest.mark.parametrize("name", TRACES)
def test_arrivals_are_those_published(name):
    found, said = describe(read_trace(FOLDER / f"{name}.csv.gz")), published(name)
    assert found["span_s"] == pytest.approx(float(said["span_s"]), rel=1e-5)
    assert found["rate_rps"] == pytest.approx(float(said["mean_rps"]), rel=1e-4)
    assert found["iat_cv"] == pytest.approx(float(said["iat_cv"]), rel=1e-4)
    assert found["iat_cv_5min_median"] == pytest.approx(float(said["iat_cv_5min_median"]), rel=1e-4)
    assert found["dispersion_1s"] == pytest.approx(float(said["disp_1s"]), rel=1e-4)


def test_lengths_without_arrivals_have_no_rate_until_one_is_imposed():
    trace = read_trace(FOLDER / "sharegpt_lengths_58k.csv.gz")
    assert describe(trace)["rate_rps"] is None
    online = with_arrivals(trace, 4.0, seed=1)
    assert online.rate_rps == pytest.approx(4.0, rel=0.02)
    assert describe(online)["iat_cv"] == pytest.approx(1.0, abs=0.02)
    assert online.input_tokens is trace.input_tokens


@pytest.mark.parametrize(
    ("name", "failed", "sessions"), [("burstgpt1_first400", 17, None), ("burstgpt3_first400", 1, 134)]
)
def test_failed_burstgpt_rows_are_dropped_and_counted(name, failed, sessions):
    trace = read_trace(FOLDER / f"{name}.csv.gz")
    assert len(trace) == 400 - failed
    assert trace.dropped == {"failed": failed}
    assert trace.classes == ("Conversation log", "API log")
    assert (None if trace.session is None else len(np.unique(trace.session[trace.session >= 0]))) == sessions


def test_the_ideal_reuse_of_mooncake_is_the_published_one():
    trace = read_trace(FOLDER / "mooncake_conversation.csv.gz")
    assert trace.hash_block_tokens == 512
    found = describe(trace)["prefix"]
    assert (found["blocks"], found["distinct_blocks"]) == (288_500, 182_790)
    assert found["ideal_reuse"] == pytest.approx(0.366, abs=0.001)
    assert (trace.hash_counts == -(-trace.input_tokens // 512)).all()


def test_jitter_takes_the_three_second_batches_out_of_mooncake():
    trace = transform.jitter(read_trace(FOLDER / "mooncake_conversation.csv.gz"), 3.0)
    assert describe(trace)["iat_cv"] < 1.3
    assert describe(trace)["prefix"]["blocks"] == 288_500


def test_servegen_has_the_published_rate_of_its_windows():
    windows = FOLDER / "servegen_client_windows.parquet"
    trace = servegen(windows, workload="m-large", duration_s=1200.0, share=0.2, seed=2)
    with_rates = [212.78, 179.698]  # requests/s of the first two windows, all clients
    found = np.bincount((trace.arrival_s // 600).astype(int)) / 600.0
    assert found == pytest.approx(np.array(with_rates) * 0.2, rel=0.01)
    assert len(trace.classes) >= 40
    # The largest client of the first window, 0, answers with 147 tokens on average.
    client = trace.take(np.flatnonzero(trace.class_code == trace.classes.index("client 0")))
    assert client.input_tokens.mean() == pytest.approx(427.5, rel=0.15)
    assert np.median(client.input_tokens) == pytest.approx(275, rel=0.02)
    assert client.output_tokens.mean() == pytest.approx(147.5, rel=0.15)


def test_servegen_adds_text_and_image_tokens():
    trace = servegen(FOLDER / "servegen_client_windows.parquet", workload="mm-image", duration_s=3600.0)
    client = trace.take(np.flatnonzero(trace.class_code == trace.classes.index("client 0")))
    assert client.input_tokens.mean() == pytest.approx(311.7 + 1207.9, rel=0.03)
