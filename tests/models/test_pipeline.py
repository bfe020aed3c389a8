"""Loading pipelines."""

import shutil
import warnings
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from diffusers.utils import logging as diffusers_logging

from advdmd_ray.models.pipeline import (
    load_pipeline,
    load_transformer,
    quiet,
)
from advdmd_ray.models.sampling_settings import SamplingSettings, write_sampling


def test_loading_is_silent_and_gives_frozen_float32_networks(
    tiny_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline = load_pipeline(tiny_folder)
    assert capfd.readouterr() == ("", "")
    for network in (pipeline.transformer, pipeline.text_encoder, pipeline.text_encoder_2, pipeline.vae):
        assert not network.training
        assert all(p.dtype == torch.float32 and not p.requires_grad for p in network.parameters())


def test_the_transformer_alone_is_the_pipelines(tiny_folder: Path, tiny: StableDiffusion3Pipeline) -> None:
    alone = load_transformer(tiny_folder).state_dict()
    assert all(torch.equal(alone[name], value) for name, value in tiny.transformer.state_dict().items())


def test_stock_diffusers_says_no_more_of_a_folder_with_a_sampling_file_than_of_one_without(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "pipeline"))
    write_sampling(folder, SamplingSettings(8))
    logger = diffusers_logging.get_logger("diffusers")
    logger.addHandler(caplog.handler)
    try:
        for path in (tiny_folder, folder):
            StableDiffusion3Pipeline.from_pretrained(
                str(path), dtype=torch.float32, text_encoder_3=None, tokenizer_3=None
            )
    finally:
        logger.removeHandler(caplog.handler)
    # What it says of both is that the image codec is no AutoencoderKL.
    without, with_file = caplog.messages
    assert with_file == without
    assert "PixelCodec" in without


def test_silence_ends_where_it_began() -> None:
    before = diffusers_logging.get_verbosity()
    with quiet():
        assert diffusers_logging.get_verbosity() == diffusers_logging.log_levels["error"]
    assert diffusers_logging.get_verbosity() == before
