"""The choice of an attention kernel, through diffusers' own dispatch."""

from typing import Any

from advdmd_ray.errors import UserError
from advdmd_ray.models.pipeline import quiet


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
