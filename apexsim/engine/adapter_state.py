"""LoRA adapters while a pool runs: who asks for which, and what each replica has on its device and in host memory.

Of A adapters, row A of ``slots`` stands for the base model alone. Without adapters all arrays are empty.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Rows = Any
"""A record array, as in ``state.py``."""

ON_DEVICE, IN_HOST = 0, 1
"""Rows of ``Adapters.kept`` and ``Adapters.ends``."""

ASK = np.dtype(
    [
        ("place", "i8"),  # in the waiting list of the replica: the smallest is the first
        ("admitted", "i8"),  # number of the request's admission to its replica
        ("adapter", "i4"),  # A for the base model alone
    ],
    align=True,
)
"""A request."""

SLOT = np.dtype(
    [
        ("users", "i4"),  # running requests with the adapter,
        ("waiting", "i4"),  # and those that were not admitted yet
        ("place", "i4"),  # of the adapter among those in use
        ("in_use", "i4"),  # row k: the k-th of the adapters in use
        ("head", "i4"),  # ends of the list of waiting requests with the adapter, by ``follower``
        ("tail", "i4"),
    ]
)
"""An adapter in one replica."""

KEPT = np.dtype([("older", "i4"), ("younger", "i4"), ("there", "i4")])
"""An adapter on the device or in the host memory of one replica; in the list of its unused ones unless in use."""

END = np.dtype([("oldest", "i8"), ("newest", "i8"), ("count", "i8")])
"""Ends of that list, and how many adapters are there in all."""

LOAD = np.dtype([("load_s", "f8"), ("fetch_s", "f8"), ("blocks", "i8"), ("bytes", "f8")])
"""What it takes to bring an adapter to the device: see ``cost.adapters.AdapterLaw``."""

HUB = np.dtype(
    [
        ("in_use", "i8"),  # adapters that running requests have
        ("first", "i8"),  # ends of the whole waiting list, by ``older`` and ``younger``,
        ("last", "i8"),
        ("place_first", "i8"),  # and their places
        ("place_last", "i8"),
        ("link_free_s", "f8"),  # when the last load is over
        ("admissions", "i8"),  # so far
        ("uses", "i8"),  # of them with an adapter
        ("loads", "i8"),
        ("fetches", "i8"),  # loads that did not find the adapter in host memory
        ("most_in_use", "i8"),
        ("load_s", "f8"),  # seconds of the link,
        ("loaded_bytes", "f8"),
        ("wait_s", "f8"),  # and those that iterations waited
    ]
)
"""A replica."""


class Adapters(NamedTuple):
    """n requests, R replicas, A adapters."""

    asks: Rows  # ASK [n]
    slots: Rows  # SLOT [R, A + 1]
    kept: Rows  # KEPT [R, 2, A]
    ends: Rows  # END [R, 2]
    loads: Rows  # LOAD [A]
    hubs: Rows  # HUB [R]
