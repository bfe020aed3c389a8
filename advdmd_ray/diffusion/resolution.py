"""One size of the images of a run."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Resolution:
    """A size of images, as the student samples it: a scheduler may shift its levels by the number of image tokens.

    Attributes:
        latent_shape: (c, h, w).
        sigmas: `[K+1]` the student's levels after the shift, the last 0.
    """

    latent_shape: tuple[int, int, int]
    sigmas: Float[Tensor, " k1"]

    @property
    def numel(self) -> int:
        """Elements of a latent."""
        return math.prod(self.latent_shape)
