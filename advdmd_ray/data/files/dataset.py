"""The data set of `data.source=files`: found, encoded where that is still to do, and opened."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.data.files.encoding import ArrowLatents, Fitting, Skipped, cache_folder, encode_shards
from advdmd_ray.data.files.shards import find_shards
from advdmd_ray.errors import UserError
from advdmd_ray.files import files_digest
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.pipeline import image_encoder, load_pipeline


def files_data(config: Config, progress: Callable[[int, int], None] = lambda _done, _of: None) -> ArrowLatents:
    """The latents of `data.path`; what is not encoded yet is encoded now.

    Raises:
        UserError: if there are no images, or too many that cannot be used.
    """
    data, info = config.data, inspect_pipeline(config.model.path, config.model.pixels)
    shards = find_shards(data.path or "", image_column=data.image_column, caption_column=data.caption_column)
    fitting = Fitting(*info.pixels, data.most_upscaling)
    folder = cache_folder(config.latents, files_digest(info.files("vae")), fitting)
    skipped = Skipped(data.most_skipped)

    @functools.cache
    def encoder() -> Callable[[Tensor], Tensor]:  # loaded only if a shard is not encoded yet
        device = "cuda" if torch.cuda.is_available() else "cpu"  # before any worker is up
        return image_encoder(load_pipeline(config.model.path, parts="codec").to(device))

    shape = info.latent.shape
    files = encode_shards(shards, folder, fitting, encoder, shape, skipped, progress)
    latents = ArrowLatents(files, shape)
    if not len(latents):
        raise UserError(f"data.path {data.path}: no image can be used: {skipped.named()}")
    return latents
