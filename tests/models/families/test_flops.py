"""The operations told from headers are those that torch counts in a forward of each family."""

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from advdmd_ray.models.families.flops import Flops, count_flops, forward_flops
from advdmd_ray.models.families.kept import backbone_of
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.pipeline import load_denoiser, load_pipeline
from advdmd_ray.models.text import encode_prompts
from benchmarks.flops import forward_flops as counted_from_the_configuration
from benchmarks.sizes import FULL
from full_size import write_full_size

ROWS = 2


def test_a_forward_of_each_family_has_the_operations_that_torch_counts(family_folder: Path) -> None:
    prompts = encode_prompts(load_pipeline(family_folder), ["a red fox above the"] * ROWS, 64)
    denoiser = load_denoiser(family_folder, 1.0)
    info, text = inspect_pipeline(family_folder, (128, 128)), prompts.embeds.shape[1]
    backbone = backbone_of(info, text - 16 if info.family.name == "sd3" else text)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, sdpa_kernel(SDPBackend.MATH):
        denoiser(torch.randn(ROWS, 4, 16, 16), torch.rand(ROWS), prompts)
    # The convolution that cuts SD3's image in patches, and maps of one vector, are a larger share of a tiny network.
    assert ROWS * forward_flops(info, backbone).forward == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_a_full_size_forward_is_what_its_configuration_says(tmp_path: Path) -> None:
    info = inspect_pipeline(write_full_size("sd35_medium_lora", tmp_path / "model"), (1024, 1024))
    size = FULL
    told = forward_flops(info, backbone_of(info, size.text_tokens - 77))
    counted = counted_from_the_configuration(size)
    assert size.side == info.latent.height
    assert told.attention == counted.attention
    assert told.weights == pytest.approx(counted.weights, rel=0.001)


def test_a_layer_works_on_the_tokens_that_its_name_says() -> None:
    layers = {
        "transformer_blocks.0.norm1.linear": (6, 1),
        "transformer_blocks.0.attn.add_k_proj": (1, 1),
        "transformer_blocks.0.ff.net.2": (1, 1),
        "single_transformer_blocks.0.attn.to_q": (4, 2),
    }
    image, text = 100, 10
    assert count_flops(layers, image, text) == Flops(2 * (6 + text + image + 110 * 8), 2 * 2 * 110**2 * 4)
