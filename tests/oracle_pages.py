"""Which pages of which groups a sequence holds, one by one: ``cost/kvpages.py`` and ``engine/pages.py`` naively."""

from __future__ import annotations

from apexsim.cost.kvpages import KvPages

Page = tuple[str, int, int]
"""The kind of a group, which of them, and which stretch of the sequence the page holds."""


def pages(law: KvPages, seen_by: int, tokens: int) -> set[Page]:
    """Pages of the first ``tokens`` tokens that the token at place ``seen_by`` or a later one sees."""
    held: set[Page] = {("state", k, 0) for k in range(law.state_pages)}
    for place in range(tokens):
        held |= {("full", k, place // law.block_size) for k in range(law.full_groups)}
        if place > seen_by - law.window:
            held |= {("windowed", k, place // law.window_block) for k in range(law.windowed_groups)}
    return held


def most(law: KvPages, tokens: int, chunk: int) -> int:
    """What vLLM asks for before it serves a length: all tokens, or window and chunk and one page."""
    windowed = -(-tokens // law.window_block)
    reach = -(-(law.window - 1 + chunk) // law.window_block) + 1
    full = law.full_groups * -(-tokens // law.block_size)
    return full + law.windowed_groups * min(windowed, reach) + law.state_pages
