"""Encode units of their own: images queue for them, are encoded in batches, and their embeddings travel on.

A request's images are fetched and preprocessed first, which takes host time and no device. Then they are tasks: all
slices of a request are one task of one unit, or, with ``irp`` (intra-request parallelism), are dealt to many: each
slice to the unit with the fewest slices. A unit takes slices first come first served, up to ``most`` of them in one
batch, whoever they are of. When the last slice of a request is encoded, the unit that prefills it is chosen, and each
task's embeddings go there over the links; when all have come the request enters.

Also where no unit encodes: then a request enters when its images are preprocessed, and is encoded where it prefills.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apexsim.engine.course import TO_DECODE, TO_EMBED, TO_ENTER, Course, Rules, need, way_between
from apexsim.engine.jit import kernel, rare_kernel
from apexsim.engine.links import Traffic, release_bytes
from apexsim.engine.pool import BY_PLACE, BY_REQUESTS, Candidates
from apexsim.engine.state import NONE, Rows, instant

PICTURE = np.dtype(
    [
        ("images", "i8"),  # slices
        ("host_s", "f8"),  # seconds before they can be encoded
        ("slice_s", "f8"),  # of one slice alone, on a unit that encodes
        ("slice_bytes", "f8"),  # embeddings of one
        ("task", "i8"),  # the first of its tasks,
        ("tasks", "i8"),  # their number,
        ("open", "i8"),  # those that are not encoded yet,
        ("travelling", "i8"),  # and those whose embeddings have not come
        ("prepared_s", "f8"),
        ("encoded_s", "f8"),  # the last slice
        ("landed_s", "f8"),  # the last embedding
    ]
)
"""The images of a request; NaN where an instant has not come."""

TASK = np.dtype(
    [
        ("request", "i8"), ("unit", "i8"),
        ("slices", "i8"),
        ("waiting", "i8"),  # those that no batch has taken yet
        ("running", "i8"),
        ("next", "i8"),  # in the queue of its unit
    ]
)  # fmt: skip

ENCODER = np.dtype(
    [
        ("head", "i8"), ("tail", "i8"),  # its queue: tasks with slices that are not encoded
        ("tasks", "i8"), ("slices", "i8"),  # in the queue
        ("end_s", "f8"),  # of the batch in flight; inf without one
        ("busy_s", "f8"), ("alone_s", "f8"),  # the latter if each slice were alone in its batch
        ("batches", "i8"), ("encoded", "i8"),  # slices
    ]
)  # fmt: skip

TIMER = np.dtype([("at_s", "f8"), ("request", "i8")])
"""A heap by (seconds, request): images that are being preprocessed."""


class Encoding(NamedTuple):
    """Images of n requests, [0] where nobody brings any, and E units that encode, [0] where replicas do."""

    pictures: Rows  # PICTURE [n]
    tasks: Rows  # TASK [most]
    encoders: Rows  # ENCODER [E]
    timers: Rows  # TIMER [n]
    used: NDArray[np.int64]  # [2] rows of ``timers`` and ``tasks`` in use
    candidates: Candidates  # [n or 1, c] units that a request may be encoded at, numbered from 0
    batch: NDArray[np.float64]  # [k + 1] as ``Visuals.batch``
    load: int  # what decides among the candidates (``pool.BY_…``)
    irp: bool
    most: int  # slices of a batch
    first: int  # number of the first of these units among all, on the links


@kernel
def next_encoding(encoding: Encoding) -> float:
    """When the next batch ends, or the next images are preprocessed."""
    soonest = np.inf
    if encoding.used[0] > 0:
        soonest = encoding.timers[0].at_s
    for u in range(encoding.encoders.size):
        soonest = min(soonest, encoding.encoders[u].end_s)
    return soonest


@kernel
def brings_images(encoding: Encoding, i: int) -> bool:
    """Whether request i has to be encoded."""
    return bool(encoding.pictures.size > 0 and encoding.pictures[i].images > 0)


# --- preprocessing --------------------------------------------------------------------------------------------------


@kernel
def before(timers: Rows, a: int, b: int) -> bool:
    """Whether timer a goes before timer b: the sooner one, of equal ones the request that comes first."""
    same = timers[a].at_s == timers[b].at_s
    return bool(timers[a].at_s < timers[b].at_s or (same and timers[a].request < timers[b].request))


@kernel
def swap_timers(timers: Rows, a: int, b: int) -> None:
    """Timers a and b change places."""
    at_s, i = timers[a].at_s, timers[a].request
    timers[a].at_s, timers[a].request = timers[b].at_s, timers[b].request
    timers[b].at_s, timers[b].request = at_s, i


@rare_kernel
def prepare_images(encoding: Encoding, i: int, now: float) -> None:
    """Request i has arrived: its images are fetched and preprocessed from now on."""
    timers, k = encoding.timers, encoding.used[0]
    timers[k].at_s, timers[k].request = now + encoding.pictures[i].host_s, i
    encoding.used[0] = k + 1
    while k > 0 and before(timers, k, (k - 1) >> 1):
        swap_timers(timers, k, (k - 1) >> 1)
        k = (k - 1) >> 1


@rare_kernel
def take_timer(encoding: Encoding) -> int:
    """Remove the first timer; returns its request."""
    timers, size = encoding.timers, encoding.used[0] - 1
    i: int = timers[0].request
    encoding.used[0] = size
    swap_timers(timers, 0, size)
    k, child = 0, 1
    while child < size:
        if child + 1 < size and before(timers, child + 1, child):
            child += 1
        if not before(timers, child, k):
            break
        swap_timers(timers, k, child)
        k, child = child, 2 * child + 1
    return i


@rare_kernel
def read_timers(encoding: Encoding, course: Course, errands: int, now: float) -> int:
    """Images that are preprocessed by ``now`` become tasks, or errands; returns how many errands there are."""
    while encoding.used[0] > 0 and encoding.timers[0].at_s <= now + instant(now):
        i = take_timer(encoding)
        encoding.pictures[i].prepared_s = now
        if encoding.encoders.size > 0:
            hand_out_slices(encoding, i)
        else:
            errands = need(course, errands, TO_ENTER, i, NONE)
    return errands


# --- at the units that encode ---------------------------------------------------------------------------------------


@rare_kernel
def hand_out_slices(encoding: Encoding, i: int) -> None:
    """The slices of request i join the queues: of one unit, or each that of the unit with the fewest slices."""
    pictures, encoders = encoding.pictures, encoding.encoders
    pictures[i].task = encoding.used[1]
    if not encoding.irp:
        add_slices(encoding, i, encoder_for(encoding, i), pictures[i].images)
        return
    for _ in range(pictures[i].images):
        best = 0
        for u in range(1, encoders.size):
            if encoders[u].slices < encoders[best].slices:
                best = u
        add_slices(encoding, i, best, 1)


@rare_kernel
def encoder_for(encoding: Encoding, i: int) -> int:
    """The candidate with the least load (slices, or requests), the first on a tie."""
    candidates, encoders = encoding.candidates, encoding.encoders
    row = candidates[i if candidates.shape[0] > 1 else 0]
    best: int = row[0]
    if encoding.load == BY_PLACE:
        return best
    for c in range(1, row.size):
        u = row[c]
        if encoding.load == BY_REQUESTS:
            better = encoders[u].tasks < encoders[best].tasks
        else:
            better = encoders[u].slices < encoders[best].slices
        if better:
            best = u
    return best


@rare_kernel
def add_slices(encoding: Encoding, i: int, u: int, slices: int) -> None:
    """So many slices more of request i for unit u: of the task that it has there, else of a new one."""
    pictures, tasks, encoders = encoding.pictures, encoding.tasks, encoding.encoders
    encoders[u].slices += slices
    for t in range(pictures[i].task, pictures[i].task + pictures[i].tasks):
        if tasks[t].unit == u:
            tasks[t].slices += slices
            tasks[t].waiting += slices
            return
    t = encoding.used[1]
    encoding.used[1] = t + 1
    pictures[i].tasks += 1
    pictures[i].open += 1
    tasks[t].request, tasks[t].unit, tasks[t].next = i, u, NONE
    tasks[t].slices = tasks[t].waiting = slices
    if encoders[u].head == NONE:
        encoders[u].head = t
    else:
        tasks[encoders[u].tail].next = t
    encoders[u].tail = t
    encoders[u].tasks += 1


@rare_kernel
def start_batches(encoding: Encoding, now: float) -> None:
    """Every idle unit takes slices from its queue, first come first served, as many as a batch holds."""
    tasks, encoders = encoding.tasks, encoding.encoders
    for u in range(encoders.size):
        if encoders[u].end_s < np.inf or encoders[u].head == NONE:
            continue
        slices, alone_s, t = 0, 0.0, encoders[u].head
        while t != NONE and slices < encoding.most:
            taken = min(tasks[t].waiting, encoding.most - slices)
            tasks[t].waiting -= taken
            tasks[t].running = taken
            slices += taken
            alone_s += taken * encoding.pictures[tasks[t].request].slice_s
            t = tasks[t].next
        busy_s = alone_s * encoding.batch[min(slices, encoding.batch.size - 1)]
        encoders[u].end_s = now + busy_s
        encoders[u].busy_s += busy_s
        encoders[u].alone_s += alone_s
        encoders[u].batches += 1
        encoders[u].encoded += slices


@rare_kernel
def end_batches(encoding: Encoding, course: Course, errands: int, now: float) -> int:
    """Batches that end by ``now``: requests whose last slice is encoded become errands; returns how many there are."""
    tasks, encoders, pictures = encoding.tasks, encoding.encoders, encoding.pictures
    for u in range(encoders.size):
        if encoders[u].end_s > now + instant(now):
            continue
        encoders[u].end_s = np.inf
        t = encoders[u].head
        while t != NONE and tasks[t].running > 0:
            encoders[u].slices -= tasks[t].running
            tasks[t].running = 0
            if tasks[t].waiting > 0:
                break
            encoders[u].head = tasks[t].next  # those before it have ended
            encoders[u].tasks -= 1
            i = tasks[t].request
            pictures[i].open -= 1
            if pictures[i].open == 0:
                pictures[i].encoded_s = now
                errands = need(course, errands, TO_EMBED, i, NONE)
            t = tasks[t].next
    return errands


# --- to the unit that prefills --------------------------------------------------------------------------------------


@rare_kernel
def send_embeddings(encoding: Encoding, course: Course, traffic: Traffic, i: int) -> None:
    """Request i is encoded, and its journey's source is chosen: what each task has made goes there."""
    pictures, tasks = encoding.pictures, encoding.tasks
    pictures[i].travelling = pictures[i].tasks
    for t in range(pictures[i].task, pictures[i].task + pictures[i].tasks):
        way = way_between(course, encoding.first + tasks[t].unit, course.journeys[i].source, i)
        amount = tasks[t].slices * pictures[i].slice_bytes
        release_bytes(traffic, course.journeys.size + t, way, amount, True)


@rare_kernel
def embeddings_came(
    encoding: Encoding, course: Course, rules: Rules, errands: int, t: int, now: float
) -> int:
    """The embeddings of task t have landed: with the last of its request that enters; returns how many errands."""
    pictures, i = encoding.pictures, encoding.tasks[t].request
    pictures[i].travelling -= 1
    if pictures[i].travelling > 0:
        return errands
    pictures[i].landed_s = now
    unit = course.journeys[i].source
    if rules.push and course.units[unit].hands_over == 1 and course.journeys[i].more == 1:
        return need(course, errands, TO_DECODE, i, NONE)
    return need(course, errands, TO_ENTER, i, unit)
