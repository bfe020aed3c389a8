"""Engines: one trained network with its optimizer, behind one small protocol.

`DeepSpeedEngine` trains over a gang with ZeRO; `TorchEngine` does the same sums in plain torch, for one process and
for debugging. Both keep one set of Adam moments per objective (`MomentSetAdamW`), and both save a state that does not
depend on the number of ranks, the ZeRO stage or the kind of engine: any of them can continue from any other's.

Several engines live in one process (student, fake score, discriminator). One backward pass must reach the parameters
of one engine only: take `torch.autograd.grad` with respect to the tensor that joins the two networks, then give
`(tensor * gradient.detach()).sum()` to the engine that is to learn.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from advdmd_ray.errors import UserError
from advdmd_ray.learner.deepspeed_engine import DeepSpeedEngine, ZeroStage
from advdmd_ray.learner.engine_state import (
    NamedState,
    StepReport,
    WholeTensors,
    activation_home,
    always,
    is_finite,
    require_parts,
    shapes_of,
    step_report,
    trainable,
)
from advdmd_ray.learner.gang import Gang, SoloGang
from advdmd_ray.learner.optimizer import MomentSetAdamW
from advdmd_ray.learner.parts import LossPart
from advdmd_ray.learner.tensor_file import TensorStream


class Engine(Protocol):
    """A network that learns. All ranks of the gang call every method together, `state_dict` among them.

    Under ZeRO 3 a pass through `module` is a collective too: all ranks make the same passes in the same order.
    """

    @property
    def module(self) -> nn.Module:
        """The network itself. Use it for passes whose parameters must not learn (sampling, input gradients)."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The forward pass whose loss goes to `step`."""
        ...

    def step(
        self,
        parts: Sequence[LossPart],
        objective: str,
        factor: float = 1.0,
        wanted: Callable[[], bool] = always,
    ) -> StepReport:
        """Forward and backward pass of each part, mean of the gradients over the ranks, clip, update.

        Args:
            parts: one or more, as many on every rank. Each is made when its turn comes, and its graph is gone before
                the next. Their sum is the loss: the mean over this rank's share. With equal shares the averaged
                gradient is that of the mean over the whole batch. Trainable parameters that no part reaches get a
                zero gradient.
            objective: one of those named when the engine was built; the update uses its moments.
            factor: multiplies the objective's learning rate, >= 0.
            wanted: asked once all parts were made, with one answer on every rank. Without it nothing changes: of a
                gradient that is 0 because no row counts, Adam would go on by its momentum.

        Raises:
            ValueError: for an unknown objective or no part, before anything was computed.
        """
        ...

    def weights(self) -> TensorStream:
        """The full trainable parameters, float32, the same on every rank, gathered one at a time. Collective.

        All ranks go through the whole stream; those that keep nothing copy nothing.
        """
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the full trainable parameters by name, float32 on the CPU, the same on every rank. Collective."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Sets the trainable parameters, as `state_dict` gave them. Moments stay.

        Raises:
            CheckpointError: if names or shapes differ; nothing was changed.
        """
        ...

    def wearing(self, weights: Iterable[tuple[str, Tensor]]) -> AbstractContextManager[nn.Module]:
        """The module with these weights in place of its own, while the context lasts; for passes without a step.

        Its own weights are untouched. A graph made inside must not be used outside.

        Args:
            weights: those of all trainable parameters, on any device.

        Raises:
            CheckpointError: if names or shapes differ.
        """
        ...

    def optimizer_tensors(self) -> TensorStream:
        """The full optimizer state, the same on every rank and for every number of ranks. Collective, as `weights`.

        `"<objective>.steps"` (int64, shape []), `"<objective>.exp_avg/<parameter>"` and
        `"<objective>.exp_avg_sq/<parameter>"` (float32, the parameter's shape).
        """
        ...

    def optimizer_state(self) -> dict[str, Tensor]:
        """Copies of all of `optimizer_tensors` on the CPU. Collective."""
        ...

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Sets the whole optimizer state, as `optimizer_state` gave it on any number of ranks.

        Raises:
            CheckpointError: if keys or shapes differ; nothing was changed.
        """
        ...


def build_engine(
    module: nn.Module,
    *,
    kind: Literal["deepspeed", "torch"],
    objectives: Mapping[str, float],
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    max_grad_norm: float = 1.0,
    zero_stage: ZeroStage = 1,
    offload_optimizer: bool = False,
    offload_activations: bool = False,
    gang: Gang | None = None,
    device: torch.device | str = "cpu",
) -> Engine:
    """Wraps a network into an engine.

    Args:
        module: trains its parameters with `requires_grad`, which must be float32; the others stay as they are.
        kind: "deepspeed", or "torch" for debugging.
        objectives: objective name -> learning rate; each gets its own Adam moments.
        betas: Adam decay rates.
        weight_decay: decoupled weight decay.
        max_grad_norm: the averaged gradient is scaled down to this L2 norm, > 0.
        zero_stage: DeepSpeed ZeRO stage; the torch engine partitions nothing. Stage 3 partitions the module's frozen
            parameters as well: they must belong to this engine alone.
        offload_optimizer: keeps moments and update copy in host memory, and makes the update there; from stage 1 on.
        offload_activations: keeps what the backward pass needs in host memory.
        gang: the ranks that train together; default: this process alone. "deepspeed" on more than one rank needs
            a `TorchDistributedGang`.
        device: where the network computes; it is moved there.

    Raises:
        UserError: if nothing in the module is trainable or a trainable parameter is not float32.
        ValueError: for values out of range.
    """
    if not max_grad_norm > 0:
        raise ValueError(f"max_grad_norm must be > 0, got {max_grad_norm}")
    if offload_optimizer and (kind == "torch" or not zero_stage):
        raise ValueError(f"offload_optimizer needs DeepSpeed at ZeRO 1, 2 or 3, got {kind} and {zero_stage}")
    wrong = {name: p.dtype for name, p in trainable(module).items() if p.dtype != torch.float32}
    if wrong or not trainable(module):
        found = f"{len(wrong)} that are not, first {next(iter(wrong.items()))}" if wrong else "none at all"
        raise UserError(
            f"an engine trains float32 parameters, {type(module).__name__} has {found}; convert or unfreeze"
        )
    device = torch.device(device)
    module.to(device)
    optimizer = MomentSetAdamW(trainable(module).values(), objectives, betas=betas, weight_decay=weight_decay)
    gang = SoloGang() if gang is None else gang
    if kind == "torch":
        return TorchEngine(
            module, optimizer, max_grad_norm=max_grad_norm, offload_activations=offload_activations, gang=gang
        )
    return DeepSpeedEngine(
        module,
        optimizer,
        max_grad_norm=max_grad_norm,
        zero_stage=zero_stage,
        offload_optimizer=offload_optimizer,
        offload_activations=offload_activations,
        gang=gang,
    )


class TorchEngine(NamedState):
    """`Engine` in plain torch, with whole parameters and moments on every rank."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: MomentSetAdamW,
        *,
        max_grad_norm: float,
        offload_activations: bool,
        gang: Gang,
    ) -> None:
        self._max_grad_norm = max_grad_norm
        self._offload_activations = offload_activations
        self._gang = gang
        parameters = trainable(module)
        tensors, device = WholeTensors(parameters, optimizer), next(iter(parameters.values())).device
        super().__init__(module, parameters, shapes_of(parameters), optimizer, tensors, device)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See `Engine`."""
        with activation_home(self._device, offload=self._offload_activations):
            return self.module(*args, **kwargs)

    def step(
        self,
        parts: Sequence[LossPart],
        objective: str,
        factor: float = 1.0,
        wanted: Callable[[], bool] = always,
    ) -> StepReport:
        """See `Engine`."""
        require_parts(parts)
        self._optimizer.use(objective, factor)
        parameters = list(self._parameters.values())
        sizes = [parameter.numel() for parameter in parameters]
        first, *others = parts
        total = torch.cat(self._gradients(first))
        for part in others:
            for piece, gradient in zip(total.split(sizes), self._gradients(part), strict=True):
                piece.add_(gradient)
        flat = self._gang.mean(total)
        norm, taken = float(torch.linalg.vector_norm(flat)), wanted()
        if is_finite(norm) and taken:
            flat.mul_(min(1.0, self._max_grad_norm / (norm + 1e-6)))
            for parameter, piece in zip(parameters, flat.split(sizes), strict=True):
                parameter.grad = piece.view_as(parameter)
            self._optimizer.step()
            self._optimizer.zero_grad()
        return step_report(norm, wanted=taken)

    def _gradients(self, part: LossPart) -> list[Tensor]:
        """Of one part, flat, in the order of the parameters."""
        # Not loss.backward(): that would leave gradients in other engines' parameters and sum up with old ones.
        parameters = list(self._parameters.values())
        gradients = torch.autograd.grad(part(), parameters, allow_unused=True, materialize_grads=True)
        return [gradient.reshape(-1) for gradient in gradients]
