"""Pages of a sequence where layers of several kinds share one pool of KV pages: vLLM's hybrid KV cache manager.

Layers of one kind stand in *groups* of equally many layers, so that a page holds ``block_size`` tokens of one group
whatever its kind. Of a sequence with t tokens in the cache

    a group of full attention holds     ceil(t / block_size) pages
    a group with a window holds         ceil(t / window_block) - floor(max(0, t - window) / window_block)
    a group of linear layers holds      1 page, its state

and a chunk of a prompt that begins after ``past`` tokens keeps what its first token sees: max(0, past + 1 - window) in
place of t - window. Source: vllm/v1/core/single_type_kv_cache_manager.py (``remove_skipped_blocks``) and
kv_cache_utils.py of vLLM 0.10 to 0.19.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class KvPages(NamedTuple):
    """How many pages a sequence of so many tokens holds. All counts are of one replica."""

    full_groups: int
    windowed_groups: int
    state_pages: int  # of a running sequence, however long it is
    block_size: int  # tokens of a page of a full group
    window_block: int  # tokens of a page of a windowed group; divides block_size or is a multiple of it
    window: int  # tokens that the layers of a windowed group see; 0 where there are none

    def held(self, tokens: Ints | int) -> Ints:
        """Pages of a decoding sequence with ``tokens`` tokens in the cache."""
        t = np.asarray(tokens, dtype=np.int64)
        pages = self.full_groups * -(-t // self.block_size) + self.state_pages
        if self.windowed_groups:
            left = np.maximum(t - self.window, 0) // self.window_block
            pages = pages + self.windowed_groups * (-(-t // self.window_block) - left)
        return np.asarray(pages)

    def most(self, tokens: Ints | int, chunk: int) -> Ints:
        """Pages that a request of ``tokens`` tokens may hold at a time, in chunks of at most ``chunk`` tokens.

        What vLLM asks for before it serves such a length: window and chunk, and one page for their ends.
        """
        t = np.asarray(tokens, dtype=np.int64)
        pages = self.full_groups * -(-t // self.block_size) + self.state_pages
        if self.windowed_groups:
            reach = -(-(self.window - 1 + chunk) // self.window_block) + 1
            pages = pages + self.windowed_groups * np.minimum(-(-t // self.window_block), reach)
        return np.asarray(pages)


def uniform(block_size: int) -> KvPages:
    """All layers in one group of full attention: what engines without such a manager do."""
    return KvPages(1, 0, 0, block_size, block_size, 0)
