"""The prefix cache of a replica: which prompts find their first blocks computed, and what is evicted.

Blocks of computed prompts are counted in units (``state.Cache``). While requests run that hold a unit, its blocks count
as used, once. When the last of them ends or is preempted, the unit stays as cached, and is evicted, least recently
released first, as soon as its blocks are needed. So do the request's other full blocks, of generated tokens or of a
prompt without hashes, but nobody can find these: they are *lost*, and only counted, between the units. A replica's
blocks are used, cached or free, and what may be allocated is all that is not used. A request's own table counts its
shared blocks, too.

Nothing here does anything in a run without a prefix cache.
"""

from __future__ import annotations

from apexsim.engine.jit import kernel
from apexsim.engine.state import NONE, Limits, State
from apexsim.engine.tiers import keep_units, load_unit, tier_with, worth_loading


@kernel
def find(state: State, limits: Limits, r: int, i: int, tokens: int, tiers: int) -> tuple[int, int, int]:
    """What a prefill of ``tokens`` tokens of request i need not compute at replica r, its first ``tiers`` tiers asked.

    Returns (leading units that it will hold, tokens that are computed, blocks of those units that running requests
    hold and that it need not allocate). The last token is always computed.
    """
    if not limits.prefix_caching:
        return 0, 0, 0
    cache = state.cache
    first, declared = cache.prefixes[i].first, cache.prefixes[i].declared
    most = tokens - 1 if declared == NONE else declared
    found, shared, j = 0, 0, 0
    while j < cache.prefixes[i].units:
        u = cache.ids[first + j]
        end = found + cache.sizes[u] * limits.block_size
        if end > most or (declared == NONE and not at_hand(state, r, u, tiers)):
            break
        if cache.units[r, u].holders > 0:
            shared += cache.sizes[u]
        found = end
        j += 1
    if declared != NONE:
        return j, declared, shared
    if limits.weigh > 0 and tiers > 0:
        return worth_loading(state, limits, r, i, j, found, shared)
    return j, found, shared


@kernel
def at_hand(state: State, r: int, u: int, tiers: int) -> bool:
    """True where unit u is on the device of replica r or in one of its first ``tiers`` KV tiers."""
    return state.cache.units[r, u].resident or (tiers > 0 and tier_with(state.tiers, r, u, tiers) != NONE)


@kernel
def resident_tokens(state: State, limits: Limits, r: int, i: int) -> int:
    """Leading tokens of request i's prompt that replica r has, the last token apart: on its device or in its own tiers.

    What all replicas share is no reason to prefer one of them.
    """
    if not limits.prefix_caching:
        return 0
    cache = state.cache
    first, declared = cache.prefixes[i].first, cache.prefixes[i].declared
    most = state.requests[i].prompt - 1 if declared == NONE else declared
    tokens = 0
    for j in range(cache.prefixes[i].units):
        u = cache.ids[first + j]
        end = tokens + cache.sizes[u] * limits.block_size
        if end > most or not at_hand(state, r, u, limits.own_tiers):
            break
        tokens = end
    return tokens


@kernel
def hold(state: State, limits: Limits, r: int, i: int, units: int, found: int) -> None:
    """Request i is admitted and holds its first ``units`` units; ``found`` tokens are computed.

    Declared units that are not there come into being; the caller allocates their blocks.
    """
    if not limits.prefix_caching:
        return
    cache, replicas = state.cache, state.replicas
    first, mark = cache.prefixes[i].first, cache.prefixes[i].mark
    tokens = 0
    for j in range(units):
        u = cache.ids[first + j]
        if cache.units[r, u].resident and cache.units[r, u].holders == 0:
            unlink(state, r, u)
            replicas[r].cached_blocks -= cache.sizes[u]
        elif limits.tiers > 0 and not cache.units[r, u].resident and cache.prefixes[i].declared == NONE:
            first_time = cache.prefixes[i].hit == NONE
            load_unit(state, r, u, cache.sizes[u] * limits.block_size if first_time else 0)
        cache.units[r, u].resident = 1
        cache.units[r, u].holders += 1
        cache.held[mark + j] = 1
        tokens += cache.sizes[u] * limits.block_size
    cache.prefixes[i].settled = units
    cache.prefixes[i].settled_tokens = tokens
    cache.prefixes[i].admitted = replicas[r].admissions
    replicas[r].admissions += 1
    if cache.prefixes[i].hit == NONE:
        cache.prefixes[i].hit = found


@kernel
def settle(state: State, limits: Limits, r: int, i: int) -> None:
    """More of request i is computed: its units that are whole now can be found.

    Where another request has computed the same unit first, this copy stays the request's own until it is freed.
    """
    if not limits.prefix_caching:
        return
    cache = state.cache
    first, mark = cache.prefixes[i].first, cache.prefixes[i].mark
    before = cache.prefixes[i].settled
    while cache.prefixes[i].settled < cache.prefixes[i].units:
        j = cache.prefixes[i].settled
        u = cache.ids[first + j]
        end = cache.prefixes[i].settled_tokens + cache.sizes[u] * limits.block_size
        if end > state.requests[i].computed:
            break
        cache.held[mark + j] = 1 - cache.units[r, u].resident
        if cache.held[mark + j]:
            cache.units[r, u].resident = 1
            cache.units[r, u].holders = 1
        cache.prefixes[i].settled = j + 1
        cache.prefixes[i].settled_tokens = end
    if limits.tiers > 0 and cache.prefixes[i].settled > before:
        keep_units(state, r, i, before, cache.prefixes[i].settled)


@kernel
def release(state: State, limits: Limits, r: int, i: int, tokens: int) -> None:
    """Request i, with ``tokens`` computed, has given back its table: full blocks stay, used by others or cached.

    The tail is the first to be evicted, and what nobody can find counts as the tail.
    """
    if not limits.prefix_caching:
        return
    cache, replicas = state.cache, state.replicas
    first, mark = cache.prefixes[i].first, cache.prefixes[i].mark
    lost = tokens // limits.block_size
    for j in range(cache.prefixes[i].settled):
        if cache.held[mark + j]:
            lost -= cache.sizes[cache.ids[first + j]]
    replicas[r].cached_blocks += lost
    replicas[r].lost_last += lost
    for j in range(cache.prefixes[i].settled - 1, -1, -1):
        if cache.held[mark + j]:
            u = cache.ids[first + j]
            cache.units[r, u].holders -= 1
            if cache.units[r, u].holders > 0:
                replicas[r].used_blocks += cache.sizes[u]
            else:
                replicas[r].cached_blocks += cache.sizes[u]
                link_newest(state, r, u)
    if limits.tiers > 0:
        keep_units(state, r, i, 0, cache.prefixes[i].settled)
    cache.prefixes[i].settled = 0
    cache.prefixes[i].settled_tokens = 0


@kernel
def take_blocks(state: State, limits: Limits, r: int, blocks: int) -> None:
    """Allocate; the caller has checked that so many are not used. Free blocks first, then those of cached units."""
    replicas = state.replicas
    replicas[r].used_blocks += blocks
    replicas[r].peak_blocks = max(replicas[r].peak_blocks, replicas[r].used_blocks)
    evict(state, r, limits.kv_blocks)


@kernel
def evict(state: State, r: int, blocks: int) -> None:
    """Drop what replica r has cached, least recently released first, until used and cached blocks fit ``blocks``."""
    cache, replicas = state.cache, state.replicas
    excess = replicas[r].used_blocks + replicas[r].cached_blocks - blocks
    while excess > 0 and replicas[r].cached_blocks > 0:
        u = replicas[r].oldest
        gone = min(excess, lost_first(state, r))
        if u == NONE:
            replicas[r].lost_last -= gone
        else:
            cache.units[r, u].lost_before -= gone
            if gone < excess:
                gone += cache.sizes[u]
                unlink(state, r, u)
                cache.units[r, u].resident = 0
        excess -= gone
        replicas[r].cached_blocks -= gone
        replicas[r].evicted_blocks += gone


@kernel
def lost_first(state: State, r: int) -> int:
    """Cached blocks that would be evicted before the first unit, and that nobody can find."""
    u = state.replicas[r].oldest
    lost: int = state.replicas[r].lost_last if u == NONE else state.cache.units[r, u].lost_before
    return lost


@kernel
def link_newest(state: State, r: int, u: int) -> None:
    """Unit u is the last to be evicted of those that are cached now."""
    units, replicas = state.cache.units, state.replicas
    last = replicas[r].newest
    units[r, u].older = last
    units[r, u].younger = NONE
    units[r, u].lost_before = replicas[r].lost_last
    replicas[r].lost_last = 0
    if last != NONE:
        units[r, last].younger = u
    else:
        replicas[r].oldest = u
    replicas[r].newest = u


@kernel
def unlink(state: State, r: int, u: int) -> None:
    """Unit u is no longer among those that may be evicted; the lost blocks before it are."""
    units, replicas = state.cache.units, state.replicas
    before, after = units[r, u].older, units[r, u].younger
    if before != NONE:
        units[r, before].younger = after
    else:
        replicas[r].oldest = after
    if after != NONE:
        units[r, after].older = before
        units[r, after].lost_before += units[r, u].lost_before
    else:
        replicas[r].newest = before
        replicas[r].lost_last += units[r, u].lost_before


@kernel
def is_before(state: State, limits: Limits, i: int, j: int) -> bool:
    """True where request i was admitted before request j."""
    if limits.prefix_caching:
        return bool(state.cache.prefixes[i].admitted < state.cache.prefixes[j].admitted)
    return bool(state.adapters.asks[i].admitted < state.adapters.asks[j].admitted)


@kernel
def by_admission(state: State, limits: Limits, leaving: int, i: int) -> int:
    """Put request i into the list of those that leave (by ``follower``); returns its head.

    What leaves together is released in the order of admission, which decides what is evicted first.
    """
    requests = state.requests
    counted = limits.prefix_caching or limits.max_loras > 0
    if not counted or leaving == NONE or is_before(state, limits, i, leaving):
        requests[i].follower = leaving
        return i
    before = leaving
    after = requests[before].follower
    while after != NONE and is_before(state, limits, after, i):
        before = after
        after = requests[before].follower
    requests[before].follower = i
    requests[i].follower = after
    return leaving
