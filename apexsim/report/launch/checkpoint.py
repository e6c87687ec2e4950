"""Which checkpoint is served, and what has to be done to its weights: a plan's formats against what is published."""

from __future__ import annotations

from dataclasses import dataclass

from apexsim.spec import catalog
from apexsim.spec.plan import Plan, Pool


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What an engine is told to load.

    Attributes:
        name: a Hugging Face name, or a path.
        own: dtype of its weights.
        quantized: whether they are quantised already.
        dtype: of the model: of its activations, and of a KV cache that nobody chose.
        published: checkpoints of the same model in other formats, name → weights.
    """

    name: str
    own: str
    quantized: bool
    dtype: str
    published: dict[str, str]

    @classmethod
    def of(cls, plan: Plan) -> Checkpoint:
        """The one that the plan's model names."""
        model = catalog.model(plan.model)
        published = catalog.published(plan.model)
        others = {} if published is None else dict(published.quantized)
        own = model.checkpoint_dtype
        return cls(served_name(plan.model), own, model.quantization is not None, model.dtype, others)

    def weights_to_make(self, pool: Pool) -> str | None:
        """The dtype that the weights must become; None where they are served as they are."""
        if pool.weights is None or pool.weights == self.own:
            return None
        return f"{pool.weights} of {self.own}" if self.quantized else pool.weights

    def in_format(self, weights: str) -> str | None:
        """The name of a published checkpoint with such weights; None where the catalog knows none."""
        return next((name for name, own in self.published.items() if own == weights and not self.quantized), None)


def served_name(model: str) -> str:
    """The checkpoint of a model's name: its Hugging Face name, or the path as it was written."""
    found = catalog.published(model)
    return model.removesuffix("/config.json") if found is None else found.name
