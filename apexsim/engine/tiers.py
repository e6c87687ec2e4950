"""KV tiers beyond the device's memory: what is kept there, found there, and how long it takes to come back.

Every unit of a prompt is written through to the tiers as soon as it can be found on the device, and counts as used
again when a request that holds it ends: off the critical path, as vLLM's offloading connector, LMCache and SGLang's
HiCache do. A tier that takes no writes gets what the tier above it evicts. Within a tier the least recently used unit
goes first, and the tail of a prompt before its head. A unit may be in several tiers and on the device at once.

A request that finds units in a tier loads them, the fastest tier first, while its first iteration computes. With L
equal layers, T the seconds of the stage without loads, D those of all loads of the iteration from this tier:

    loaded[l] = latency + (l + 1) D / L,  start[l] = max(end[l - 1], loaded[l]),  end[l] = start[l] + T / L
    end[L - 1] = max(T, latency + max(D / L + T, D + T / L))

since loaded[l] + (L - l) T / L, linear in l, is latest for the first or for the last layer (CacheBlend, EuroSys'25).

Nothing here does anything in a run without tiers.
"""

from __future__ import annotations

from apexsim.engine.jit import rare_kernel
from apexsim.engine.state import NONE, Limits, State
from apexsim.engine.tier_state import Tiers


@rare_kernel
def tier_with(tiers: Tiers, r: int, u: int, most: int) -> int:
    """The fastest of the first ``most`` tiers of replica r that holds unit u; NONE where none does."""
    for t in range(most):
        if tiers.kept[tiers.stores[r, t].row, t, u].resident:
            return t
    return NONE


@rare_kernel
def worth_loading(
    state: State, limits: Limits, r: int, i: int, units: int, found: int, shared: int
) -> tuple[int, int, int]:
    """What request i takes of the ``units`` it could have, as ``kvcache.find``: all, or only what is on the device.

    All, unless loading what is not would take longer than computing the tokens from the first of these on.
    """
    cache, first = state.cache, state.cache.prefixes[i].first
    here, tokens, held = 0, 0, 0
    while here < units and cache.units[r, cache.ids[first + here]].resident:
        u = cache.ids[first + here]
        tokens += cache.sizes[u] * limits.block_size
        if cache.units[r, u].holders > 0:
            held += cache.sizes[u]
        here += 1
    if here == units:
        return units, found, shared
    compute_s = prefill_s(state.tiers, limits, found) - prefill_s(state.tiers, limits, tokens)
    if load_s(state, r, first + here, first + units) > compute_s:
        return here, tokens, held
    return units, found, shared


@rare_kernel
def load_s(state: State, r: int, begin: int, end: int) -> float:
    """Seconds until the units at places ``begin`` to ``end`` of the prompts are on the device; tiers load at once."""
    cache, stores = state.cache, state.tiers.stores
    below, longest = 0, 0.0
    for t in range(stores.shape[1] - 1, -1, -1):
        own = 0
        for j in range(begin, end):
            u = cache.ids[j]
            if not cache.units[r, u].resident and tier_with(state.tiers, r, u, stores.shape[1]) == t:
                own += cache.sizes[u]
        below += own
        blocks = below if stores[r, t].carries else own
        if blocks > 0:
            longest = max(longest, stores[r, t].latency_s + blocks * stores[r, t].block_s)
    return longest


@rare_kernel
def prefill_s(tiers: Tiers, limits: Limits, tokens: int) -> float:
    """Seconds to compute the first ``tokens`` tokens of a prompt alone."""
    k = min(tokens // limits.weigh, tiers.prefill_s.size - 2)
    rise = (tiers.prefill_s[k + 1] - tiers.prefill_s[k]) / limits.weigh
    return float(tiers.prefill_s[k] + (tokens - k * limits.weigh) * rise)


@rare_kernel
def load_unit(state: State, r: int, u: int, tokens: int) -> None:
    """Unit u comes to the device of replica r with its next iteration; ``tokens`` of it count as a hit."""
    stores = state.tiers.stores
    t = tier_with(state.tiers, r, u, stores.shape[1])
    if t == NONE:
        return
    stores[r, t].pending += state.cache.sizes[u]
    stores[r, t].loaded += state.cache.sizes[u]
    stores[r, t].hit_tokens += tokens
    state.replicas[r].copies = 1


@rare_kernel
def keep_units(state: State, r: int, i: int, begin: int, end: int) -> None:
    """Units ``begin`` to ``end`` of request i's prompt are used: the tiers have them, the last as the oldest."""
    if state.cache.prefixes[i].declared != NONE:
        return
    first = state.cache.prefixes[i].first
    for j in range(end - 1, begin - 1, -1):
        u = state.cache.ids[first + j]
        for t in range(state.tiers.stores.shape[1]):
            put(state, r, t, u, True)
    trim(state, r)


@rare_kernel
def put(state: State, r: int, t: int, u: int, used: bool) -> None:
    """Unit u is the most recent one of tier t: ``used`` now, or handed down by the tier above. May overfill it."""
    stores, kept = state.tiers.stores, state.tiers.kept
    row, size = stores[r, t].row, state.cache.sizes[u]
    if kept[row, t, u].resident:
        unlink_kept(state.tiers, row, t, u)
    else:
        if size > stores[row, t].capacity or (used and not stores[row, t].through):
            return
        kept[row, t, u].resident = 1
        stores[row, t].used += size
        stores[row, t].stored += size
    last = stores[row, t].newest
    kept[row, t, u].older = last
    kept[row, t, u].younger = NONE
    if last != NONE:
        kept[row, t, last].younger = u
    else:
        stores[row, t].oldest = u
    stores[row, t].newest = u


@rare_kernel
def unlink_kept(tiers: Tiers, row: int, t: int, u: int) -> None:
    """Take unit u out of the list of tier t."""
    stores, kept = tiers.stores, tiers.kept
    before, after = kept[row, t, u].older, kept[row, t, u].younger
    if before != NONE:
        kept[row, t, before].younger = after
    else:
        stores[row, t].oldest = after
    if after != NONE:
        kept[row, t, after].older = before
    else:
        stores[row, t].newest = before


@rare_kernel
def trim(state: State, r: int) -> None:
    """Every tier drops its least recent units until the rest fits; the next takes them where it takes no writes."""
    stores, kept = state.tiers.stores, state.tiers.kept
    last = stores.shape[1] - 1
    for t in range(last + 1):
        row = stores[r, t].row
        while stores[row, t].used > stores[row, t].capacity:
            u = stores[row, t].oldest
            unlink_kept(state.tiers, row, t, u)
            kept[row, t, u].resident = 0
            stores[row, t].used -= state.cache.sizes[u]
            stores[row, t].evicted += state.cache.sizes[u]
            if t < last and not stores[r, t + 1].through:
                put(state, r, t + 1, u, False)
        stores[row, t].peak = max(stores[row, t].peak, stores[row, t].used)


@rare_kernel
def beside_copies(state: State, g: int, seconds: float, waited_s: float) -> float:
    """Seconds of a stage's device in an iteration that copies blocks; without them it would take ``seconds``.

    ``waited_s``: how long the stage has waited for the one before it, while its blocks were on their way already.
    """
    r = g // state.stage_free_s.shape[1]
    stores = state.tiers.stores
    below, longest = 0, seconds
    for t in range(stores.shape[1] - 1, -1, -1):
        own = stores[r, t].pending
        below += own
        blocks = below if stores[r, t].carries else own
        if blocks > 0:
            load_s, layers = blocks * stores[r, t].block_s, stores[r, t].layers
            end_s = stores[r, t].latency_s + max(load_s / layers + seconds, load_s + seconds / layers)
            longest = max(longest, end_s - waited_s)
    longest = float(max(longest, state.replicas[r].beside_s - waited_s) + state.replicas[r].stall_s)
    state.replicas[r].copy_s += longest - seconds
    return longest


@rare_kernel
def end_copies(state: State, r: int) -> None:
    """The iteration is set off: what the next one copies is still to be said."""
    state.replicas[r].copies = 0
    state.replicas[r].stall_s = state.replicas[r].beside_s = 0.0
    for t in range(state.tiers.stores.shape[1]):
        state.tiers.stores[r, t].pending = 0


@rare_kernel
def wait_for_copies(state: State, g: int) -> None:
    """A rank's iteration brings blocks back or takes them away: as long as that lasts longer, it is its own."""
    groups = state.groups
    waited_s = beside_copies(state, g, groups[g].line_s, 0.0) - groups[g].line_s
    groups[g].own_s += waited_s
    groups[g].line_s += waited_s
    end_copies(state, g)
