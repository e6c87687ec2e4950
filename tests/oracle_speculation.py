"""Which drafts are accepted, once more: the hash of ``engine/speculation.py`` written down from its definition."""

from __future__ import annotations

from tests.oracle_memory import Request


def scrambled(word: int) -> int:
    word = (word + 0x9E3779B9) % 2**32
    for _ in range(2):
        word = ((word ^ (word // 2**16)) * 0x45D9F3B) % 2**32
    return word ^ (word // 2**16)


def chance(seed: int, request: int, place: int) -> float:
    word = scrambled(scrambled(seed % 2**32) ^ (seed // 2**32))
    for part in (request, place):
        word = scrambled(word ^ part)
    return word / 2**32


def tokens_of_a_step(seed: int, request: Request, acceptance: tuple[float, ...]) -> int:
    """Drafts up to the first that is rejected, and the model's own token, within what was asked for."""
    tokens = 1
    for draft, probability in enumerate(acceptance):
        if chance(seed, request.index, len(request.tokens) + draft) >= probability:
            break
        tokens += 1
    return min(tokens, request.output - len(request.tokens))
