"""Set up before any test module is imported: shapes are checked, draws repeat, one thread per process."""

import hypothesis
import jaxtyping
import torch

torch.set_num_threads(1)

# Annotated shapes and types become run-time checks in the packages that do arithmetic.
jaxtyping.install_import_hook(
    [
        "advdmd_ray.diffusion",
        "advdmd_ray.losses",
        "advdmd_ray.models",
        "advdmd_ray.records",
        "advdmd_ray.rollout",
        "advdmd_ray.reward",
    ],
    "beartype.beartype",
)

hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("repeatable")
