"""One iteration of a group, set off stage by stage, and the books of what has run."""

from __future__ import annotations

from apexsim.cost.tables import FULL, WINDOWED, StepTables
from apexsim.engine.adapters import loading_s
from apexsim.engine.batch import target
from apexsim.engine.jit import kernel, rare_kernel
from apexsim.engine.law import at_tokens, decode_attention, pairs, prefill_attention
from apexsim.engine.state import DECODE, MIXED, SAMPLED, SCHEDULED, State
from apexsim.engine.tiers import beside_copies, end_copies
from apexsim.engine.visuals import encode_s


@kernel
def run_stages(state: State, tables: StepTables, g: int, prefills: int) -> None:
    """Set one iteration off: through every pipeline stage in turn, each when it is free."""
    groups, replicas = state.groups, state.replicas
    stages = state.stage_free_s.shape[1]
    r = g // stages
    dense, stride = tables.token_dense, tables.token_stride
    decoding, tokens, sampled = size_of_batch(state, tables, g)
    rows = tokens if tables.cp == 1 else tokens_on_a_rank(state, tables, g, tokens)
    scheduled = decoding + prefills
    end, duration, slow = groups[g].begin_s, 0.0, groups[g].slow
    for p in range(stages):
        decode_s, prefill_s = attention_of_stage(state, tables, g, p, decoding)
        if prefills > 0:
            seconds = at_tokens(tables.mixed_s[p], dense, stride, rows)
        else:
            seconds = tables.decode_s[p, decoding]
        seconds += decode_s + prefill_s
        if p == stages - 1:
            seconds += tables.head_s[sampled]
        if replicas[r].copies > 0:
            waited_s = 0.0 if stages == 1 else max(end, state.stage_free_s[r, p]) - groups[g].begin_s
            seconds = beside_copies(state, g, seconds, waited_s)
        if p == 0:
            seconds = max(seconds, tables.host_floor_s[scheduled]) + tables.host_serial_s[scheduled]
            seconds += loading_s(state, r, groups[g].begin_s)
            if prefills > 0 and state.visuals.requests.size > 0:
                seconds += encode_s(state, g)
        seconds *= slow
        if stages > 1:
            end = max(end, state.stage_free_s[r, p]) + seconds
            state.stage_free_s[r, p] = end
            if p < stages - 1:
                end += slow * at_tokens(tables.transfer_s[min(p, tables.transfer_s.shape[0] - 1)], dense, stride, rows)
        duration += seconds
        replicas[r].decode_attention_s += decode_s
        replicas[r].prefill_attention_s += prefill_s
    if stages == 1:
        end += duration
    if replicas[r].copies > 0:
        end_copies(state, r)
    groups[g].end_s = end
    groups[g].duration_s = end - groups[g].begin_s if stages > 1 else duration
    replicas[r].busy_s += duration / stages
    note_slowness(state, g, duration / stages)
    count_iterations(state, g, 1, decoding, tokens - decoding * (state.drafts.size + 1), rows, sampled, scheduled)
    note_decode_work(state, g, decoding, 1)


@kernel
def note_slowness(state: State, g: int, busy_s: float) -> None:
    """Book how much of ``busy_s`` the replica would not have needed were it as fast as the others."""
    slow = state.groups[g].slow
    if slow != 1.0:
        state.replicas[g // state.stage_free_s.shape[1]].slowed_s += busy_s * (1.0 - 1.0 / slow)


@kernel
def size_of_batch(state: State, tables: StepTables, g: int) -> tuple[int, int, int]:
    """(sequences that decode, tokens, sequences that yield one) of the iteration being set off; books its pairs."""
    requests, groups, replicas, begun = state.requests, state.groups, state.replicas, state.begun
    r = g // state.stage_free_s.shape[1]
    decoding = groups[g].decoding if groups[g].decoded else 0
    tokens, sampled = decoding * (state.drafts.size + 1), decoding
    for j in range(groups[g].prefills):
        chunk = begun[g, j].tokens
        if chunk > 0:
            i = begun[g, j].request
            tokens += chunk
            sampled += requests[i].computed + chunk == target(requests, i)
            replicas[r].prefill_pairs += pairs(chunk, requests[i].computed, 0)
            if tables.window > 0:
                replicas[r].prefill_pairs_windowed += pairs(chunk, requests[i].computed, tables.window)
    return decoding, tokens, sampled


@rare_kernel
def tokens_on_a_rank(state: State, tables: StepTables, g: int, tokens: int) -> int:
    """Of ``tokens`` in all: ranks that share a context deal each chunk among them, and compute all decodes."""
    for j in range(state.groups[g].prefills):
        chunk = state.begun[g, j].tokens
        tokens += (chunk + tables.cp - 1) // tables.cp - chunk
    return tokens


@kernel
def attention_of_stage(state: State, tables: StepTables, g: int, p: int, decoding: int) -> tuple[float, float]:
    """Seconds of attention on pipeline stage p in the iteration being set off: (decode, prefill)."""
    requests, groups, begun = state.requests, state.groups, state.begun
    decode_s, prefill_s = 0.0, 0.0
    if decoding > 0:
        decode_s = decode_attention(tables, p, FULL, decoding, float(groups[g].kv + decoding))
        if tables.window > 0:
            windowed = float(groups[g].kv_windowed + groups[g].growing)
            decode_s += decode_attention(tables, p, WINDOWED, decoding, windowed)
    for j in range(groups[g].prefills):
        if begun[g, j].tokens > 0:
            past = requests[begun[g, j].request].computed
            prefill_s += prefill_attention(tables, p, begun[g, j].tokens, past)
    return decode_s, prefill_s


@kernel
def count_iterations(
    state: State, g: int, steps: int, decoding: int, prefill_tokens: int, rows: int, sampled: int, scheduled: int
) -> None:
    """Book ``steps`` iterations of one size, from which time, energy and work are accounted; timeline on demand.

    ``rows``: tokens that a rank computes.
    """
    histograms, replicas = state.histograms, state.replicas
    r = g // state.stage_free_s.shape[1]
    if prefill_tokens > 0:
        histograms[MIXED, rows] += steps
    else:
        histograms[DECODE, decoding] += steps
    histograms[SAMPLED, sampled] += steps
    histograms[SCHEDULED, scheduled] += steps
    replicas[r].iterations += steps
    replicas[r].prefill_tokens += prefill_tokens
    note_iteration(state, g, steps, decoding, prefill_tokens, scheduled)


@kernel
def note_iteration(state: State, g: int, steps: int, decoding: int, prefill_tokens: int, scheduled: int) -> None:
    """A row of the timeline, where one is wanted."""
    timeline = state.timeline
    if timeline.size > 0:
        k = state.filled[1]
        timeline[k].begin_s = state.groups[g].begin_s
        timeline[k].end_s = state.groups[g].end_s
        timeline[k].group = g
        timeline[k].steps = steps
        timeline[k].decoding = decoding
        timeline[k].prefill_tokens = prefill_tokens
        timeline[k].requests = scheduled
        timeline[k].kv_blocks = state.replicas[g // state.stage_free_s.shape[1]].used_blocks
        state.filled[1] = k + 1


@kernel
def note_decode_work(state: State, g: int, decoding: int, steps: int) -> None:
    """Book the tokens and the KV reads of ``steps`` decode iterations that begin now."""
    groups, replicas = state.groups, state.replicas
    r = g // state.stage_free_s.shape[1]
    replicas[r].decode_tokens += decoding * steps
    rises = 0.5 * steps * (steps + 1.0)
    if decoding > 0:
        replicas[r].decode_kv += steps * float(groups[g].kv) + rises * decoding
        replicas[r].decode_kv_windowed += steps * float(groups[g].kv_windowed) + rises * groups[g].growing
