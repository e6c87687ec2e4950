"""Transforms of a trace: what they change, what they keep, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexsim.errors import UsageError
from apexsim.workload import transform
from apexsim.workload.trace import Trace


def make(arrivals: list[float], **columns: object) -> Trace:
    n = len(arrivals)
    return Trace(
        name="t",
        arrival_s=np.array(arrivals, float),
        input_tokens=np.arange(1, n + 1),
        output_tokens=np.arange(11, n + 11),
        **columns,  # type: ignore[arg-type]  # columns by name, as the tests need them
    )


def with_everything() -> Trace:
    return make(
        [0.0, 1.0, 4.0],
        session=np.array([5, -1, 5]),
        shared_prefix_tokens=np.array([0, 0, 2]),
        hash_ids=np.array([7, 8, 9, 7, 8]),
        hash_offsets=np.array([0, 2, 3, 5]),
        hash_block_tokens=16,
        classes=("chat", "code"),
        class_code=np.array([0, 1, 0]),
    )


def hashes(trace: Trace) -> list[list[int]]:
    assert trace.hash_ids is not None
    assert trace.hash_offsets is not None
    bounds = zip(trace.hash_offsets[:-1], trace.hash_offsets[1:], strict=True)
    return [trace.hash_ids[a:b].tolist() for a, b in bounds]


def test_at_rate_scales_all_arrivals_by_the_ratio_of_the_rates():
    trace = make([2.0, 3.0, 6.0])  # R0 = 2 / 4 s = 0.5 requests/s
    assert transform.at_rate(trace, 2.0).arrival_s.tolist() == [0.5, 0.75, 1.5]


@given(
    st.lists(st.floats(0.001, 100), min_size=1, max_size=30),
    st.floats(0.01, 100),
    st.integers(1, 5),
)
def test_a_scaled_and_repeated_trace_has_exactly_the_rate_asked_for(gaps, rate, copies):
    trace = make([0.0, *np.cumsum(gaps)])
    scaled = transform.repeat(transform.at_rate(trace, rate), copies)
    assert len(scaled) == copies * len(trace)
    assert scaled.rate_rps == pytest.approx(rate, rel=1e-9)
    assert (np.diff(scaled.arrival_s) >= 0).all()
    assert scaled.input_tokens.tolist() == trace.input_tokens.tolist() * copies


def test_a_rate_cannot_be_given_to_requests_that_all_arrive_at_once():
    with pytest.raises(UsageError, match="arrive at once"):
        transform.at_rate(make([3.0, 3.0]), 1.0)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_no_rate_is_refused(rate):
    with pytest.raises(UsageError, match="allowed: more than 0"):
        transform.at_rate(make([0.0, 1.0]), rate)


def test_repeat_renames_sessions_and_hashes_in_each_copy():
    doubled = transform.repeat(with_everything(), 2)
    # The span is 4 s, the mean gap 2 s: the second copy starts at 6 s.
    assert doubled.arrival_s.tolist() == [0, 1, 4, 6, 7, 10]
    assert doubled.session is not None
    assert doubled.session.tolist() == [5, -1, 5, 11, -1, 11]
    assert hashes(doubled) == [[7, 8], [9], [7, 8], [17, 18], [19], [17, 18]]
    assert doubled.class_code is not None
    assert doubled.class_code.tolist() == [0, 1, 0, 0, 1, 0]


def test_repeat_renames_hashes_of_64_bits_without_overflow():
    trace = with_everything().with_columns(hash_ids=np.array([2**62, -5, 9, 2**62, -5]))
    rows = hashes(transform.repeat(trace, 3))
    assert rows[0] == rows[2]
    assert rows[3] == rows[5]
    assert len({id_ for row in rows for id_ in row}) == 9
    assert min(min(row) for row in rows) >= 0


def test_repeat_makes_as_few_copies_as_reach_both_minima():
    trace = make([0.0, 1.0, 2.0])  # span 2 s, mean gap 1 s: c copies span 3 c - 1 seconds
    assert len(transform.repeat(trace, min_requests=7)) == 9
    assert transform.repeat(trace, min_span_s=8.0).span_s == 8.0
    assert transform.repeat(trace, min_span_s=8.1).span_s == 11.0
    assert transform.repeat(trace, min_requests=3, min_span_s=2.0) is trace
    together = make([0.0, 0.0])
    assert len(transform.repeat(together, min_requests=5, min_span_s=300.0)) == 6


def test_a_window_starts_its_own_clock_and_leaves_its_end_out():
    part = transform.window(with_everything(), 1.0, 4.0)
    assert part.arrival_s.tolist() == [0.0]
    assert hashes(part) == [[9]]
    with pytest.raises(UsageError, match=r"holds no request.*0s to 4s"):
        transform.window(with_everything(), 5.0, 9.0)


def test_a_sample_is_in_order_and_belongs_to_its_seed():
    trace = make(list(range(100)))
    first, again, other = (transform.sample(trace, 20, seed) for seed in (1, 1, 2))
    assert first.input_tokens.tolist() == again.input_tokens.tolist() != other.input_tokens.tolist()
    assert (np.diff(first.arrival_s) > 0).all()
    assert (first.arrival_s + 1 == first.input_tokens).all()
    with pytest.raises(UsageError, match="allowed: 1 to 100"):
        transform.sample(trace, 101)


def test_one_class_is_kept_by_name_whatever_its_case():
    chat = transform.only_class(with_everything(), "Chat")
    assert chat.arrival_s.tolist() == [0.0, 4.0]
    assert hashes(chat) == [[7, 8], [7, 8]]
    with pytest.raises(UsageError, match="did you mean 'code'"):
        transform.only_class(with_everything(), "codes")
    with pytest.raises(UsageError, match="has no classes"):
        transform.only_class(make([0.0]), "chat")


def test_head_offline_and_jitter():
    trace = with_everything()
    assert len(transform.head(trace, 2)) == 2
    assert transform.head(trace, 99) is trace
    assert transform.offline(trace).arrival_s.tolist() == [0.0, 0.0, 0.0]
    moved = transform.jitter(trace, 3.0, seed=4)
    assert (np.diff(moved.arrival_s) >= 0).all()
    by_input = moved.arrival_s[np.argsort(moved.input_tokens)]
    assert ((by_input >= trace.arrival_s) & (by_input < trace.arrival_s + 3.0)).all()


def test_no_transform_changes_its_argument():
    trace = with_everything()
    before = {name: np.copy(getattr(trace, name)) for name in ("arrival_s", "session", "hash_ids")}
    transform.repeat(transform.at_rate(trace, 3.0), 3)
    transform.jitter(trace, 1.0)
    transform.window(trace, 0.0, 2.0)
    for name, value in before.items():
        assert (getattr(trace, name) == value).all()


def test_sessions_of_18_digits_are_renamed_without_overflow():
    session = np.array([999_999_999_999_999_999, -1, 7])
    renamed = transform.repeat(make([0.0, 1.0, 2.0], session=session), 12).session
    assert renamed is not None
    assert (renamed.reshape(12, 3)[:, 1] == -1).all()
    assert len(np.unique(renamed[renamed >= 0])) == 24


@pytest.mark.parametrize("rate", [1e-300, 1e300])
def test_a_rate_that_no_service_has_is_refused(rate):
    with pytest.raises(UsageError, match="allowed: 1e-09 to 1e"):
        transform.at_rate(make([0.0, 1.0]), rate)


def test_arrivals_beyond_all_time_are_refused():
    with pytest.raises(UsageError, match=r"rate scale 1e-08: the last request would arrive at 1e\+13 s"):
        transform.scale_rate(make([0.0, 1e5]), 1e-8)


def test_more_copies_than_fit_in_memory_are_refused():
    with pytest.raises(UsageError, match="requests in 100000000 copies of t is 200000000"):
        transform.repeat(make([0.0, 1.0]), 100_000_000)


@pytest.mark.parametrize("draw", [transform.sample, transform.jitter])
def test_a_negative_seed_is_refused(draw):
    with pytest.raises(UsageError, match="seed is -1"):
        draw(make([0.0, 1.0]), 1, -1)


def test_a_jitter_or_a_window_beyond_all_time_is_refused():
    with pytest.raises(UsageError, match="jitter 1e"):
        transform.jitter(make([0.0, 1.0]), 1e300)
    with pytest.raises(UsageError, match="window from -1e"):
        transform.window(make([0.0, 1.0]), -1e300, 5.0)
