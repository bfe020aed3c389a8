"""The losses of an update of TwinFlow, whose rows count by how far they are from their targets."""

from collections import defaultdict

from jaxtyping import Float
from torch import Tensor

from advdmd_ray.losses.twinflow import inverse_rms, steering_loss


class TwinLosses:
    """Makes the losses of an update's parts, and adds up their differences' mean squares over these.

    Args:
        rows: Of the whole update.
        row_weights: Whether each row has `inverse_rms` as a weight, and what else is given; else all have 1.

    Attributes:
        squares: Mean square difference by the loss's name, without any weight.
    """

    def __init__(self, rows: int, *, row_weights: bool) -> None:
        self._rows, self._row_weights = rows, row_weights
        self.squares: defaultdict[str, float] = defaultdict(float)

    def of(
        self,
        name: str,
        part: slice,
        velocity: Float[Tensor, "b c h w"],
        difference: Float[Tensor, "b c h w"],
        weight: Float[Tensor, " b"] | float = 1.0,
    ) -> Float[Tensor, ""]:
        """The loss that draws the answers of a part of the rows to their targets.

        Args:
            name: Of the loss.
            part: The rows.
            velocity: The network's answers.
            difference: What they differ by from their targets, without a graph.
            weight: Of each row, beside that of its difference.
        """
        self.squares[name] += (part.stop - part.start) / self._rows * float(difference.square().mean())
        return steering_loss(velocity, difference, weight * inverse_rms(difference) if self._row_weights else None)
