"""The diffusers classes of SD3, imported without the notices that their import sends.

Importing the pipeline makes transformers announce, several times, that torchvision is not installed. It is not needed:
no image processor is used. Its verbosity is the user's again once the imports are done.
"""

from transformers.utils import logging as _transformers_logging

_verbosity = _transformers_logging.get_verbosity()
_transformers_logging.set_verbosity_error()
try:
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
finally:
    _transformers_logging.set_verbosity(_verbosity)

__all__ = ["FlowMatchEulerDiscreteScheduler", "SD3Transformer2DModel", "StableDiffusion3Pipeline"]
