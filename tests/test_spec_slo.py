"""SLO: the two forms, their canonical text, and one-line errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexsim.errors import UsageError
from apexsim.spec.slo import METRICS, SLO, Limit, parse_slo

SECONDS = st.floats(min_value=1e-6, max_value=1e5)
JOINT = st.builds(
    lambda limits, target: SLO(
        limits=tuple(Limit(metric=metric, seconds=s) for metric, s in limits.items()), target=target
    ),
    st.dictionaries(st.sampled_from(METRICS), SECONDS, min_size=1),
    st.floats(min_value=1e-6, max_value=1),
)
CLAUSES = st.builds(
    lambda limits: SLO(
        mode="clauses",
        limits=tuple(Limit(metric=metric, percentile=p, seconds=s) for (metric, p), s in limits.items()),
        target=1.0,
    ),
    st.dictionaries(
        st.tuples(st.sampled_from(METRICS), st.integers(min_value=1, max_value=1000).map(lambda n: n / 10)),
        SECONDS,
        min_size=1,
    ),
)


def test_a_joint_slo() -> None:
    slo = parse_slo("ttft=2s, tpot=100ms@0.95")
    assert (slo.mode, slo.target) == ("joint", 0.95)
    assert [(limit.metric, limit.seconds, limit.share) for limit in slo.limits] == [
        ("ttft", 2.0, None),
        ("tpot", 0.1, None),
    ]


def test_the_target_of_a_joint_slo_is_nine_tenths_where_left_out() -> None:
    assert parse_slo("e2e=3s").target == 0.9


def test_an_slo_of_clauses() -> None:
    slo = parse_slo("ttft:p99<=500ms; tpot:p95<=50ms")
    assert slo.mode == "clauses"
    assert [(limit.metric, limit.seconds, limit.share) for limit in slo.limits] == [
        ("ttft", 0.5, 0.99),
        ("tpot", 0.05, 0.95),
    ]


@given(slo=st.one_of(JOINT, CLAUSES))
def test_text_and_mapping_both_give_the_same_slo_back(slo: SLO) -> None:
    assert parse_slo(str(slo)) == slo
    assert SLO.model_validate(slo.model_dump(mode="json")) == slo


def test_canonical_text() -> None:
    assert str(parse_slo("TTFT=2000ms,tpot=0.1s")) == "ttft=2s,tpot=100ms@0.9"
    assert str(parse_slo("itl:p99.9<=0.05s")) == "itl:p99.9<=50ms"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tfft=2s", "did you mean 'ttft'?"),
        ("ttft=2", "has no unit"),
        ("ttft=2s@1.5", "target = 1.5"),
        ("ttft=2s@0", "target = 0.0"),
        ("ttft=2s@most", "the share 'most' after @"),
        ("ttft=0ms", "greater than 0"),
        ("ttft<2s", "is not metric=limit"),
        ("ttft:95<=2s", "is not metric:pNN<=limit"),
        ("ttft:p101<=2s", "percentile = 101"),
        ("ttft=1s,ttft=2s", "twice"),
        ("ttft:p99<=1s;ttft:p99<=2s", "twice"),
        ("", "is not metric=limit"),
    ],
)
def test_a_bad_slo_is_one_line_of_usage_error(text: str, says: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_slo(text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "data",
    [
        {"mode": "joint", "limits": [{"metric": "ttft", "seconds": 1.0, "percentile": 99.0}]},
        {"mode": "clauses", "limits": [{"metric": "ttft", "seconds": 1.0}], "target": 1.0},
        {"mode": "clauses", "limits": [{"metric": "ttft", "seconds": 1.0, "percentile": 99.0}], "target": 0.9},
        {"limits": []},
    ],
)
def test_a_mapping_that_contradicts_itself_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="SLO"):
        SLO.model_validate(data)
