"""Transfers over links that they share: flows at max-min fair rates, event by event.

A *flow* carries the bytes of one request along a path of links. Rates are max-min fair (Bertsekas and Gallager, Data
Networks, §6.5.2): no flow can be given more without taking from one that has as little or less. They change only
where a flow begins, runs dry or ends; in between, bytes go down in straight lines.

A path may put a *share* of its bytes on a link, where they go over several links side by side. A flow of rate x takes
share · x of such a link; with all shares 1 that is the textbook's problem.

Bytes may be *released* little by little: a flow whose bytes have all gone, but which more may be released to, is dry
and takes no bandwidth. Once it is closed and dry, its last byte lands one latency later, and it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apexsim.engine.jit import kernel, rare_kernel
from apexsim.engine.state import NONE, Rows, instant, rows

OPEN, CLOSED, LANDING = 0, 1, 2
"""Phases of a flow: more may be released to it, no more will be, the last byte is on its way."""

FLOW = np.dtype(
    [
        ("request", "i8"),
        ("path", "i8"),
        ("left", "f8"),  # bytes that were released and have not gone, at ``clock_s``
        ("rate", "f8"),  # B/s
        ("end_s", "f8"),  # when ``left`` will have gone, or the last byte lands; inf while dry
        ("phase", "i8"),  # OPEN, CLOSED, LANDING
    ]
)

LINK = np.dtype(
    [
        ("capacity", "f8"),  # B/s
        ("spare", "f8"),  # scratch: what is left of it,
        ("wanted", "f8"),  # the shares of its flows whose rate is not known yet,
        ("open", "i8"),  # and how many these are
    ]
)

HOP = np.dtype([("link", "i8"), ("share", "f8")])
"""A link of a path, and the share of the path's bytes that go over it."""

MOVED = np.dtype(
    [
        ("started", "i8"),
        ("finished", "i8"),
        ("dropped", "i8"),  # with a unit at one of its ends
        ("released", "f8"),  # bytes
        ("lost", "f8"),  # of those that were dropped, what had not gone
        ("carried", "f8"),
        ("busy_s", "f8"),  # seconds in which at least one flow moved
        ("clock_s", "f8"),  # up to which all flows have been carried
        ("flows", "i8"),  # rows of ``Traffic.flows`` in use
        ("changed", "i8"),  # 1 where the rates have to be shared out anew
    ]
)


class Traffic(NamedTuple):
    """L links, paths over them, and the flows that are under way."""

    links: Rows  # LINK [L]
    first: NDArray[np.int64]  # [paths + 1] where a path's links begin in ``hops``
    hops: Rows  # HOP [all paths]
    latency_s: NDArray[np.float64]  # [paths] of the last byte
    flows: Rows  # FLOW [most at once]
    moved: Rows  # MOVED [1]


def new_traffic(
    capacity: NDArray[np.float64], paths: Sequence[Sequence[int]], latency_s: NDArray[np.float64], most: int,
    shares: Sequence[Sequence[float]] = (),
) -> Traffic:  # fmt: skip
    """Links of ``capacity`` B/s and ``paths`` over them, with room for ``most`` flows at once.

    ``shares``: of each path's bytes on each of its links; all of them where left out.
    """
    links, hops = rows(LINK, len(capacity)), rows(HOP, sum(map(len, paths)))
    links.capacity = capacity
    hops.link = [link for path in paths for link in path]
    hops.share = [share for path in shares for share in path] if shares else 1.0
    return Traffic(
        links, np.concatenate([[0], np.cumsum([len(path) for path in paths])]).astype(np.int64), hops,
        np.ascontiguousarray(latency_s, np.float64), rows(FLOW, max(most, 1)), rows(MOVED, 1),
    )  # fmt: skip


@kernel
def next_end(traffic: Traffic) -> float:
    """When the next flow runs dry or lands, if nothing changes before."""
    soonest = np.inf
    for f in range(traffic.moved[0].flows):
        soonest = min(soonest, traffic.flows[f].end_s)
    return soonest


@rare_kernel
def carry(traffic: Traffic, now: float) -> None:
    """All flows go on to ``now``; one that runs dry at this instant has nothing left."""
    flows, moved = traffic.flows, traffic.moved
    seconds = now - moved[0].clock_s
    moving = False
    for f in range(moved[0].flows):
        if flows[f].rate > 0.0:
            moving = True
            gone = flows[f].left if flows[f].end_s <= now + instant(now) else flows[f].rate * seconds
            flows[f].left -= gone
            moved[0].carried += gone
            if flows[f].left <= 0.0:
                flows[f].left, flows[f].rate, flows[f].end_s = 0.0, 0.0, np.inf
                moved[0].changed = 1
                land(traffic, f, now)
    if moving:
        moved[0].busy_s += seconds
    moved[0].clock_s = now


@kernel
def land(traffic: Traffic, f: int, now: float) -> None:
    """Flow f is dry at ``now``: where no more comes, its last byte is on its way."""
    if traffic.flows[f].phase == CLOSED:
        traffic.flows[f].phase = LANDING
        traffic.flows[f].end_s = now + traffic.latency_s[traffic.flows[f].path]


@kernel
def flow_of(traffic: Traffic, i: int) -> int:
    """The flow of request i, or NONE."""
    for f in range(traffic.moved[0].flows):
        if traffic.flows[f].request == i:
            return f
    return NONE


@rare_kernel
def release_bytes(traffic: Traffic, i: int, path: int, amount: float, closed: bool) -> None:
    """``amount`` more bytes of request i may go along ``path``; ``closed`` where these are the last.

    The caller has carried all flows to this instant.
    """
    flows, moved = traffic.flows, traffic.moved
    f = flow_of(traffic, i)
    if f == NONE:
        f = moved[0].flows
        moved[0].flows = f + 1
        moved[0].started += 1
        flows[f].request, flows[f].path, flows[f].left, flows[f].rate = i, path, 0.0, 0.0
        flows[f].end_s = np.inf
    flows[f].left += amount
    flows[f].phase = CLOSED if closed else OPEN
    moved[0].released += amount
    moved[0].changed = 1
    if flows[f].left == 0.0:
        land(traffic, f, moved[0].clock_s)


@rare_kernel
def take_landed(traffic: Traffic, now: float) -> int:
    """Remove a flow that has landed by ``now``, of the request that comes first in the trace; returns that, or NONE."""
    flows, moved = traffic.flows, traffic.moved
    best = NONE
    for f in range(moved[0].flows):
        landed = flows[f].phase == LANDING and flows[f].end_s <= now + instant(now)
        if landed and (best == NONE or flows[f].request < flows[best].request):
            best = f
    if best == NONE:
        return NONE
    i: int = flows[best].request
    last = moved[0].flows - 1
    flows[best] = flows[last]
    moved[0].flows = last
    moved[0].finished += 1
    return i


@rare_kernel
def drop_flow(traffic: Traffic, i: int) -> float:
    """The flow of request i is no more; returns the bytes that were released to it and have not gone.

    The caller has carried all flows to this instant.
    """
    flows, moved = traffic.flows, traffic.moved
    f = flow_of(traffic, i)
    if f == NONE:
        return 0.0
    left: float = flows[f].left
    last = moved[0].flows - 1
    flows[f] = flows[last]
    moved[0].flows = last
    moved[0].dropped += 1
    moved[0].lost += left
    moved[0].changed = 1
    return left


@rare_kernel
def share_out(traffic: Traffic) -> None:
    """Max-min fair rates by progressive filling: the tightest link settles its flows, then the tightest of the rest.

    Links that are equally tight are settled in the order of their numbers.
    """
    flows, moved, links = traffic.flows, traffic.moved, traffic.links
    if not moved[0].changed:
        return
    moved[0].changed = 0
    for link in range(links.size):
        links[link].spare, links[link].wanted, links[link].open = links[link].capacity, 0.0, 0
    unsettled = 0
    for f in range(moved[0].flows):
        if flows[f].left > 0.0:
            flows[f].rate = -1.0
            unsettled += 1
            for h in range(traffic.first[flows[f].path], traffic.first[flows[f].path + 1]):
                links[traffic.hops[h].link].wanted += traffic.hops[h].share
                links[traffic.hops[h].link].open += 1
    while unsettled > 0:
        tight, least = NONE, np.inf
        for link in range(links.size):
            if links[link].open > 0 and links[link].spare / links[link].wanted < least:
                tight, least = link, links[link].spare / links[link].wanted
        for f in range(moved[0].flows):
            if flows[f].rate < 0.0 and (tight == NONE or crosses(traffic, f, tight)):
                settle_flow(traffic, f, least)
                unsettled -= 1


@kernel
def crosses(traffic: Traffic, f: int, link: int) -> bool:
    """True where the path of flow f goes over ``link``."""
    for h in range(traffic.first[traffic.flows[f].path], traffic.first[traffic.flows[f].path + 1]):
        if traffic.hops[h].link == link:
            return True
    return False


@kernel
def settle_flow(traffic: Traffic, f: int, rate: float) -> None:
    """Flow f has ``rate`` from now on."""
    flow = traffic.flows[f]
    flow.rate = rate
    flow.end_s = traffic.moved[0].clock_s + flow.left / rate
    for h in range(traffic.first[flow.path], traffic.first[flow.path + 1]):
        hop = traffic.hops[h]
        link = traffic.links[hop.link]
        link.spare = max(link.spare - hop.share * rate, 0.0)
        link.wanted -= hop.share
        link.open -= 1
