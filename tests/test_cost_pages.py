"""Pools of pages of models with windows: groups, bytes and capacities by hand, and who frees what."""

from __future__ import annotations

from math import floor

import pytest

from apexsim.cost.graph import cut_of
from apexsim.cost.kvgroups import gives_back, kv_pool
from apexsim.cost.kvpages import KvPages
from apexsim.spec import catalog
from apexsim.spec.plan import Pool, Scheduler
from tests.cost_worlds import compiled

FULL = "disable_hybrid_kv_cache_manager"


@pytest.mark.parametrize(
    ("name", "full", "windowed", "depth", "padding"),
    [
        ("Gemma-3-27B", 1, 6, 10, 8),  # 10 full, 52 sliding: vLLM's own example
        ("Gemma-3-12B", 1, 5, 8, 0),
        ("Gemma-3-4B", 1, 6, 5, 1),
        ("Gemma-2-27B", 1, 1, 23, 0),
        ("gpt-oss-120b", 1, 1, 18, 0),
        ("gpt-oss-20b", 1, 1, 12, 0),
        ("Llama-4-Scout-17B-16E", 1, 3, 12, 0),
        ("Mistral-7B-v0.1", 0, 1, 32, 0),
    ],
)
def test_layers_are_dealt_to_groups_as_vllm_does(
    name: str, full: int, windowed: int, depth: int, padding: int
) -> None:
    model = catalog.model(name)
    found = kv_pool(model, cut_of(model, Pool()), 16)
    assert found is not None
    assert found.pages == KvPages(full, windowed, 0, 16, 16, model.window)
    assert found.padding == padding
    token = next(group.attention for group in model.groups).kv_elements * 2
    assert found.page_bytes == (depth * 16 * token,)


def test_smaller_layers_take_more_tokens_a_page() -> None:
    """Gemma-4-26B-A4B: 25 sliding layers of 8 heads of 256, 5 full ones of 2 heads of 512: half the bytes a token."""
    model = catalog.model("Gemma-4-26B-A4B")
    found = kv_pool(model, cut_of(model, Pool()), 16)
    assert found is not None
    assert found.pages == KvPages(1, 5, 0, 32, 16, 1024)
    assert found.page_bytes == (5 * 16 * 2 * 8 * 256 * 2,)


def test_pages_of_a_stage_hold_the_layers_of_the_stage() -> None:
    model = catalog.model("gpt-oss-120b")
    cut = cut_of(model, Pool(tp=2, pp=2))
    found = kv_pool(model, cut, 16)
    assert found is not None
    assert found.page_bytes == (9 * 16 * 2 * 4 * 64 * 2,) * 2


def test_capacity_by_hand() -> None:
    """Gemma-3-27B at 131,072 tokens: 8192 pages of full layers, 64 of each of six windowed groups."""
    memory = compiled("Gemma-3-27B", tp=2, engine_version="0.11").memory
    plain = compiled("Gemma-3-27B", tp=2, engine_version="0.11", disable_hybrid_kv_cache_manager=True).memory
    assert memory.pages is not None
    assert memory.pages.held(131_072) == 8192 + 6 * 64
    assert memory.kv_blocks == pytest.approx(plain.kv_blocks * 6.2, abs=7)  # 62 layers a block, 10 a page
    assert memory.kv_capacity_tokens == floor(memory.kv_blocks * 131_072 / (8192 + 384))
    assert memory.kv_capacity_tokens / plain.kv_capacity_tokens == pytest.approx(6.2 * 8192 / 8576, rel=1e-3)


@pytest.mark.parametrize("name", ["Gemma-3-12B", "gpt-oss-120b", "Mistral-7B-v0.1", "Gemma-2-9B"])
@pytest.mark.parametrize("length", [512, 4096, 8192])
def test_no_capacity_is_lost_where_no_layer_is_padding(name: str, length: int) -> None:
    """What fits at a length is never less; where the window is as long as the context, it is the same."""
    hybrid, plain = (
        compiled(name, tp=2, max_model_len=length, disable_hybrid_kv_cache_manager=off).memory for off in (None, True)
    )
    assert hybrid.pages is not None
    assert hybrid.kv_capacity_tokens >= plain.kv_capacity_tokens * (1 - 1e-3)
    if catalog.model(name).window >= length:
        assert hybrid.kv_capacity_tokens == pytest.approx(plain.kv_capacity_tokens, rel=16 / length + 1e-3)


def test_who_frees_what_has_left_the_window() -> None:
    names = "Gemma-3-27B", "Llama-4-Scout-17B-16E", "Llama-3.1-8B", "Mistral-7B-v0.1"
    gemma, scout, llama, mistral = map(catalog.model, names)
    assert gives_back(gemma, Pool(), "vllm", None).yes
    assert gives_back(gemma, Pool(), "vllm", "0.10.1").yes
    assert not gives_back(gemma, Pool(), "vllm", "0.9.2").yes
    assert not gives_back(gemma, Pool(), "sglang", None).yes
    assert not gives_back(gemma, Pool(), "tensorrt-llm", None).yes
    assert not gives_back(gemma, Pool(), "transformers", None).yes
    assert not gives_back(gemma, Pool(disable_hybrid_kv_cache_manager=True), "vllm", None).yes
    assert gives_back(gemma, Pool(scheduler=Scheduler(prefix_caching=True)), "vllm", None).yes
    assert not gives_back(mistral, Pool(scheduler=Scheduler(prefix_caching=True)), "vllm", None).yes
    assert not gives_back(llama, Pool(), "vllm", None).yes
    assert not gives_back(scout, Pool(), "vllm", None).yes
    assert gives_back(scout, Pool(disable_hybrid_kv_cache_manager=False), "vllm", None).yes


def test_notes_say_how_windowed_layers_are_kept() -> None:
    def note(**changes: object) -> str:
        (found,) = [n for n in compiled("Gemma-3-27B", tp=2, **changes).confidence.notes if "a window of" in n]
        return found

    assert "6 the window, room of 8 layers is padding; 131072 tokens hold 8576 pages" in note()
    assert "understated by up to 6.0x" in note(engine="sglang")
    assert "swa_full_tokens_ratio" in note(engine="sglang")
    assert "found with the layers that keep the whole context" in note(scheduler=Scheduler(prefix_caching=True))
