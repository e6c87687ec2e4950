"""A vision encoder as arithmetic: a transformer over the patches of an image slice, and a projector to the decoder.

An image reaches the encoder as one or more *slices* (tiles, crops, frames of a video): what one pass of the encoder
takes. A slice has ``patches`` tokens in the encoder, and ``visual_tokens`` in the decoder's prompt.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from apexsim.spec.base import Strict


class Projection(Strict):
    """A matrix between the encoder's layers and the decoder, or several alike."""

    inputs: int = Field(ge=1, description="values of a row that comes in")
    outputs: int = Field(ge=1, description="values of a row that goes out")
    rows: Literal["patches", "visual_tokens"] = Field("visual_tokens", description="rows of a slice: one a patch, or")
    count: int = Field(1, ge=1, description="matrices of this shape")
    bias: bool = Field(True, description="whether they have biases")

    @property
    def parameters(self) -> int:
        return self.count * (self.inputs + self.bias) * self.outputs


class VisionEncoder(Strict):
    """A vision transformer: bidirectional attention over the patches of one slice."""

    layers: int = Field(ge=1, description="transformer layers")
    hidden_size: int = Field(ge=1, description="width of the residual stream")
    heads: int = Field(ge=1, description="attention heads")
    intermediate_size: int = Field(ge=1, description="width of the feed-forward block, two matrices")
    patch_values: int = Field(ge=1, description="pixels of a patch, times colours, times frames")
    patches: int = Field(ge=1, description="tokens of a slice in the encoder, before merging")
    visual_tokens: int = Field(ge=1, description="tokens of a slice in the decoder's prompt, after merging")
    native_resolution: bool = Field(
        False, description="an image is one slice of any size; else slices have one size, and large images are several"
    )
    biases: bool = Field(True, description="biases on the matrices of a layer")
    other_parameters: int = Field(0, ge=0, description="norms, position embeddings, class token, queries")
    projector: tuple[Projection, ...] = Field((), strict=False, description="what leads to the decoder's width")
    embedding_width: int = Field(ge=1, description="values of a visual token that go to the decoder")

    @property
    def layer_parameters(self) -> int:
        """Matrices and biases of one layer; norms are among ``other_parameters``."""
        h, i = self.hidden_size, self.intermediate_size
        return 4 * h * h + 2 * h * i + self.biases * (5 * h + i)

    @property
    def parameters(self) -> int:
        """All weights of encoder and projector."""
        patch = self.patch_values * self.hidden_size
        projector = sum(matrix.parameters for matrix in self.projector)
        return self.layers * self.layer_parameters + patch + projector + self.other_parameters

    def patches_of(self, visual_tokens: int) -> int:
        """Patches of a slice that gives so many visual tokens: in proportion, where slices have any size."""
        if not self.native_resolution:
            return self.patches
        return max(-(-visual_tokens * self.patches // self.visual_tokens), 1)
