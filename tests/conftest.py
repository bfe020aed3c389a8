"""Set up before any test module is imported: shapes are checked, draws repeat, one thread per process."""

import os
import signal
from pathlib import Path

import hypothesis
import jaxtyping
import pytest
import torch

torch.set_num_threads(1)
# Processes that tests start have one too: those of several at once wait for each other by spinning.
os.environ["OMP_NUM_THREADS"] = "1"

# A shell that starts the tests in the background has them ignore Ctrl-C, and so every process that they start and stop.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Annotated shapes and types become run-time checks in the packages that do arithmetic.
jaxtyping.install_import_hook(
    [
        "advdmd_ray.diffusion",
        "advdmd_ray.losses",
        "advdmd_ray.models",
        "advdmd_ray.stations.records",
        "advdmd_ray.stations.rollout",
        "advdmd_ray.stations.reward",
    ],
    "beartype.beartype",
)

hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained pipeline folder; its larger weights make a comparison mean something."""
    from advdmd_ray.data.digits.images import DIGIT_WORDS  # noqa: PLC0415 - only tests that run a pipeline load diffusers
    from advdmd_ray.models.codec import PixelCodec  # noqa: PLC0415 - importing the package must stay free
    from advdmd_ray.models.pipeline import save_pipeline  # noqa: PLC0415
    from advdmd_ray.models.tiny import DIGITS, build_tiny_pipeline  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("teacher") / "tiny"
    pipeline = build_tiny_pipeline(DIGIT_WORDS, PixelCodec(), DIGITS, seed=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in pipeline.transformer.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    save_pipeline(pipeline, folder)
    return folder
