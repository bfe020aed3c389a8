"""The identity image codec."""

from pathlib import Path
from typing import Any

import torch

import advdmd_ray
from advdmd_ray.models.codec import PixelCodec


def test_decoding_an_encoded_image_gives_the_image() -> None:
    codec: Any = PixelCodec()
    image = torch.randn(2, 1, 8, 8)
    latent = codec.encode(image).latent_dist
    assert torch.equal(latent.sample(), image)
    assert torch.equal(latent.mode(), image)
    assert torch.equal(codec.decode(image).sample, image)
    assert torch.equal(codec.decode(image, return_dict=False)[0], image)
    assert torch.equal(codec.encode(image, return_dict=False)[0].mode(), image)


def test_a_saved_codec_keeps_its_configuration(tmp_path: Path) -> None:
    PixelCodec(latent_channels=3).save_pretrained(str(tmp_path))
    loaded: Any = PixelCodec.from_pretrained(str(tmp_path))
    assert loaded.config.latent_channels == 3
    assert len(loaded.config.block_out_channels) == 1
    assert (loaded.config.scaling_factor, loaded.config.shift_factor) == (1.0, 0.0)


def test_the_codec_is_offered_by_the_package() -> None:
    assert advdmd_ray.PixelCodec is PixelCodec
