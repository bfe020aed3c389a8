"""What is imported for a network, and what diffusers does without."""

import importlib
import importlib.util
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from advdmd_ray.config import Config
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.models.diffusers_classes import hidden
from advdmd_ray.runs.parts.networks import build_denoiser

# Two processes, copies of one that has imported what both need.
WORKER = """
import os, sys
from advdmd_ray.config import Config
from advdmd_ray.runs.parts.networks import import_networks
from test_diffusers_classes import velocity_digest

for parts in sys.argv[1:]:
    if not (copy := os.fork()):
        import_networks(Config(), whole=parts == "whole")
        digest = velocity_digest()
        absent = [name for name in ("peft", "scipy", "torchao", "transformers") if name not in sys.modules]
        import scipy.special  # what is hidden from diffusers is there for others
        print(*absent, digest)
        break
    assert os.waitpid(copy, 0)[1] == 0
"""


def velocity_digest() -> str:
    """Of what the digits teacher predicts for noise."""
    torch.set_num_threads(1)
    network, noise = build_denoiser(Config()), torch.Generator().manual_seed(0)
    x = torch.randn(4, 1, 8, 8, generator=noise)
    width, pooled = network.transformer.config.joint_attention_dim, network.transformer.config.pooled_projection_dim
    prompts = Conditioning(torch.randn(4, 7, width, generator=noise), torch.randn(4, pooled, generator=noise))
    with torch.no_grad():
        return sha256(network(x, torch.tensor([0.1, 0.4, 0.7, 1.0]), prompts).numpy().tobytes()).hexdigest()


def test_a_worker_computes_the_same_without_what_diffusers_can_do_without() -> None:
    threads = torch.get_num_threads()
    try:
        expected = velocity_digest()
    finally:
        torch.set_num_threads(threads)
    here = Path(__file__).parent
    command = [sys.executable, "-c", WORKER, "whole", "transformer"]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, cwd=here)
    whole, transformer = (line.split() for line in ran.stdout.splitlines())
    assert whole == ["peft", "scipy", "torchao", expected]
    assert transformer == ["peft", "scipy", "torchao", "transformers", expected]


def test_a_hidden_package_is_not_found_inside_and_is_there_again_outside() -> None:
    with hidden("this_is_no_package", "pydantic"):
        assert importlib.util.find_spec("this_is_no_package") is None
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("this_is_no_package")
        assert importlib.import_module("pydantic") is not None, "what is imported already stays"
    assert "this_is_no_package" not in sys.modules
    with pytest.raises(RuntimeError, match="broken"), hidden("this_is_no_package"):
        raise RuntimeError("broken")
    assert "this_is_no_package" not in sys.modules
