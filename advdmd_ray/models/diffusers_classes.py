"""The classes of diffusers that are named in code, imported without the notices that their import sends.

Importing a pipeline makes transformers announce, several times, that torchvision is not installed. It is not needed:
no image processor is used. Its verbosity is the user's again once the imports are done.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging as _transformers_logging

from advdmd_ray.models.families.registry import Family


@contextmanager
def _without_notices() -> Iterator[None]:
    verbosity = _transformers_logging.get_verbosity()
    _transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        _transformers_logging.set_verbosity(verbosity)


with _without_notices():
    import diffusers
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler


def pipeline_class(family: Family) -> Any:
    """A family's pipeline class; diffusers imports it when it is asked for."""
    with _without_notices():
        return getattr(diffusers, family.pipeline)


def transformer_class(family: Family) -> Any:
    """A family's transformer class."""
    with _without_notices():
        return getattr(diffusers, family.transformer)


__all__ = [
    "FlowMatchEulerDiscreteScheduler",
    "SD3Transformer2DModel",
    "StableDiffusion3Pipeline",
    "pipeline_class",
    "transformer_class",
]
