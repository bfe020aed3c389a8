"""A frozen base whose blocks keep the weights of their linear layers in 8 bits, by torchao.

Each output of a layer has a scale: the largest of its weights is 127 steps. A product is made in the base's own
precision, of the weights as that precision has them for the moment. A graph would keep these of every layer, so blocks
are computed again in a backward pass, and one block's are there at a time. What embeds text, time and image, and what
makes the output, is in no block: it is a few hundredths of the weights, and stays as it is.

Only what is frozen is stored so. Adapters stand beside the layers, in float32.
"""

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from advdmd_ray.errors import UserError
from advdmd_ray.models.targets import in_a_block

PACKAGE = "torchao"


def check_quantization(kind: str) -> None:
    """Look for what stores weights in so few bits, without importing it.

    Args:
        kind: See `model.quantization`.

    Raises:
        UserError: if it is not installed here.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise UserError(
            f"model.quantization={kind}: needs {PACKAGE}, which is not installed; install advdmd-ray[quantization] on "
            "every node, or leave model.quantization out"
        )


def quantize(transformer: Any, kind: str) -> None:
    """Store the weights of a transformer's linear layers in few bits, in place, one layer after the other.

    Args:
        transformer: Loaded, on the CPU. It makes what its blocks keep again in a backward pass from now on.
        kind: See `model.quantization`.

    Raises:
        UserError: as `check_quantization`.
    """
    check_quantization(kind)
    with _without_notices():
        from torchao.quantization import (  # pyright: ignore[reportMissingImports] - an extra
            Int8WeightOnlyConfig,
            quantize_,
        )
    from torch import nn  # pre-flight asks whether torchao is there, and imports no torch

    def is_stored(module: Any, name: str) -> bool:
        return isinstance(module, nn.Linear) and in_a_block(name)

    # The default also changes how torch.compile works in the whole process.
    quantize_(transformer, Int8WeightOnlyConfig(set_inductor_config=False), is_stored)
    for name, module in transformer.named_modules():
        if is_stored(module, name):
            stored = module.weight.data
            del module.weight
            # Nothing learns it: DeepSpeed moves and broadcasts parameters, and torch swaps those of torchao's kind.
            module.register_buffer("weight", stored)
            module.register_forward_pre_hook(_in_precision_of_weights)
    transformer.enable_gradient_checkpointing()


def _in_precision_of_weights(layer: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """What autocast does for a plain layer. torchao would take the weights to the precision of what comes in."""
    return (inputs[0].to(layer.weight.dtype),)


@contextmanager
def _without_notices() -> Iterator[None]:
    """An import of torchao says which kernels it has not for this machine; those of 8-bit weights are torch's own."""
    loggers = [logging.getLogger(name) for name in (PACKAGE, "torch.utils._pytree")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
