"""The choice of an attention backend."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn

from advdmd_ray.config import Config
from advdmd_ray.diffusion.denoiser import Conditioning, Denoiser
from advdmd_ray.errors import UserError
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.text import encode_prompts
from advdmd_ray.runs.parts.networks import build_denoiser


def _config(folder: Path, attention: str | None) -> Config:
    return Config.model_validate({"model": {"path": str(folder), "max_sequence_length": 300, "attention": attention}})


def _velocity(folder: Path, denoiser: Denoiser, prompts: Conditioning) -> torch.Tensor:
    shape = inspect_pipeline(folder, (32, 64)).latent.shape
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return denoiser(x, torch.tensor([0.3, 0.8]), prompts)


def test_the_backend_is_that_of_the_configuration_and_computes_the_same(
    family: str, family_folder: Path, family_pipeline: Any
) -> None:
    config = _config(family_folder, "_native_math")
    if family in {"sd3", "sana"}:
        with pytest.raises(UserError, match=r"(SD3|Sana)Transformer2DModel always uses torch's own attention; leave"):
            build_denoiser(config)
        return
    chosen = build_denoiser(config)
    used = {part.processor._attention_backend for part in chosen.transformer.modules() if hasattr(part, "processor")}
    assert used == {"_native_math"}
    prompts = encode_prompts(family_pipeline, ["a red fox above the boat", "a fox"], 300)
    whole = _velocity(family_folder, build_denoiser(_config(family_folder, None)), prompts)
    torch.testing.assert_close(_velocity(family_folder, chosen, prompts), whole, rtol=0, atol=1e-5)


@pytest.fixture
def flux(folder_of: Callable[[str], Path]) -> Path:
    return folder_of("flux")


def test_the_choice_is_of_one_network_and_not_of_the_process(flux: Path) -> None:
    build_denoiser(_config(flux, "flex"))
    untouched = build_denoiser(_config(flux, None))
    used = {part.processor._attention_backend for part in untouched.transformer.modules() if hasattr(part, "processor")}
    assert used == {None}
    q = torch.randn(1, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    heads = q.transpose(1, 2)
    own = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2)
    assert torch.equal(dispatch_attention_fn(q, q, q), own)


def test_a_backend_that_is_not_installed_is_refused_in_one_line(flux: Path) -> None:
    with pytest.raises(UserError, match=r"model\.attention=flash: .*install `flash-attn.*; or leave") as refusal:
        build_denoiser(_config(flux, "flash"))
    assert "\n" not in str(refusal.value)
