"""Engines: one trained network with its optimizer, behind one small protocol. The only file that imports deepspeed.

`DeepSpeedEngine` trains over a gang with ZeRO; `TorchEngine` does the same sums in plain torch, for one process and
for debugging. Both keep one set of Adam moments per objective (`MomentSetAdamW`), and both save a state that does not
depend on the number of ranks, the ZeRO stage or the kind of engine: any of them can continue from any other's.

Several engines live in one process (student, fake score, discriminator). One backward pass must reach the parameters
of one engine only: take `torch.autograd.grad` with respect to the tensor that joins the two networks, then give
`(tensor * gradient.detach()).sum()` to the engine that is to learn.
"""

import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, Protocol

import torch
import torch.distributed
from torch import Tensor, nn

from advdmd_ray.errors import CheckpointError, UserError
from advdmd_ray.learner.gang import Gang, SoloGang, TorchDistributedGang
from advdmd_ray.learner.optimizer import MomentSetAdamW

# Gradient elements reduced at once at most. DeepSpeed allocates the bucket at every step; its default takes 2 GB.
_BUCKET_ELEMENTS: Final = 2**25


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimizer step did.

    Attributes:
        objective: whose moments were used.
        grad_norm: L2 norm of the rank-averaged gradient before clipping; infinite if it was not finite.
        learning_rate: the learning rate used.
        skipped: True if the gradient was not finite: no weight, moment or step count changed, on any rank.
    """

    objective: str
    grad_norm: float
    learning_rate: float
    skipped: bool


class Engine(Protocol):
    """A network that learns. All ranks of the gang call `step`, `optimizer_state` and the loaders together."""

    @property
    def module(self) -> nn.Module:
        """The network itself. Use it for passes whose parameters must not learn (sampling, input gradients)."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The forward pass whose loss goes to `step`."""
        ...

    def step(self, loss: Tensor, objective: str, factor: float = 1.0) -> StepReport:
        """Backward pass, mean of the gradients over the ranks, clip, update with `objective`'s moments.

        Args:
            loss: scalar with a graph; the mean over this rank's share. With equal shares the averaged gradient is
                that of the mean over the whole batch. Trainable parameters it does not reach get a zero gradient.
            objective: one of those named when the engine was built.
            factor: multiplies the objective's learning rate, >= 0.

        Raises:
            ValueError: for an unknown objective, before anything was computed.
        """
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the full trainable parameters by name, float32 on the CPU. No collective: any rank may ask."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Sets the trainable parameters, as `state_dict` gave them. Moments stay.

        Raises:
            CheckpointError: if names or shapes differ; nothing was changed.
        """
        ...

    def optimizer_state(self) -> dict[str, Tensor]:
        """The full optimizer state, the same on every rank and for every number of ranks. Collective.

        `"<objective>.steps"` (int64, shape []), `"<objective>.exp_avg/<parameter>"` and
        `"<objective>.exp_avg_sq/<parameter>"` (float32, the parameter's shape), on the CPU.
        """
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
    zero_stage: Literal[0, 1, 2] = 1,
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
        zero_stage: DeepSpeed ZeRO stage; the torch engine partitions nothing.
        gang: the ranks that train together; default: this process alone. "deepspeed" on more than one rank needs
            a `TorchDistributedGang`.
        device: where the network computes; it is moved there.

    Raises:
        UserError: if nothing in the module is trainable or a trainable parameter is not float32.
        ValueError: for values out of range.
    """
    if not max_grad_norm > 0:
        raise ValueError(f"max_grad_norm must be > 0, got {max_grad_norm}")
    wrong = {name: p.dtype for name, p in _trainable(module).items() if p.dtype != torch.float32}
    if wrong or not _trainable(module):
        found = f"{len(wrong)} that are not, first {next(iter(wrong.items()))}" if wrong else "none at all"
        raise UserError(
            f"an engine trains float32 parameters, {type(module).__name__} has {found}; convert or unfreeze"
        )
    device = torch.device(device)
    module.to(device)
    optimizer = MomentSetAdamW(_trainable(module).values(), objectives, betas=betas, weight_decay=weight_decay)
    gang = SoloGang() if gang is None else gang
    if kind == "torch":
        return TorchEngine(module, optimizer, max_grad_norm=max_grad_norm, gang=gang)
    return DeepSpeedEngine(module, optimizer, max_grad_norm=max_grad_norm, zero_stage=zero_stage, gang=gang)


class TorchEngine:
    """`Engine` in plain torch, with whole parameters and moments on every rank."""

    def __init__(self, module: nn.Module, optimizer: MomentSetAdamW, *, max_grad_norm: float, gang: Gang) -> None:
        self.module = module
        self._optimizer = optimizer
        self._max_grad_norm = max_grad_norm
        self._gang = gang
        self._parameters = _trainable(module)
        optimizer.create_state()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See `Engine`."""
        return self.module(*args, **kwargs)

    def step(self, loss: Tensor, objective: str, factor: float = 1.0) -> StepReport:
        """See `Engine`."""
        self._optimizer.use(objective, factor)
        parameters = list(self._parameters.values())
        # Not loss.backward(): that would leave gradients in other engines' parameters and sum up with old ones.
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        flat = self._gang.mean(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        norm = float(torch.linalg.vector_norm(flat))
        skipped = not _is_finite(norm)
        if not skipped:
            flat.mul_(min(1.0, self._max_grad_norm / (norm + 1e-6)))
            pieces = flat.split([parameter.numel() for parameter in parameters])
            for parameter, piece in zip(parameters, pieces, strict=True):
                parameter.grad = piece.view_as(parameter)
            self._optimizer.step()
            self._optimizer.zero_grad()
        return _report(self._optimizer, objective, norm, skipped=skipped)

    def state_dict(self) -> dict[str, Tensor]:
        """See `Engine`."""
        return _cpu_copies(self._parameters)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See `Engine`."""
        _require_fit(state, self._parameters)
        for name, parameter in self._parameters.items():
            parameter.data.copy_(state[name])

    def optimizer_state(self) -> dict[str, Tensor]:
        """See `Engine`."""
        return _cpu_copies({**self._moments(), **_steps(self._optimizer)})

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Engine`."""
        _require_fit(state, _optimizer_layout(self._optimizer, self._parameters))
        for key, moment in self._moments().items():
            moment.copy_(state[key])
        _load_steps(self._optimizer, state)

    def _moments(self) -> dict[str, Tensor]:
        keys = self._optimizer.moment_keys
        return {f"{key}/{name}": self._optimizer.state[p][key] for key in keys for name, p in self._parameters.items()}


class DeepSpeedEngine:
    """`Engine` on DeepSpeed: gradients and moments of float32 parameters partitioned over the gang (ZeRO 0, 1, 2).

    Under ZeRO the optimizer sees one flat float32 partition per rank instead of the parameters. DeepSpeed's own map
    from parameters to fragments of that partition (`deepspeed.utils`) gives back whole tensors by name.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: MomentSetAdamW,
        *,
        max_grad_norm: float,
        zero_stage: Literal[0, 1, 2],
        gang: Gang,
    ) -> None:
        self._parameters = _trainable(module)
        self._optimizer = optimizer
        self._max_grad_norm = max_grad_norm
        self._partitioned = zero_stage > 0
        device = next(iter(self._parameters.values())).device
        _join_process_group(gang, device)
        deepspeed = _import_deepspeed(device)
        bucket = min(_BUCKET_ELEMENTS, max(2, sum(p.numel() for p in self._parameters.values())))
        config = {
            "train_micro_batch_size_per_gpu": 1,  # only counted, never used to split anything
            "gradient_accumulation_steps": 1,
            # Without ZeRO a gradient that is not finite must be seen before the step, so step() clips itself.
            "gradient_clipping": max_grad_norm if self._partitioned else 0.0,
            "zero_optimization": {"stage": zero_stage, "reduce_bucket_size": bucket},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": None,
        }
        self._engine = deepspeed.initialize(model=module, optimizer=optimizer, config=config)[0]
        # DeepSpeed reduces over a group of its own, which torch gives a deadline of 30 minutes.
        _set_deadline(self._engine.data_parallel_group, gang.timeout_s)
        optimizer.create_state()
        if self._partitioned:
            flat = optimizer.param_groups[0]["params"][0]
            deepspeed.utils.lazy_init_hp_params_optimizer_state(list(self._parameters.values()), flat, optimizer.state)
        self._fragments = deepspeed.utils

    @property
    def module(self) -> nn.Module:
        """See `Engine`."""
        return self._engine.module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See `Engine`."""
        return self._engine(*args, **kwargs)

    def step(self, loss: Tensor, objective: str, factor: float = 1.0) -> StepReport:
        """See `Engine`."""
        self._optimizer.use(objective, factor)
        self._engine.backward(loss)
        if self._partitioned:
            self._engine.step()
            norm = float(self._engine.get_global_grad_norm())
        else:
            norm = float(nn.utils.clip_grad_norm_(self._parameters.values(), self._max_grad_norm))
            if _is_finite(norm):
                self._engine.step()
            else:
                self._engine.zero_grad()
        return _report(self._optimizer, objective, norm, skipped=not _is_finite(norm))

    def state_dict(self) -> dict[str, Tensor]:
        """See `Engine`."""
        return _cpu_copies(self._parameters)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See `Engine`."""
        _require_fit(state, self._parameters)
        for name, parameter in self._parameters.items():
            parameter.data.copy_(state[name])
            if self._partitioned:  # the partition is the truth; the parameters are gathered from it at each step
                self._fragments.safe_set_full_fp32_param(parameter, parameter.data)

    def optimizer_state(self) -> dict[str, Tensor]:
        """See `Engine`."""
        state = _steps(self._optimizer)
        for key in self._optimizer.moment_keys:
            for name, parameter in self._parameters.items():
                moment = (
                    self._fragments.safe_get_full_optimizer_state(parameter, key)
                    if self._partitioned
                    else self._optimizer.state[parameter][key]
                )
                state[f"{key}/{name}"] = moment
        return _cpu_copies(state)

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Engine`."""
        _require_fit(state, _optimizer_layout(self._optimizer, self._parameters))
        for key in self._optimizer.moment_keys:
            for name, parameter in self._parameters.items():
                value = state[f"{key}/{name}"].to(parameter.device)
                if self._partitioned:
                    self._fragments.safe_set_full_optimizer_state(parameter, value, key)
                else:
                    self._optimizer.state[parameter][key].copy_(value)
        _load_steps(self._optimizer, state)


def _trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def _is_finite(norm: float) -> bool:
    return 0.0 <= norm < float("inf")


def _report(optimizer: MomentSetAdamW, objective: str, norm: float, *, skipped: bool) -> StepReport:
    norm = float("inf") if skipped else norm
    return StepReport(objective, norm, optimizer.param_groups[0]["lr"], skipped=skipped)


def _optimizer_layout(optimizer: MomentSetAdamW, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of the flat optimizer state, with tensors of the shapes that belong to them."""
    layout = {f"{key}/{name}": tensor for key in optimizer.moment_keys for name, tensor in parameters.items()}
    return layout | _steps(optimizer)


def _steps(optimizer: MomentSetAdamW) -> dict[str, Tensor]:
    return {f"{objective}.steps": torch.tensor(count) for objective, count in optimizer.steps.items()}


def _load_steps(optimizer: MomentSetAdamW, state: Mapping[str, Tensor]) -> None:
    for objective in optimizer.learning_rates:
        optimizer.steps[objective] = int(state[f"{objective}.steps"])


def _cpu_copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def _require_fit(given: Mapping[str, Tensor], layout: Mapping[str, Tensor]) -> None:
    """Compares names and shapes before anything is changed."""
    if given.keys() != layout.keys():
        missing, surplus = sorted(layout.keys() - given.keys()), sorted(given.keys() - layout.keys())
        raise CheckpointError(
            f"state does not fit: {len(missing)} missing {missing[:2]}, {len(surplus)} unknown {surplus[:2]}"
        )
    for name, tensor in layout.items():
        if given[name].shape != tensor.shape:
            shapes = f"{tuple(given[name].shape)}, expected {tuple(tensor.shape)}"
            raise CheckpointError(f"state does not fit: {name} has shape {shapes}")


def _join_process_group(gang: Gang, device: torch.device) -> None:
    """DeepSpeed reduces over torch's default process group; a process on its own gets a group of one, portless."""
    if not torch.distributed.is_initialized() and gang.size == 1:
        store = torch.distributed.HashStore()  # pyright: ignore[reportPrivateImportUsage] - documented by torch
        backend = "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:nccl"
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    joined = gang.size == 1 or isinstance(gang, TorchDistributedGang)
    if not joined or torch.distributed.get_world_size() != gang.size:
        raise ValueError(f"a DeepSpeed engine over {gang.size} ranks needs a TorchDistributedGang of that size")


def _import_deepspeed(device: torch.device) -> Any:
    """Imports DeepSpeed for one kind of device, without ever starting a compiler.

    Raises:
        UserError: if this process already uses DeepSpeed on another kind of device.
    """
    os.environ["DS_ACCELERATOR"] = device.type
    import deepspeed  # noqa: PLC0415 - takes seconds, and the torch engine needs none of it

    accelerator: Any = deepspeed.accelerator.get_accelerator()
    chosen = accelerator.device_name()
    if chosen != device.type:
        raise UserError(f"DeepSpeed already runs on {chosen} in this process; build all engines there, not on {device}")
    # A shared-memory all-reduce that DeepSpeed would compile for 45 s at first use; gloo does the same sums.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").addFilter(_is_news)
    # What DeepSpeed 0.19 calls at each step, and what torch's own compiler imports: deprecated in torch 2.13.
    warnings.filterwarnings("ignore", "`torch.distributed.all_gather_into_tensor` is deprecated", FutureWarning)
    warnings.filterwarnings("ignore", "`torch.jit.script_method` is deprecated", DeprecationWarning)
    return deepspeed


def _is_news(record: logging.LogRecord) -> bool:
    """Drops DeepSpeed's warning about optimizers it does not know: `MomentSetAdamW` is tested against plain torch."""
    return "untested optimizer" not in record.getMessage()


def _set_deadline(group: torch.distributed.ProcessGroup, timeout_s: float) -> None:
    # torch offers no public way to change the deadline of a group that someone else made
    torch.distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=timeout_s), group)  # noqa: SLF001
