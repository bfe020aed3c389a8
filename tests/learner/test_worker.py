"""A rank's sample grid: as many images as a picture can show, and pictures that do not pile up."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.learner.gang import SoloGang
from advdmd_ray.learner.worker import LearnerWorker
from advdmd_ray.stations.prompt_table import PromptTable

TABLE = PromptTable(
    tuple(f"prompt {number}" for number in range(12)),
    Conditioning(torch.zeros(12, 1, 1), torch.arange(12.0)[:, None]),
    Conditioning(torch.zeros(1, 1, 1), torch.zeros(1, 1)),
)


@pytest.mark.parametrize(("side", "rows", "columns"), [(8, 6, 10), (1024, 2, 10), (2048, 1, 5), (8192, 1, 1)])
def test_a_grid_of_large_images_has_fewer_of_them(side: int, rows: int, columns: int, tmp_path: Path) -> None:
    asked: list[float] = []
    thinned: list[int] = []

    def sample_ema(conditioning: Conditioning, seeds: Sequence[int]) -> Tensor:
        assert len(set(seeds)) == len(seeds) == len(conditioning)
        asked.extend(conditioning.pooled[:, 0].tolist())
        return torch.zeros(len(seeds), 1, 8, 8)

    worker = LearnerWorker(
        Config(),
        SoloGang(),
        cast("Any", SimpleNamespace(version=7, sample_ema=sample_ema)),
        TABLE,
        checkpoints=tmp_path,
        grid_path=lambda version: tmp_path / f"{version}.png",
        thin_grids=thinned.append,
        pixels=(side, side),
        decode=lambda latents: latents,
        judge=None,
    )
    assert worker.grid() == str(tmp_path / "7.png")
    assert asked == [*range(columns)] * rows
    assert thinned == [Config().evaluation.keep_grids]
