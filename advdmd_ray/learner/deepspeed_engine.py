"""The engine on DeepSpeed, at ZeRO 0 to 3. The only file that imports deepspeed.

Under ZeRO 1 and 2 the optimizer sees one flat float32 partition per rank instead of the parameters; DeepSpeed's own
map from parameters to fragments of it (`deepspeed.utils`) gives back whole tensors by name.

Under ZeRO 3 the parameters themselves are cut up: each rank holds 1 / ranks of every parameter of the module, frozen
ones included, and DeepSpeed's hooks on the submodules gather a layer's weights for its forward and its backward pass.
They do so in any pass through the module, with a gradient or without, so every pass is a collective. A shallow copy of
a submodule has the hooks too, if it was made after the engine (`models/features.py`). No parameter may belong to two
engines: DeepSpeed would cut up for the second what the first has cut up already.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, Literal

import torch
import torch.distributed
from torch import Tensor, nn

from advdmd_ray.errors import UserError
from advdmd_ray.learner.engine_state import (
    NamedState,
    NamedTensors,
    StepReport,
    WholeTensors,
    activation_home,
    always,
    exchanged,
    is_finite,
    require_parts,
    shapes_of,
    step_report,
    trainable,
)
from advdmd_ray.learner.gang import Gang, TorchDistributedGang, backend_of, require_backend
from advdmd_ray.learner.optimizer import MomentSetAdamW
from advdmd_ray.learner.parts import LossPart

# Gradient elements reduced at once at most. DeepSpeed allocates the bucket at every step; its default takes 2 GB.
_BUCKET_ELEMENTS: Final = 2**25
# ZeRO 3: elements that may wait, gathered, for their next use in the same pass: 1 GiB. DeepSpeed's default is 4 GB.
_LIVE_ELEMENTS: Final = 2**28
_PARTITIONED: Final = 3
_NO_COMPILER: Final = "TORCHDYNAMO_DISABLE"
"""torch's switch: where it is 1, torch.compile gives a function back as it is."""
ZeroStage = Literal[0, 1, 2, 3]


class DeepSpeedEngine(NamedState):
    """`Engine` on DeepSpeed: what training needs is partitioned over the gang, more of it at each ZeRO stage."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: MomentSetAdamW,
        *,
        max_grad_norm: float,
        zero_stage: ZeroStage,
        offload_optimizer: bool,
        offload_activations: bool,
        gang: Gang,
    ) -> None:
        parameters = trainable(module)
        shapes, device = shapes_of(parameters), next(iter(parameters.values())).device
        self._max_grad_norm = max_grad_norm
        self._partitioned = zero_stage > 0
        self._offload_activations = offload_activations
        _join_process_group(gang, device)
        deepspeed = import_deepspeed(device)
        elements = sum(shape.numel() for shape in shapes.values())
        config = {
            "train_micro_batch_size_per_gpu": 1,  # only counted, never used to split anything
            "gradient_accumulation_steps": 1,  # `step` tells where the last part is, and scales no loss
            # Without ZeRO a gradient that is not finite must be seen before the step, so step() clips itself.
            "gradient_clipping": max_grad_norm if self._partitioned else 0.0,
            "zero_optimization": _zero_settings(zero_stage, elements, device, offload=offload_optimizer),
            "zero_allow_untested_optimizer": True,
            # DeepSpeed's own optimizer for host memory needs a compiler and knows one set of moments.
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": None,
        }
        with _without_compiler():
            self._engine = deepspeed.initialize(model=module, optimizer=optimizer, config=config)[0]
        # DeepSpeed reduces over a group of its own, which torch gives a deadline of 30 minutes.
        _set_deadline(self._engine.data_parallel_group, gang.timeout_s)
        self._gradients: _Fragments | _Partitions | None = None
        tensors: NamedTensors
        if zero_stage == _PARTITIONED:
            tensors = self._gradients = _Partitions(
                parameters, optimizer, deepspeed.utils, self._engine.optimizer, gang.rank
            )
        elif self._partitioned:
            tensors = self._gradients = _Fragments(parameters, optimizer, deepspeed.utils)
        else:
            tensors = WholeTensors(parameters, optimizer)
        # Measured before DeepSpeed cuts parameters up.
        super().__init__(self._engine.module, parameters, shapes, optimizer, tensors, device)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See `Engine`."""
        with activation_home(self._device, offload=self._offload_activations):
            return self._engine(*args, **kwargs)

    def step(
        self,
        parts: Sequence[LossPart],
        objective: str,
        factor: float = 1.0,
        wanted: Callable[[], bool] = always,
    ) -> StepReport:
        """See `Engine`. ZeRO 0 and 1 reduce the gradients once, with the last part; ZeRO 2 and 3 those of each."""
        require_parts(parts)
        self._optimizer.use(objective, factor)
        for number, part in enumerate(parts, start=1):
            # Before the forward pass too, as DeepSpeed asks.
            self._engine.set_gradient_accumulation_boundary(is_boundary=number == len(parts))
            self._engine.backward(part())
        taken = wanted()
        if not taken:  # DeepSpeed goes through its step, in which alone it forgets its gradients
            self._optimizer.rest()
        if self._partitioned:
            self._engine.step()
            norm = float(self._engine.get_global_grad_norm())
        else:
            norm = float(nn.utils.clip_grad_norm_(self._parameters.values(), self._max_grad_norm))
            if is_finite(norm):
                self._engine.step()
            else:
                self._engine.zero_grad()
        if self._gradients is not None:
            self._gradients.forget_gradients()
        return step_report(norm, wanted=taken)


class _Fragments(WholeTensors):
    """ZeRO 1 and 2: whole weights; moments, and the weights that are updated, in one flat partition per rank."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], optimizer: MomentSetAdamW, utils: Any) -> None:
        super().__init__(parameters, optimizer)
        self._utils = utils
        self._flat: nn.Parameter = optimizer.param_groups[0]["params"][0]
        utils.lazy_init_hp_params_optimizer_state(list(parameters.values()), self._flat, optimizer.state)

    def set_weights(self, state: Mapping[str, Tensor]) -> None:
        super().set_weights(state)
        for parameter in self._parameters.values():  # gathered from the partition at each step: that is the truth
            self._utils.safe_set_full_fp32_param(parameter, parameter.data)

    def moment(self, parameter: nn.Parameter, key: str) -> Tensor:
        return self._utils.safe_get_full_optimizer_state(parameter, key)

    def set_moment(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        self._utils.safe_set_full_optimizer_state(parameter, value, key)

    def forget_gradients(self) -> None:
        """A parameter that the next loss does not reach must have a zero gradient, not that of this step."""
        _clear(self._flat)


class _Partitions:
    """ZeRO 3: of every parameter this rank's share alone, once in the module and once where it is updated.

    A share is cut from the flattened parameter, padded at the end so that all ranks' are equally long. (DeepSpeed's
    `safe_set_full_*` cuts past the end of a parameter that has none, so the shares are set.)
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], optimizer: MomentSetAdamW, utils: Any, zero: Any, rank: int
    ) -> None:
        self._parameters, self._utils, self._zero, self._rank = parameters, utils, zero, rank
        (self._flat,) = zero.fp32_partitioned_groups_flat
        # DeepSpeed gives it to the optimizer for the time of a step only.
        optimizer.param_groups[0]["params"] = [self._flat]
        optimizer.create_state()
        optimizer.param_groups[0]["params"] = []

    def weight(self, parameter: nn.Parameter) -> Tensor:
        return self._utils.safe_get_full_fp32_param(parameter)

    def set_weights(self, state: Mapping[str, Tensor]) -> None:
        self._zero.empty_partition_cache()  # the pass of an input gradient may leave layers gathered
        for name, parameter in self._parameters.items():
            share = self._share(parameter, state[name])
            self._utils.safe_set_local_fp32_param(parameter, share)
            _cut(parameter).data.copy_(share)

    @contextmanager
    def worn(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[None]:
        self._zero.empty_partition_cache()
        shares = {name: self._share(self._parameters[name], tensor) for name, tensor in weights}
        with exchanged({name: _cut(parameter) for name, parameter in self._parameters.items()}, shares):
            try:
                yield
            finally:
                self._zero.empty_partition_cache()

    def moment(self, parameter: nn.Parameter, key: str) -> Tensor:
        return self._utils.safe_get_full_optimizer_state(parameter, key)

    def set_moment(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        self._utils.safe_set_local_optimizer_state(parameter, self._share(parameter, value), key)

    def forget_gradients(self) -> None:
        """See `_Fragments`."""
        self._zero.grad_partitions_flat_buffer.zero_()
        _clear(self._flat)

    def _share(self, parameter: nn.Parameter, value: Tensor) -> Tensor:
        length = _cut(parameter).numel()
        own = value.flatten()[self._rank * length : (self._rank + 1) * length]
        return nn.functional.pad(own, (0, length - own.numel()))


def _clear(flat: Tensor) -> None:
    """The gradients of an offloaded partition are a buffer that lives on and is filled where gradients arrive."""
    if flat.grad is not None:
        flat.grad.zero_()


def _cut(parameter: Any) -> Tensor:
    """What this rank holds of a parameter, as DeepSpeed names it."""
    return parameter.ds_tensor


def _zero_settings(stage: ZeroStage, elements: int, device: torch.device, *, offload: bool) -> dict[str, Any]:
    """DeepSpeed's `zero_optimization` for a network of so many trainable elements."""
    bucket = min(_BUCKET_ELEMENTS, max(2, elements))
    settings: dict[str, Any] = {"stage": stage, "reduce_bucket_size": bucket}
    if offload:
        settings["offload_optimizer"] = {"device": "cpu", "pin_memory": device.type != "cpu"}
    if stage == _PARTITIONED:
        settings |= {
            "stage3_prefetch_bucket_size": bucket,
            "stage3_param_persistence_threshold": 0,  # small parameters are cut up too: one rule for all
            "stage3_max_live_parameters": _LIVE_ELEMENTS,
            "stage3_max_reuse_distance": _LIVE_ELEMENTS,
            "sub_group_size": max(2, elements),  # one group: an optimizer step for each would be a step too many
            # It would put its own function in the place of torch's linear layer, for every network of the process.
            "memory_efficient_linear": False,
        }
    return settings


def _join_process_group(gang: Gang, device: torch.device) -> None:
    """DeepSpeed reduces over torch's default process group; a process on its own gets a group of one, portless."""
    if not torch.distributed.is_initialized() and gang.size == 1:
        store = torch.distributed.HashStore()  # pyright: ignore[reportPrivateImportUsage] - documented by torch
        torch.distributed.init_process_group(backend_of(device), store=store, rank=0, world_size=1)
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    joined = gang.size == 1 or isinstance(gang, TorchDistributedGang)
    if not joined or torch.distributed.get_world_size() != gang.size:
        raise ValueError(f"a DeepSpeed engine over {gang.size} ranks needs a TorchDistributedGang of that size")
    require_backend(device)


def import_deepspeed(device: torch.device) -> Any:
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
    for name in ("all_gather_into_tensor", "reduce_scatter_tensor"):
        warnings.filterwarnings("ignore", f"`torch.distributed.{name}` is deprecated", FutureWarning)
    warnings.filterwarnings("ignore", "`torch.jit.script_method` is deprecated", DeprecationWarning)
    return deepspeed


@contextmanager
def _without_compiler() -> Iterator[None]:
    """As it looks whether it knows an optimizer, DeepSpeed imports one of its own that is given to torch.compile.

    That imports torch's compiler, which takes longer than all that an engine needs. Nothing is compiled inside.
    """
    before = os.environ.get(_NO_COMPILER)
    os.environ[_NO_COMPILER] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_NO_COMPILER]
        else:
            os.environ[_NO_COMPILER] = before


def _is_news(record: logging.LogRecord) -> bool:
    """Drops DeepSpeed's warning about optimizers it does not know: `MomentSetAdamW` is tested against plain torch."""
    return "untested optimizer" not in record.getMessage()


def _set_deadline(group: torch.distributed.ProcessGroup, timeout_s: float) -> None:
    # torch offers no public way to change the deadline of a group that someone else made
    torch.distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=timeout_s), group)  # noqa: SLF001
