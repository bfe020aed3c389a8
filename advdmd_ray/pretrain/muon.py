"""The Muon optimizer in float32, all matrices of one shape at once.

`torch.optim.Muon` computes in bfloat16, one matrix after the other. Processors without bfloat16 arithmetic take longer
for that than for the network itself.
"""

from collections.abc import Iterable
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz step (Jordan et al. 2024, kellerjordan.github.io/posts/muon)."""
ITERATIONS = 5
MOMENTUM = 0.95
RMS = 0.2
"""Root mean square of an update's elements before the learning rate, about that of AdamW (Liu et al.,
arXiv 2502.16982)."""
_EPSILON = 1e-7


def orthogonalize(matrices: Float[Tensor, "n rows columns"]) -> Float[Tensor, "n rows columns"]:
    """Nearly `U V^T` of each `U S V^T`: five steps `X <- a X + (b A + c A A) X`, `A = X X^T`, from `X / |X|`.

    The coefficients trade exactness for speed: large singular values end between about 0.7 and 1.2.

    Args:
        matrices: Any real matrices of one shape.
    """
    wide = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    a, b, c = COEFFICIENTS
    x = wide / (wide.norm(dim=(1, 2), keepdim=True) + _EPSILON)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if matrices.shape[1] > matrices.shape[2] else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalized: `w <- (1 - lr decay) w - lr 0.2 sqrt(max(rows, columns)) orth(u)`.

    `m <- 0.95 m + 0.05 g` and, after Nesterov, `u = 0.95 m + 0.05 g`.

    Args:
        matrices: Parameters of two dimensions.
        learning_rate: At least 0; a `learning_rate` of AdamW moves the weights about as far.
        weight_decay: At least 0.

    Raises:
        ValueError: A parameter is no matrix.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], *, learning_rate: float, weight_decay: float) -> None:
        parameters = list(matrices)
        wrong = [tuple(parameter.shape) for parameter in parameters if parameter.ndim != 2]  # noqa: PLR2004 - a matrix
        if wrong:
            raise ValueError(f"Muon trains matrices, got parameters of shape {wrong[0]}")
        super().__init__(parameters, {"lr": learning_rate, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - no closures
        """One update of every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            for shape in sorted({parameter.shape for parameter in trained}):
                alike = [parameter for parameter in trained if parameter.shape == shape]
                updates = orthogonalize(torch.stack([self._momentum(parameter) for parameter in alike]))
                scale = group["lr"] * RMS * max(shape) ** 0.5
                for parameter, update in zip(alike, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=scale)

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        """`u` of the parameter, after its `m` took the gradient in."""
        gradient, state = cast("Tensor", parameter.grad), self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(momentum, MOMENTUM)
