"""The table of flags: every name was read in the release that a row gives it, every key of a plan is answered for."""

from __future__ import annotations

import re
import shlex

import pytest
import yaml

from apexsim.errors import UsageError
from apexsim.report.launch import settings
from apexsim.report.launch.command import flag_words
from apexsim.report.launch.deploy import deploy
from apexsim.report.launch.platforms import platforms
from apexsim.report.launch.realise import realise
from apexsim.report.launch.table import engines, not_a_flag, numbers, release_for, releases, rows
from apexsim.spec import catalog
from apexsim.spec.base import parse
from apexsim.spec.plan import Plan
from tests.house import ROOT

PLANS = sorted(
    path
    for path in (ROOT / "docs" / "examples").glob("*.yaml")
    if re.search("^pools:", path.read_text(), re.MULTILINE) and path.stem not in ("misspelt", "too-large")
)
ENGINES = ("vllm", "sglang", "tensorrt-llm")
RELEASES = [release for engine in engines() for release in releases(engine)]


def plan_of(text: str) -> Plan:
    return parse(Plan, yaml.safe_load(text), source="test")


def name_of(value: object) -> str:
    return getattr(value, "stem", None) or f"{value.engine}-{value.version}"


@pytest.mark.parametrize("engine", engines())
def test_every_row_names_a_flag_that_was_read_in_its_releases(engine):
    for row in rows(engine):
        assert bool(row.flag) != bool(row.cannot), row
        assert not row.value or row.value in settings.VALUES, row
        held = [release for release in releases(engine) if row.holds_in(release.version)]
        assert held, f"{row} holds in no release that is known"
        for release in held:
            assert not row.flag or release.has(row.flag), f"{row.flag} is not in {engine} {release.version}"


@pytest.mark.parametrize("engine", engines())
def test_every_key_of_a_plan_has_a_row_or_a_reason_to_have_none(engine):
    answered = {row.field for row in rows(engine)} | set(not_a_flag())
    silent = [
        key for key in settings.fields()
        if not any(key == each or key.startswith(f"{each}.") or each.startswith(f"{key}.") for each in answered)
    ]  # fmt: skip
    assert sorted(silent) == []
    gone = [each for each in answered if not any(k == each or k.startswith(f"{each}.") for k in settings.fields())]
    assert sorted(gone) == [], "rows about keys that no plan has"


def test_flags_of_several_nodes_and_of_the_router_were_read_too():
    for engine, ways in platforms()["several_nodes"].items():
        for way in ways:
            for release in releases(engine):
                for word in (*way["every"], *way["others"]):
                    known = release.has(word) or numbers(release.version) < numbers(way["since"])
                    assert known or not word.startswith("--"), (release, word)
    (router,) = releases("sglang-router")
    text = deploy(catalog.load_plan(ROOT / "docs/examples/disaggregated.yaml"), engine="sglang").text()
    command = text[text.index("sglang_router.launch") :].replace("\\\n", " ")
    assert {word for word in shlex.split(command) if word.startswith("--")} <= router.flags


@pytest.mark.parametrize("release", RELEASES, ids=name_of)
@pytest.mark.parametrize("path", PLANS, ids=name_of)
def test_a_generated_command_uses_flags_of_its_release_alone(path, release):
    plan = catalog.load_plan(path)
    for launch in realise(plan, release):
        for word in flag_words(launch):
            assert not word.startswith("--") or word in release.flags, word
        for key, value in launch.options.items():
            inner = [f"{key}.{name}" for name in value] if isinstance(value, dict) else [key]
            assert set(inner) <= release.flags


def test_nothing_that_is_asked_is_dropped_in_silence():
    """Keys that differ from a plan that says nothing are in the command, are said, or are no flag's affair."""
    quiet = plan_of("{model: DeepSeek-V3, cluster: 8xh200-sxm, pools: [{tp: 8}]}")
    loud = plan_of(
        "{model: DeepSeek-V3, cluster: 8xh200-sxm, pools: [{tp: 8, kv_load: cheapest, block_size: 64, clock_mhz: 1200, "
        "experts: {overlap: two-batch, overlap_shared: true, exchange: deepep-normal, placement: balanced}, "
        "scheduler: {max_wait: 5s, max_waiting: 9, shed_late: true, long_prefill_token_threshold: 512, "
        "policy: deadline, deadline: 2s, preemption: swap}}]}"
    )
    asked = ("kv_load", "clock_mhz", "overlap_shared", "max_wait=", "shed_late", "policy=deadline",
             "scheduler.deadline=2", "preemption=swap")  # fmt: skip
    for engine in engines():
        said = " ".join(deploy(loud, engine=engine).said_in())
        before = " ".join(deploy(quiet, engine=engine).said_in())
        written = str([(launch.flags, launch.options) for launch in realise(loud, release_for(engine, None))])
        for key in asked:
            known = {"overlap_shared": "--enable-single-batch-overlap"}.get(key, "?")
            assert key in said or known in written, (engine, key)
        assert "clock_mhz" not in before


def test_weights_are_made_while_loading_served_from_another_checkpoint_or_refused():
    def launch(weights: str, engine: str = "vllm", model: str = "Llama-3.1-70B"):
        plan = plan_of(f"{{model: {model}, cluster: 8xh100-sxm, pools: [{{tp: 8, weights: {weights}}}]}}")
        return realise(plan, release_for(engine, None))[0]

    assert "--quantization" not in launch("bf16").flags
    assert launch("fp8").flags["--quantization"] == "fp8"
    assert launch("fp16").flags["--dtype"] == "float16"
    other = launch("fp8", "tensorrt-llm")
    assert other.model == "nvidia/Llama-3.1-70B-Instruct-FP8"
    assert "served from nvidia" in " ".join(other.notes)
    assert "weights=w4a16" in " ".join(launch("w4a16").cannot)
    quantized = launch("fp8-block", model="DeepSeek-V3")
    assert "--quantization" not in quantized.flags
    assert quantized.cannot == ()


def test_a_release_between_two_known_ones_is_written_in_the_flags_of_the_older_one_and_says_so():
    plan = plan_of("{model: Llama-3.1-8B, cluster: 1xh100-sxm, pools: [{}], engine_version: 0.12.0}")
    found = deploy(plan)
    assert found.release.version == "0.11.0"
    assert "0.12.0: its own flags were not read; these are those of 0.11.0" in " ".join(found.said_in())
    assert deploy(plan, engine="sglang").release.version == "0.5.23", "a version of vLLM says nothing of SGLang"
    for engine, version, known in (
        ("vllm", "0.15", "0.15.1"), ("vllm", "0.15.0", "0.15.1"), ("vllm", "0.40", "0.33.0"),
        ("vllm", "0.9.2", "0.8.5"), ("tensorrt-llm", "1.2", "1.2.1"), ("sglang", "0.5.10", "0.5.4"),
    ):  # fmt: skip
        assert release_for(engine, version).version == known


@pytest.mark.parametrize(
    ("engine", "version", "words"),
    [("vlm", None, "did you mean 'vllm'"), ("vllm", "0.6.0", "known: 0.8.5, 0.11.0"), ("vllm", "new", "0.33.0 is"),
     ("transformers", None, "unknown engine to launch")],
)  # fmt: skip
def test_an_engine_or_a_version_that_is_not_known_is_refused(engine, version, words):
    plan = plan_of("{model: Llama-3.1-8B, cluster: 1xh100-sxm, pools: [{}]}")
    with pytest.raises(UsageError, match=words):
        deploy(plan, engine=engine, version=version)


PHASES = (
    "{model: Llama-3.1-8B, cluster: 2xh100-sxm, transfer: {mode: MODE}, "
    "pools: [{role: prefill, scheduler: {max_waiting: 7}}, {role: decode}]}"
)


@pytest.mark.parametrize("asked", ["true", "null"])
def test_context_servers_of_tensorrt_llm_run_without_the_overlap_scheduler(asked):
    plan = plan_of(PHASES.replace("MODE", "pull").replace("max_waiting: 7", f"async_scheduling: {asked}"))
    prefill, decode = realise(plan, release_for("tensorrt-llm", None))
    assert prefill.options["disable_overlap_scheduler"] is True
    assert "disable_overlap_scheduler" not in decode.options
    assert any("async_scheduling=true" in line for line in prefill.cannot) == (asked == "true")


def test_a_limit_of_the_queue_counts_what_the_engine_counts():
    """vLLM: all requests of all ranks; SGLang: those that wait at a rank, and none between two phases."""
    of_ranks = "{model: DeepSeek-V3, cluster: 8xh200-sxm, pools: [{dp: 8, ep: 8, scheduler: {max_waiting: 7, "
    plan = plan_of(of_ranks + "max_num_seqs: 64}}]}")
    (vllm,), (sglang,) = (realise(plan, release_for(engine, None)) for engine in ("vllm", "sglang"))
    assert vllm.flags["--max-num-queued-reqs"] == 8 * (64 + 7)
    assert sglang.flags["--max-queued-requests"] == 7
    prefill, _ = realise(plan_of(PHASES.replace("MODE", "pull")), release_for("sglang", None))
    assert "--max-queued-requests" not in prefill.flags
    assert any("max_waiting=7" in line for line in prefill.cannot)


def test_the_smallest_priority_goes_first_in_each_engine():
    plan = plan_of("{model: Llama-3.1-8B, cluster: 1xh100-sxm, pools: [{scheduler: {policy: priority}}]}")
    (vllm,), (sglang,) = (realise(plan, release_for(engine, None)) for engine in ("vllm", "sglang"))
    assert vllm.flags["--scheduling-policy"] == "priority"
    assert {"--enable-priority-scheduling", "--schedule-low-priority-values-first"} <= set(sglang.flags)


def test_a_tier_is_of_each_device_and_what_engines_take_of_a_rank_or_of_a_device():
    plan = plan_of(
        "{model: Llama-3.1-8B, cluster: 8xh100-sxm, "
        "pools: [{tp: 2, pp: 2, replicas: 2, kv_tiers: [{tier: host, capacity: 64GB, bandwidth: 20GB/s}]}]}"
    )
    (vllm,), (sglang,), (trtllm,) = (realise(plan, release_for(engine, None)) for engine in ENGINES)
    assert vllm.flags["--kv-offloading-size"] == pytest.approx(4 * 64e9 / 2**30, abs=1e-3)
    assert sglang.flags["--hicache-size"] == 64
    assert trtllm.options["kv_cache_config"]["host_cache_size"] == 64_000_000_000


def test_ranks_of_adapters_are_those_that_vllm_takes():
    plan = plan_of(
        "{model: Llama-3.1-8B, cluster: 1xh100-sxm, pools: [{lora: {adapters: 4, rank: 20, max_loras: 4}}]}"
    )
    (vllm,), (sglang,), _ = (realise(plan, release_for(engine, None)) for engine in ENGINES)
    assert (vllm.flags["--max-lora-rank"], sglang.flags["--max-lora-rank"]) == (32, 20)


def test_degrees_that_no_switch_can_say_are_refused():
    """vLLM's experts are on all ranks or on none, attention ranks of TensorRT-LLM have one device each."""
    plan = plan_of("{model: DeepSeek-V3, cluster: 8xh200-sxm, pools: [{tp: 2, dp: 4, ep: 4}]}")
    (vllm,), _, (trtllm,) = (realise(plan, release_for(engine, None)) for engine in ENGINES)
    assert "--enable-expert-parallel" not in vllm.flags
    assert any(line.startswith("ep=4") for line in vllm.cannot)
    assert "enable_attention_dp" not in trtllm.options
    assert any(line.startswith("dp=4") for line in trtllm.cannot)


def test_words_of_a_draft_model_and_what_it_switches_off():
    plan = plan_of(
        "{model: Llama-3.1-70B, cluster: 8xh100-sxm, pools: [{tp: 8, speculative: {method: draft-model, "
        "draft_model: Llama-3.2-1B, num_speculative_tokens: 3, acceptance: 0.7}}]}"
    )
    (vllm,), (sglang,), (trtllm,) = (realise(plan, release_for(engine, None)) for engine in ENGINES)
    assert '"method": "draft_model"' in vllm.flags["--speculative-config"]
    assert sglang.flags["--speculative-algorithm"] == "STANDALONE"
    assert trtllm.options["speculative_config"]["decoding_type"] == "DraftTarget"
    assert "where it drafts, SGLang switches chunks beside decodes off" in " ".join(sglang.cannot)
    assert "switches chunks" not in " ".join(vllm.cannot)
