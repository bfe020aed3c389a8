"""AdvDMD on Ray: adversarial distribution matching distillation as a distributed actor/learner system.

The names below are the library's face: a whole run (`read_config`, `run`, `export`), and the parts of the method for a
network of one's own, as `examples/own_network.py` puts them together. Each is imported when it is first asked for, so
`import advdmd_ray` imports neither torch nor ray nor diffusers.

`PixelCodec` is among them because diffusers pipeline folders may refer to it.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from advdmd_ray.config import Config, read_config
    from advdmd_ray.diffusion.denoiser import Conditioning
    from advdmd_ray.diffusion.kernels import (
        Kernel,
        clean_from_velocity,
        kernel_of,
        kl_per_element,
        log_ratio,
        transition,
    )
    from advdmd_ray.diffusion.sampling import rollout, sample
    from advdmd_ray.diffusion.schedule import student_sigmas
    from advdmd_ray.losses.advantage import advantages, level_z_scores
    from advdmd_ray.losses.adversarial import discriminator_loss, generator_loss
    from advdmd_ray.losses.distribution_matching import dmd_gradient, dmd_loss
    from advdmd_ray.losses.fake_score import flow_matching_loss, noised
    from advdmd_ray.losses.policy_gradient import PolicyTerms, policy_gradient_loss
    from advdmd_ray.models.codec import PixelCodec
    from advdmd_ray.runs.export import export
    from advdmd_ray.runtime.run import run

__all__ = [
    "Conditioning",
    "Config",
    "Kernel",
    "PixelCodec",
    "PolicyTerms",
    "__version__",
    "advantages",
    "clean_from_velocity",
    "discriminator_loss",
    "dmd_gradient",
    "dmd_loss",
    "export",
    "flow_matching_loss",
    "generator_loss",
    "kernel_of",
    "kl_per_element",
    "level_z_scores",
    "log_ratio",
    "noised",
    "policy_gradient_loss",
    "read_config",
    "rollout",
    "run",
    "sample",
    "student_sigmas",
    "transition",
]

__version__ = "0.1.0"

_HOMES = {
    "config": ("Config", "read_config"),
    "diffusion.denoiser": ("Conditioning",),
    "diffusion.kernels": (
        "Kernel",
        "clean_from_velocity",
        "kernel_of",
        "kl_per_element",
        "log_ratio",
        "transition",
    ),
    "diffusion.sampling": ("rollout", "sample"),
    "diffusion.schedule": ("student_sigmas",),
    "losses.advantage": ("advantages", "level_z_scores"),
    "losses.adversarial": ("discriminator_loss", "generator_loss"),
    "losses.distribution_matching": ("dmd_gradient", "dmd_loss"),
    "losses.fake_score": ("flow_matching_loss", "noised"),
    "losses.policy_gradient": ("PolicyTerms", "policy_gradient_loss"),
    "models.codec": ("PixelCodec",),
    "runs.export": ("export",),
    "runtime.run": ("run",),
}
"""Module of each name, below this package."""


def __getattr__(name: str) -> object:
    """Import a name of `__all__` on first use."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The names of the face beside those that every module has."""
    return sorted({*globals(), *__all__})
