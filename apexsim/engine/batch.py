"""Who is in a batch: the running list of a group, and the KV blocks that they hold."""

from __future__ import annotations

import numpy as np

from apexsim.cost.tables import StepTables
from apexsim.engine.adapters import leave_adapter
from apexsim.engine.fair import charge, count_decoding
from apexsim.engine.gaps import forget_old_gaps, join_cohort, largest_gap, leave_cohort, record_run
from apexsim.engine.handover import hand_over
from apexsim.engine.heap import heap_pop, heap_push
from apexsim.engine.jit import kernel, rare_kernel
from apexsim.engine.kvcache import release
from apexsim.engine.order import FAIR, PRIORITY, least_urgent, wait_again
from apexsim.engine.pages import count_pages, count_past_window, pages_held
from apexsim.engine.presence import count_present
from apexsim.engine.result import COMPLETED
from apexsim.engine.speculation import speculate, stop_speculating
from apexsim.engine.state import DECODING, DONE, NONE, PREFILLING, Limits, Rows, State
from apexsim.engine.swap import resumed, swap_out


@kernel
def target(requests: Rows, i: int) -> int:
    """Tokens that a prefill of request i computes: its prompt, and what it had generated before a preemption."""
    return requests[i].prompt + requests[i].generated


@kernel
def tokens_held(requests: Rows, groups: Rows, i: int) -> int:
    """Tokens of request i in the KV cache."""
    if requests[i].phase == DECODING:
        return requests[i].computed + groups[requests[i].group].step - requests[i].entry_step
    return requests[i].computed


@kernel
def known(state: State, limits: Limits, r: int, i: int) -> tuple[int, int, int]:
    """What of waiting request i need not be computed, as ``find`` says it; a decode-only replica has all of its prompt
    in place but for the last token, until it is preempted.
    """
    if limits.in_place and state.requests[i].preemptions == 0:
        return 0, state.requests[i].prompt - 1, 0
    return resumed(state, limits, r, i, target(state.requests, i))


@kernel
def start_running(state: State, g: int, i: int) -> None:
    """Append request i to the group's running list as a prefill."""
    join_batch(state, g, i)
    state.requests[i].phase = PREFILLING
    state.requests[i].computed = 0
    state.replicas[g // state.stage_free_s.shape[1]].running += 1


@kernel
def join_batch(state: State, g: int, i: int) -> None:
    """Append request i to the group's running list."""
    requests, groups = state.requests, state.groups
    last = groups[g].youngest
    requests[i].older = last
    requests[i].younger = NONE
    if last != NONE:
        requests[last].younger = i
    groups[g].youngest = i
    requests[i].group = g


@kernel
def stop_running(state: State, i: int) -> None:
    """Request i runs no more."""
    r = state.requests[i].group // state.stage_free_s.shape[1]
    leave_batch(state, i)
    leave_adapter(state, r, i)
    state.replicas[r].running -= 1


@kernel
def leave_batch(state: State, i: int) -> None:
    """Unlink request i from its group's running list."""
    requests, groups = state.requests, state.groups
    g = requests[i].group
    before, after = requests[i].older, requests[i].younger
    if before != NONE:
        requests[before].younger = after
    if after != NONE:
        requests[after].older = before
    else:
        groups[g].youngest = before


@rare_kernel
def compact(requests: Rows, heap: Rows, size: int, g: int, newcomer: int) -> int:
    """Drop the stale pairs of a full heap of group g, and those of ``newcomer``; returns how many are left."""
    kept = 0
    for j in range(size):
        i, step = heap[j].request, heap[j].step
        live = requests[i].phase == DECODING and requests[i].group == g and i != newcomer
        if live and (requests[i].finish_step == step or requests[i].window_step == step):
            kept = heap_push(heap, kept, step, i)
    return kept


@kernel
def start_decoding(state: State, tables: StepTables, limits: Limits, g: int, i: int, now: float) -> None:
    """The prefill of request i is over and its token is out at ``now``; more are to come."""
    requests, groups = state.requests, state.groups
    step, tokens = groups[g].step, requests[i].computed
    requests[i].phase = DECODING
    requests[i].entry_step = step
    if state.drafts.size > 0:
        speculate(state, tables, g, i, now)
        return
    requests[i].finish_step = step + requests[i].output - requests[i].generated
    requests[i].gap = join_cohort(state, g, now)
    if limits.order == FAIR:
        count_decoding(state, limits, g, i, 1)
    groups[g].decoding += 1
    groups[g].kv += tokens
    if groups[g].finishes == state.finishes.shape[1]:
        groups[g].finishes = compact(requests, state.finishes[g], groups[g].finishes, g, i)
    groups[g].finishes = heap_push(state.finishes[g], groups[g].finishes, requests[i].finish_step, i)
    if not limits.reserve:
        count_pages(state, limits, i, 1, tokens)
    window = tables.window
    if window > 0:
        groups[g].kv_windowed += min(tokens, window)
        if tokens < window:
            groups[g].growing += 1
            requests[i].window_step = step + window - tokens
            if groups[g].windows == state.windows.shape[1]:
                groups[g].windows = compact(requests, state.windows[g], groups[g].windows, g, i)
            groups[g].windows = heap_push(state.windows[g], groups[g].windows, requests[i].window_step, i)


@kernel
def fill_windows(state: State, limits: Limits, g: int) -> None:
    """Sequences that have reached the window by the group's step stop growing."""
    requests, groups = state.requests, state.groups
    while groups[g].windows > 0 and state.windows[g, 0].step <= groups[g].step:
        i = state.windows[g, 0].request
        if requests[i].group == g and requests[i].window_step == state.windows[g, 0].step:
            requests[i].window_step = NONE
            groups[g].growing -= 1
            count_past_window(state, limits, i)
        groups[g].windows = heap_pop(state.windows[g], groups[g].windows)


@kernel
def stop_decoding(state: State, tables: StepTables, limits: Limits, i: int) -> float:
    """Take request i out of the group's sums; returns when its last token came. Its phase is the caller's to set."""
    if state.drafts.size > 0:
        return stop_speculating(state, tables, i)
    requests, groups = state.requests, state.groups
    g = requests[i].group
    tokens = tokens_held(requests, groups, i)
    if limits.order == FAIR:
        count_decoding(state, limits, g, i, -1)
    groups[g].decoding -= 1
    groups[g].kv -= tokens
    if not limits.reserve:
        count_pages(state, limits, i, -1, tokens)
    if tables.window > 0:
        groups[g].kv_windowed -= min(tokens, tables.window)
        if tokens < tables.window:
            groups[g].growing -= 1
        requests[i].window_step = NONE
    # NumPy's fmax: NaN (no gap yet) loses.
    requests[i].itl_max_s = np.fmax(requests[i].itl_max_s, largest_gap(state, g, requests[i].gap))
    last_token_s = leave_cohort(state, g, requests[i].gap)
    if requests[i].late == 1:
        requests[i].late = 0
        groups[g].late -= 1
        last_token_s = requests[i].first_token_s
    return last_token_s


@kernel
def finish(state: State, limits: Limits, i: int, now: float) -> None:
    """Request i has yielded its last token at ``now``; its blocks are free."""
    requests, replicas = state.requests, state.replicas
    r = requests[i].group // state.stage_free_s.shape[1]
    tokens = tokens_held(requests, state.groups, i)
    held = limits.reserve or state.drafts.size > 0  # more blocks than the tokens fill
    blocks = requests[i].blocks if held else pages_held(limits, tokens)
    count_present(replicas, r, now)
    requests[i].finish_s = now
    if limits.hands_over:
        stop_running(state, i)
        hand_over(state, r, i, blocks, tokens)
        return
    replicas[r].used_blocks -= blocks
    release(state, limits, r, i, tokens)
    stop_running(state, i)
    requests[i].phase = DONE
    requests[i].status = COMPLETED
    replicas[r].prompt_tokens -= requests[i].prompt
    replicas[r].ended += 1
    replicas[r].full = 0


@kernel
def end_prefill(state: State, tables: StepTables, limits: Limits, g: int, i: int, now: float) -> None:
    """The last chunk of request i has been computed: a token is out."""
    requests = state.requests
    if requests[i].generated == 0:
        requests[i].first_token_s = now
    else:
        # The gap over a preemption belongs to this request alone.
        gap = now - requests[i].last_token_s
        record_run(state, gap, 0.0, 1, 1)
        requests[i].itl_max_s = np.fmax(requests[i].itl_max_s, gap)
    requests[i].generated += 1
    if limits.hybrid and not limits.reserve:
        # What the chunk saw and the next token does not.
        r = g // state.stage_free_s.shape[1]
        held = pages_held(limits, requests[i].computed)
        state.replicas[r].used_blocks -= requests[i].blocks - held
        requests[i].blocks = held
    if limits.order == FAIR:
        charge(state, g, i, limits.output_weight)
    if requests[i].generated == requests[i].output:
        finish(state, limits, i, now)
    else:
        start_decoding(state, tables, limits, g, i, now)


@rare_kernel
def preempt(state: State, tables: StepTables, limits: Limits, g: int, ahead: int) -> int:
    """The youngest request of the group, or the least urgent, gives its blocks back; returns it.

    It will be recomputed, or swapped in.

    ``ahead`` is 1 where the decoding sequences already hold the block of the iteration that is being scheduled.
    """
    requests, groups, replicas = state.requests, state.groups, state.replicas
    i = least_urgent(state, g) if limits.order == PRIORITY else groups[g].youngest
    r = g // state.stage_free_s.shape[1]
    tokens = tokens_held(requests, groups, i)
    if requests[i].phase == DECODING:
        drafted = state.drafts.size > 0
        replicas[r].used_blocks -= requests[i].blocks if drafted else pages_held(limits, tokens + ahead)
        requests[i].generated += groups[g].step - requests[i].entry_step
        requests[i].last_token_s = stop_decoding(state, tables, limits, i)
    else:
        replicas[r].used_blocks -= requests[i].blocks
        drop_begun(state, g, i)
    release(state, limits, r, i, tokens)
    requests[i].blocks = 0
    requests[i].computed = swap_out(state, limits, r, i, tokens) if limits.swap_blocks > 0 else 0
    requests[i].preemptions += 1
    # Batches of a pipeline cannot preempt each other's sequences: two that are short would take turns for ever.
    replicas[r].full = 1 if state.stage_free_s.shape[1] > 1 else 0
    stop_running(state, i)
    wait_again(state, limits, r, i)
    return i


@kernel
def drop_begun(state: State, g: int, i: int) -> None:
    """Take request i out of the prompts that were begun; the others keep their order."""
    groups, begun = state.groups, state.begun
    kept = 0
    for j in range(groups[g].prefills):
        if begun[g, j].request != i:
            begun[g, kept].request = begun[g, j].request
            begun[g, kept].tokens = begun[g, j].tokens
            kept += 1
    groups[g].prefills = kept


@rare_kernel
def make_room_for_gaps(state: State, g: int) -> None:
    """Forget the gaps that no running sequence has seen."""
    requests, groups = state.requests, state.groups
    oldest = state.cohorts[g, max(0, groups[g].cohorts - 1)].gap
    i = groups[g].youngest
    while i != NONE:
        if requests[i].phase == DECODING:
            oldest = min(oldest, requests[i].gap)
        i = requests[i].older
    forget_old_gaps(state, g, oldest)
