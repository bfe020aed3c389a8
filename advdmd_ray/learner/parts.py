"""A loss in parts: memory holds the graph of one part, and their gradients add up to those of the whole.

A part is forward and backward in turn, before the next one begins, so that nothing is computed twice but what
`learner.gradient_checkpointing` makes again. What is not a sum over rows stays together in one part: the rows of a
pair, or those of a group that share a normaliser. The estimate of memory reads this module, so it imports no torch.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

LossPart: TypeAlias = "Callable[[], Tensor]"
"""Makes a scalar with a graph. A loss is the sum of its parts."""


def part_rows(rows: int, most: int | None, together: int = 1) -> int:
    """Rows of the largest part.

    Args:
        rows: Rows of the whole batch, a multiple of `together`.
        most: Most rows of a part; None: all.
        together: Rows that must not be parted; a part has at least so many, be they more than `most`.
    """
    return rows if most is None else min(rows, max(1, most // together) * together)


def in_parts(
    mean_over: "Callable[[slice], Tensor]", rows: int, most: int | None, *, together: int = 1
) -> list[LossPart]:
    """The mean over a batch as the sum of what parts of it contribute.

    Args:
        mean_over: From consecutive rows to the mean loss over them, with a graph.
        rows: See `part_rows`.
        most: The same.
        together: The same.
    """
    size = part_rows(rows, most, together)
    slices = [slice(first, min(first + size, rows)) for first in range(0, rows, size)]
    if len(slices) == 1:
        return [partial(mean_over, slices[0])]
    return [partial(_contribution, mean_over, part, (part.stop - part.start) / rows) for part in slices]


def _contribution(mean_over: "Callable[[slice], Tensor]", part: slice, share: float) -> "Tensor":
    return share * mean_over(part)
