"""Binary min-heaps of (step, request) pairs in a row of DUE records (``state.py``), smallest step first."""

from __future__ import annotations

from apexsim.engine.jit import kernel
from apexsim.engine.state import Rows


@kernel
def heap_push(heap: Rows, size: int, step: int, request: int) -> int:
    """Add a pair to the heap in ``heap[:size]``; returns the new size. The caller has made room."""
    i = size
    while i > 0:
        parent = (i - 1) >> 1
        if heap[parent].step <= step:
            break
        heap[i].step = heap[parent].step
        heap[i].request = heap[parent].request
        i = parent
    heap[i].step = step
    heap[i].request = request
    return size + 1


@kernel
def heap_pop(heap: Rows, size: int) -> int:
    """Remove the smallest pair (read it at index 0 before); returns the new size."""
    size -= 1
    step = heap[size].step
    request = heap[size].request
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1].step < heap[child].step:
            child += 1
        if heap[child].step >= step:
            break
        heap[i].step = heap[child].step
        heap[i].request = heap[child].request
        i = child
    heap[i].step = step
    heap[i].request = request
    return size
