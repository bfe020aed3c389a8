"""What every engine has in common: the report of a step, and a state by name that depends on no stage or rank."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from advdmd_ray.errors import CheckpointError
from advdmd_ray.learner.optimizer import MomentSetAdamW
from advdmd_ray.learner.tensor_file import TensorStream


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimizer step did.

    Attributes:
        grad_norm: L2 norm of the rank-averaged gradient before clipping; infinite if it was not finite.
        skipped: True if the gradient was not finite: no weight, moment or step count changed, on any rank.
        idle: True if nobody wanted the step; the same did not change.
    """

    grad_norm: float
    skipped: bool
    idle: bool = False


def step_report(norm: float, *, wanted: bool) -> StepReport:
    """The report of a step that was made if its gradient's norm was finite and it was wanted."""
    skipped = not is_finite(norm)
    return StepReport(float("inf") if skipped else norm, skipped=skipped, idle=not skipped and not wanted)


def always() -> bool:
    """Every step is wanted."""
    return True


def is_finite(norm: float) -> bool:
    """Whether a gradient of this norm may be used."""
    return 0.0 <= norm < float("inf")


def require_parts(parts: Sequence[object]) -> None:
    """Refuses a step on nothing.

    Raises:
        ValueError: if there is no part.
    """
    if not parts:
        raise ValueError("a step needs at least one part of a loss, got none")


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Shapes by name."""
    return {name: tensor.shape for name, tensor in tensors.items()}


def optimizer_shapes(optimizer: MomentSetAdamW, shapes: Mapping[str, torch.Size]) -> dict[str, torch.Size]:
    """Keys of the flat optimizer state over parameters of these shapes, with the shapes that belong to them."""
    moments = {f"{key}/{name}": shape for key in optimizer.moment_keys for name, shape in shapes.items()}
    return shapes_of(steps_of(optimizer)) | moments  # the step counts are wider, and so first in a file


def steps_of(optimizer: MomentSetAdamW) -> dict[str, Tensor]:
    """The step counts as tensors, `"<objective>.steps"`."""
    return {f"{objective}.steps": torch.tensor(count) for objective, count in optimizer.steps.items()}


def load_steps(optimizer: MomentSetAdamW, state: Mapping[str, Tensor]) -> None:
    """Sets the step counts, as `steps_of` gave them."""
    for objective in optimizer.learning_rates:
        optimizer.steps[objective] = int(state[f"{objective}.steps"])


def require_fit(given: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> None:
    """Compares names and shapes before anything is changed.

    Raises:
        CheckpointError: if they differ.
    """
    if given.keys() != shapes.keys():
        missing, surplus = sorted(shapes.keys() - given.keys()), sorted(given.keys() - shapes.keys())
        raise CheckpointError(
            f"state does not fit: {len(missing)} missing {missing[:2]}, {len(surplus)} unknown {surplus[:2]}"
        )
    for name, shape in shapes.items():
        if given[name].shape != shape:
            both = f"{tuple(given[name].shape)}, expected {tuple(shape)}"
            raise CheckpointError(f"state does not fit: {name} has shape {both}")


def fitting(tensors: Iterable[tuple[str, Tensor]], shapes: Mapping[str, torch.Size]) -> Iterator[tuple[str, Tensor]]:
    """The tensors as they come, each once and of its shape.

    Raises:
        CheckpointError: at the first that is not, or at the end if one is missing.
    """
    missing = set(shapes)
    for name, tensor in tensors:
        if name not in missing:
            raise CheckpointError(f"state does not fit: {name!r} is unknown or came twice")
        if tensor.shape != shapes[name]:
            both = f"{tuple(tensor.shape)}, expected {tuple(shapes[name])}"
            raise CheckpointError(f"state does not fit: {name} has shape {both}")
        missing.remove(name)
        yield name, tensor
    if missing:
        raise CheckpointError(f"state does not fit: {len(missing)} missing {sorted(missing)[:2]}")


@contextmanager
def exchanged(tensors: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> Iterator[None]:
    """Other data in the tensors while the context lasts, moved to their devices; then their own again, untouched."""
    own = {name: tensor.data for name, tensor in tensors.items()}
    try:
        for name, tensor in tensors.items():
            tensor.data = others[name].to(tensor)
        yield
    finally:
        for name, tensor in tensors.items():
            tensor.data = own[name]


def activation_home(device: torch.device, *, offload: bool) -> AbstractContextManager[object]:
    """Where a forward pass keeps what its backward pass needs: on the device, or in host memory."""
    return torch.autograd.graph.save_on_cpu(pin_memory=device.type != "cpu") if offload else nullcontext()


class NamedTensors(Protocol):
    """Where an engine keeps weights and moments. They are read and set whole, on all ranks together."""

    def weight(self, parameter: nn.Parameter) -> Tensor:
        """The weights of a parameter."""
        ...

    def set_weights(self, state: Mapping[str, Tensor]) -> None:
        """Sets the weights of all parameters, by name."""
        ...

    def worn(self, weights: Iterable[tuple[str, Tensor]]) -> AbstractContextManager[None]:
        """These weights in passes through the module, while the context lasts; all have come before any is worn."""
        ...

    def moment(self, parameter: nn.Parameter, key: str) -> Tensor:
        """A moment of a parameter, by its key in the optimizer's state."""
        ...

    def set_moment(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        """Sets it."""
        ...


class WholeTensors:
    """Everything is where torch has it."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], optimizer: MomentSetAdamW) -> None:
        self._parameters, self._optimizer = parameters, optimizer
        optimizer.create_state()

    def weight(self, parameter: nn.Parameter) -> Tensor:
        """See `NamedTensors`."""
        return parameter

    def set_weights(self, state: Mapping[str, Tensor]) -> None:
        """See `NamedTensors`."""
        for name, parameter in self._parameters.items():
            parameter.data.copy_(state[name])

    def worn(self, weights: Iterable[tuple[str, Tensor]]) -> AbstractContextManager[None]:
        """See `NamedTensors`."""
        return exchanged(self._parameters, dict(weights))

    def moment(self, parameter: nn.Parameter, key: str) -> Tensor:
        """See `NamedTensors`."""
        return self._optimizer.state[parameter][key]

    def set_moment(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        """See `NamedTensors`."""
        self._optimizer.state[parameter][key].copy_(value)


class NamedState:
    """The half of `Engine` that is the same for all: its state by name, out of wherever the tensors are.

    Args:
        module: The network.
        parameters: Those that learn, by name.
        shapes: Of the whole parameters.
        optimizer: Theirs.
        tensors: Where weights and moments are.
        device: Where the network computes.
    """

    def __init__(
        self,
        module: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        shapes: Mapping[str, torch.Size],
        optimizer: MomentSetAdamW,
        tensors: NamedTensors,
        device: torch.device,
    ) -> None:
        self._module, self._parameters, self._shapes = module, parameters, shapes
        self._optimizer, self._tensors, self._device = optimizer, tensors, device

    @property
    def module(self) -> nn.Module:
        """See `Engine`."""
        return self._module

    def weights(self) -> TensorStream:
        """See `Engine`."""
        layout = {name: (torch.float32, shape) for name, shape in self._shapes.items()}
        gathered = ((name, self._tensors.weight(parameter)) for name, parameter in self._parameters.items())
        return TensorStream(layout, gathered)

    def state_dict(self) -> dict[str, Tensor]:
        """See `Engine`."""
        return self.weights().copied()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See `Engine`."""
        require_fit(state, self._shapes)
        self._tensors.set_weights(state)

    @contextmanager
    def wearing(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[nn.Module]:
        """See `Engine`."""
        with self._tensors.worn(fitting(weights, self._shapes)):
            yield self.module

    def optimizer_tensors(self) -> TensorStream:
        """See `Engine`."""
        shapes, steps = optimizer_shapes(self._optimizer, self._shapes), steps_of(self._optimizer)
        layout = {name: (steps[name].dtype if name in steps else torch.float32, shapes[name]) for name in shapes}
        return TensorStream(layout, self._optimizer_tensors(steps))

    def _optimizer_tensors(self, steps: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        yield from steps.items()
        for key in self._optimizer.moment_keys:
            for name, parameter in self._parameters.items():
                yield f"{key}/{name}", self._tensors.moment(parameter, key)

    def optimizer_state(self) -> dict[str, Tensor]:
        """See `Engine`."""
        return self.optimizer_tensors().copied()

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Engine`."""
        require_fit(state, optimizer_shapes(self._optimizer, self._shapes))
        for key in self._optimizer.moment_keys:
            for name, parameter in self._parameters.items():
                self._tensors.set_moment(parameter, key, state[f"{key}/{name}"].to(self._device))
        load_steps(self._optimizer, state)
