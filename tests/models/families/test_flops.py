"""The operations told from headers are those that torch counts in passes of each family."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from advdmd_ray.config import read_config
from advdmd_ray.models.families.flops import Flops, count_flops, forward_flops
from advdmd_ray.models.families.kept import backbone_of
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.lora import add_lora
from advdmd_ray.models.pipeline import load_denoiser
from advdmd_ray.models.text import encode_prompts
from advdmd_ray.runs.needs.memory import sizes_of
from full_size import write_full_size

ROWS = 2
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


class Counted:
    """A family's tiny network: the operations that we tell, and those that torch counts."""

    def __init__(self, folder: Path, pipeline: Any, rank: int) -> None:
        self._prompts = encode_prompts(pipeline, ["a red fox above the"] * ROWS, 64)
        info, text = inspect_pipeline(folder, (128, 128)), self._prompts.embeds.shape[1]
        backbone = backbone_of(info, text - 16 if info.family.name == "sd3" else text)
        self.told = forward_flops(info, backbone, rank=rank, targets=TARGETS)
        self._network = load_denoiser(folder, 1.0).requires_grad_(True)
        if rank:
            add_lora(self._network, rank=rank, alpha=1.0, targets=TARGETS, seed=0)

    def made(self, then: Callable[[Tensor, Tensor], object] | None = None) -> float:
        """Of a forward for one image, and of what is done with the image and the velocity."""
        image = torch.randn(ROWS, 4, 16, 16, requires_grad=then is back_to_image)
        counter = FlopCounterMode(display=False)
        with torch.set_grad_enabled(then is not None), counter, sdpa_kernel(SDPBackend.MATH):
            # The counter takes no leaf whose gradient is asked for as an input.
            velocity = self._network(1 * image, torch.rand(ROWS), self._prompts)
            if then is not None:
                then(image, velocity)
        return counter.get_total_flops() / ROWS


def back(_: Tensor, velocity: Tensor) -> None:
    velocity.sum().backward()


def back_to_image(image: Tensor, velocity: Tensor) -> None:
    torch.autograd.grad(velocity.sum(), image)


@pytest.mark.parametrize("rank", [0, 4], ids=["whole", "adapters"])
def test_passes_of_each_family_have_the_operations_that_torch_counts(
    family: str, family_folder: Path, family_pipeline: Any, rank: int
) -> None:
    counted = Counted(family_folder, family_pipeline, rank)
    told = counted.told
    # The convolution that cuts SD3's image in patches, and maps of one vector, are a larger share of a tiny network.
    assert counted.made() == pytest.approx(told.forward, rel=0.05)
    # So are the first layers, whose input needs no gradient. SANA's convolutions have a group for each channel; of such
    # torch counts the gradient of the weights as of one group.
    if family != "sana" or rank:
        assert 0.95 * told.learnt <= counted.made(back) <= 1.001 * told.learnt
    assert 0.93 * told.to_input <= counted.made(back_to_image) <= 1.001 * told.to_input


def test_a_backward_to_adapters_makes_no_gradient_of_a_weight() -> None:
    assert Flops(10, 4).learnt == 42
    assert Flops(10, 4, 1).learnt == 35
    assert Flops(10, 4, 1).to_input == 34


@pytest.mark.parametrize(("recipe", "share"), [("sd35_medium_lora", 0.38), ("flux_dev_lora", 0.2)])
def test_full_size_adapters_learn_at_a_little_more_than_two_forwards(recipe: str, share: float, tmp_path: Path) -> None:
    config = read_config(recipe, [f"model.path={write_full_size(recipe, tmp_path / 'model')}"])
    passes = sizes_of(config).network.passes
    extra = passes.forward - 1
    assert 0 < extra < 0.03
    assert passes.learnt == pytest.approx(2 + share + 3 * extra, abs=0.01)
    assert passes.to_input == pytest.approx(2 + share + 2 * extra, abs=0.01)
    assert passes.teacher_to_input == pytest.approx(2 + share, abs=0.01)


def test_a_full_size_forward_is_what_arithmetic_by_hand_says(tmp_path: Path) -> None:
    info = inspect_pipeline(write_full_size("flux_dev_lora", tmp_path / "model"), (1024, 1024))
    told = forward_flops(info, backbone_of(info, 512))
    width, tokens = 24 * 128, 64 * 64 + 512
    assert told.attention == 57 * 2 * 2 * tokens**2 * width
    # A joint block has 4 maps of attention and 8 widths of wide layers; a single one 3 + 4 in and 5 out. Modulation and
    # embeddings are one vector an image.
    assert told.weights == pytest.approx(57 * 2 * 12 * tokens * width**2, rel=0.005)


def test_a_layer_works_on_the_tokens_that_its_name_says() -> None:
    layers = {
        "transformer_blocks.0.norm1.linear": (6, 1),
        "transformer_blocks.0.attn.add_k_proj": (1, 1),
        "transformer_blocks.0.ff.net.2": (1, 1),
        "single_transformer_blocks.0.attn.to_q": (4, 2),
    }
    image, text = 100, 10
    assert count_flops(layers, image, text) == Flops(2 * (6 + text + image + 110 * 8), 2 * 2 * 110**2 * 4)
