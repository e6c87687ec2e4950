"""The network between the nodes of a cluster: which switches there are, and how packets find their way over them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from apexsim.spec.base import Strict
from apexsim.spec.units import Seconds

Topology = Literal["flat", "rails", "leaf-spine"]
Routing = Literal["ecmp", "split", "spray"]
Collectives = Literal["ring", "auto"]


class Network(Strict):
    """Switches between the NICs, of which every device has one."""

    topology: Topology = Field(
        "flat",
        description="flat: nothing but NICs limits; leaf-spine: all NICs of a node on one leaf, leaves joined by "
        "spines; rails: NIC k of each node on leaf k of its unit",
    )
    nodes_per_leaf: int | None = Field(
        None, ge=1, description="nodes below a leaf, or in a unit of rails; all nodes of a group where left out"
    )
    spines: int | None = Field(
        None, ge=1, le=1024,
        description="spines, each with one link to every leaf; as many as a leaf has NICs where left out",
    )
    oversubscription: float = Field(
        1.0, gt=0, description="bandwidth of the NICs below a leaf over that of its links to the spines"
    )
    routing: Routing = Field(
        "ecmp",
        description="ecmp: a hash picks the spine of each queue pair; split: flows are cut as little as fills all "
        "spines alike; spray: each packet takes another spine",
    )
    queue_pairs: int = Field(1, ge=1, le=64, description="of a pair of NICs, each with a hash of its own (ecmp)")
    hop_latency: Seconds = Field(5e-7, ge=0, description="of a hop between leaf and spine")
    seed: int = Field(0, ge=0, description="of the hash")
    collectives: Collectives | None = Field(
        None,
        description="between nodes: ring, NCCL's hierarchy of rings; auto, the fastest of the algorithms by size. ring "
        "where left out and the network is flat, else auto",
    )

    @model_validator(mode="after")
    def _has_an_effect(self) -> Network:
        fields = type(self).model_fields
        if self.topology == "flat":
            idle = [key for key in fields if key not in ("topology", "collectives")]
            changed = [key for key in idle if getattr(self, key) != fields[key].default]
            if changed:
                raise ValueError(
                    f"{self._said(changed[0])}: has an effect with topology: leaf-spine or rails only, not with flat"
                )
        for key in ("queue_pairs", "seed"):
            if self.routing != "ecmp" and getattr(self, key) != fields[key].default:
                raise ValueError(f"{self._said(key)}: has an effect under routing: ecmp only, not under {self.routing}")
        return self

    def _said(self, key: str) -> str:
        return f"{key} = {self.model_dump(mode='json')[key]}"

    @property
    def switched(self) -> bool:
        """Whether leaves and spines may limit what NICs send."""
        return self.topology != "flat"

    @property
    def fastest(self) -> bool:
        """Whether collectives between nodes take the fastest algorithm; else rings."""
        return self.collectives == "auto" or (self.collectives is None and self.switched)

    @property
    def unknown_to_programs(self) -> str | None:
        """Why a program that knows nothing but NICs between nodes cannot be asked about it, or None."""
        if not self.switched:
            return None
        return f"cluster.network.topology = {self.topology}: links between nodes are NICs here (allowed: flat)"

    def nics(self, nodes: int, devices_per_node: int) -> int:
        """NICs below one leaf."""
        below = self.nodes_per_leaf or nodes
        return below if self.topology == "rails" else below * devices_per_node

    def leaf(self, nodes: int, devices_per_node: int, device: int) -> int:
        """The leaf of a group's device, from 0; on rails, those of the first unit come first."""
        unit = device // devices_per_node // (self.nodes_per_leaf or nodes)
        return unit * devices_per_node + device % devices_per_node if self.topology == "rails" else unit
