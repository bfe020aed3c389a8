"""The choice of an attention kernel, through diffusers' own dispatch."""

import importlib.util
from collections.abc import Mapping
from typing import Any

from advdmd_ray.errors import UserError
from advdmd_ray.models.families.registry import Family

KERNELS: Mapping[str, str] = {
    "flash": "flash_attn",
    "flash_varlen": "flash_attn",
    "_flash_3": "flash_attn_interface",
    "_flash_varlen_3": "flash_attn_interface",
    "xformers": "xformers",
}
"""The module outside torch that a backend needs."""


def check_attention(family: Family, backend: str) -> None:
    """Look for what a backend needs, without importing it.

    Args:
        family: Of the model.
        backend: By diffusers' name, see `model.attention`.

    Raises:
        UserError: if the family's attention has no such choice, or a module is not installed here.
    """
    if not family.chooses_attention:
        raise UserError(
            f"model.attention={backend}: diffusers' {family.transformer} always uses torch's own attention; leave "
            "model.attention out"
        )
    module = KERNELS.get(backend)
    if module is not None and importlib.util.find_spec(module) is None:
        raise UserError(
            f"model.attention={backend}: needs the module {module}, which is not installed; install it on every node, "
            "or leave model.attention out"
        )


def choose_attention(transformer: Any, backend: str) -> None:
    """Let a transformer's attention run on one of diffusers' backends, in place.

    What it computes is the same but for rounding, so every worker of a run must have the same one: rollout and learner
    compare log-probabilities.

    Args:
        transformer: A diffusers transformer.
        backend: By diffusers' name, see `model.attention`.

    Raises:
        UserError: if the family's attention has no such choice, or the backend is not installed.
    """
    from advdmd_ray.models.diffusers_classes import UNUSED, hidden
    from advdmd_ray.models.pipeline import quiet  # imports torch, and a check needs none

    with hidden(UNUSED):
        from diffusers.models.attention_dispatch import attention_backend

    processors = [part.processor for part in transformer.modules() if hasattr(part, "processor")]
    if not any(hasattr(processor, "_attention_backend") for processor in processors):
        raise UserError(
            f"model.attention={backend}: diffusers' {type(transformer).__name__} always uses torch's own attention; "
            "leave model.attention out"
        )
    try:
        # Whose block puts diffusers' setting for all other networks of the process back.
        with quiet(), attention_backend(backend):
            transformer.set_attention_backend(backend)
    except (ImportError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"model.attention={backend}: {reason}; or leave model.attention out") from None
