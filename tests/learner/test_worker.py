"""A rank as a worker: grids of as many images as a picture can show, and checkpoints that rank 0 alone writes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.errors import GroupMismatchError
from advdmd_ray.evaluation.pictures.sheet import read_sheet
from advdmd_ray.learner.checkpoint import open_checkpoint, saved_steps
from advdmd_ray.learner.gang import Gang, SoloGang
from advdmd_ray.learner.outcome import CheckpointOutcome
from advdmd_ray.learner.tensor_file import TensorStream
from advdmd_ray.learner.worker import LearnerWorker
from advdmd_ray.stations.buffer.record_batch import encode_group, encode_scores
from advdmd_ray.stations.prompt_table import PromptTable
from small_parts import Judge, Mixer, infos_of, scored_groups

TABLE = PromptTable(
    tuple(f"prompt {number}" for number in range(12)),
    Conditioning(torch.zeros(12, 1, 1), torch.arange(12.0)[:, None]),
    Conditioning(torch.zeros(1, 1, 1), torch.zeros(1, 1)),
)


@pytest.mark.parametrize(("side", "rows", "columns"), [(8, 6, 10), (1024, 2, 10), (2048, 1, 5), (8192, 1, 1)])
def test_a_grid_of_large_images_has_fewer_of_them(side: int, rows: int, columns: int, tmp_path: Path) -> None:
    asked: list[float] = []
    thinned: list[int] = []

    def sample_ema(conditioning: Conditioning, seeds: Sequence[int], size: int) -> Tensor:
        assert size == 0
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
        pixels=[(side, side)],
        decode=lambda latents: latents,
        judge=None,
    )
    assert worker.grid() == str(tmp_path / "7.png")
    assert asked == [*range(columns)] * rows
    assert thinned == [Config().evaluation.keep_grids]


def test_of_several_sizes_each_column_of_a_grid_has_the_next_in_a_tile_that_fits_all(tmp_path: Path) -> None:
    sizes = [(4, 8), (8, 4), (6, 6)]

    def sample_ema(conditioning: Conditioning, seeds: Sequence[int], size: int) -> Tensor:
        assert len(seeds) == len(conditioning)
        assert (conditioning.pooled[:, 0] % len(sizes) == size).all()
        return torch.full((len(seeds), 1, *sizes[size]), -1.0)

    worker = LearnerWorker(
        Config(),
        SoloGang(),
        cast("Any", SimpleNamespace(version=7, sample_ema=sample_ema)),
        TABLE,
        checkpoints=tmp_path,
        grid_path=lambda version: tmp_path / f"{version}.png",
        thin_grids=lambda _: None,
        pixels=sizes,
        decode=lambda latents: latents,
        judge=None,
    )
    picture = Path(worker.grid())
    sheet = read_sheet(picture)
    assert sheet is not None
    assert (sheet.height, sheet.width, sheet.enlarged) == (80, 80, 10)
    with Image.open(picture) as board:
        tiles = [np.asarray(board.crop(box)) for box in sheet.boxes(sheet.rows[0])]
    for column, tile in enumerate(tiles[:10]):
        height, width = sizes[column % 3]
        assert (tile == 0).all(axis=2).sum() == height * width * 100
        assert (tile[40 - 5 * height : 40 + 5 * height, 40 - 5 * width : 40 + 5 * width] == 0).all()


def test_a_grid_that_the_disk_refuses_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    learner = SimpleNamespace(version=7, sample_ema=lambda _, seeds, __: torch.zeros(len(seeds), 1, 8, 8))
    worker = LearnerWorker(
        Config(),
        SoloGang(),
        cast("Any", learner),
        TABLE,
        checkpoints=tmp_path,
        grid_path=lambda version: tmp_path / "file" / f"{version}.png",
        thin_grids=lambda _: None,
        pixels=[(8, 8)],
        decode=lambda latents: latents,
        judge=None,
    )
    assert worker.grid() == ""
    assert f"{tmp_path}/file/7.png: no grid of cycle 7" in caplog.text


class Streams:
    """Stands for a learner whose tensors are gathered from all ranks: counts how many of them were."""

    version = 3

    def __init__(self) -> None:
        self.gathered = 0

    def _gather(self) -> Iterator[tuple[str, Tensor]]:
        for name in ("a", "b"):
            self.gathered += 1
            yield name, torch.zeros(2)

    def tensors(self) -> dict[str, TensorStream]:
        layout = {name: (torch.float32, torch.Size([2])) for name in ("a", "b")}
        return {stem: TensorStream(layout, self._gather()) for stem in ("student", "student_optimizer")}

    def facts(self) -> dict[str, Any]:
        return {"version": self.version}


class Other(SoloGang):
    """Rank 1 of two."""

    rank, size = 1, 2


def _saving(learner: Streams, gang: Gang, checkpoints: Path) -> LearnerWorker:
    return LearnerWorker(
        Config(),
        gang,
        cast("Any", learner),
        TABLE,
        checkpoints=checkpoints,
        grid_path=lambda version: checkpoints / f"{version}.png",
        thin_grids=lambda _: None,
        pixels=[(8, 8)],
        decode=None,
        judge=None,
    )


def test_another_rank_than_0_gathers_everything_and_writes_nothing(tmp_path: Path) -> None:
    learner = Streams()
    assert _saving(learner, Other(), tmp_path).checkpoint({"controller": 1}) == CheckpointOutcome()
    assert learner.gathered == 4
    assert list(tmp_path.iterdir()) == []


def test_the_checkpoint_that_the_controller_calls_good_is_spared(tmp_path: Path) -> None:
    learner, keep = Streams(), Config().learner.keep_checkpoints
    for learner.version in range(1, keep + 3):
        _saving(learner, SoloGang(), tmp_path).checkpoint({"last_good": 1})
    assert [*saved_steps(tmp_path)] == [1, *range(3, keep + 3)]


def test_rank_0_gathers_everything_even_if_the_disk_refuses(tmp_path: Path) -> None:
    learner = Streams()
    outcome = _saving(learner, SoloGang(), tmp_path).checkpoint({"next": 1})
    assert outcome.refused == ""
    assert open_checkpoint(Path(outcome.path)).facts["controller"] == {"next": 1}
    assert learner.gathered == 4
    (tmp_path / "file").touch()
    outcome = _saving(learner, SoloGang(), tmp_path / "file").checkpoint({})
    assert outcome.path == ""
    assert "could not be saved" in outcome.refused
    assert learner.gathered == 8  # or the other ranks would wait for it until their deadline


@pytest.mark.parametrize("name", ["ordinal", "prompt_id", "seed", "policy_version", "reward_version"])
def test_a_rank_trains_on_no_other_groups_than_its_share_of_the_cycle(name: str, tmp_path: Path) -> None:
    groups = scored_groups(Mixer(1), Judge(2))
    infos = infos_of(groups)
    rank = _saving(Streams(), Other(), tmp_path)
    rank.hold([(encode_group(each.group), encode_scores(each)) for each in groups[1::2]])
    infos[3] = replace(infos[3], **{name: getattr(infos[3], name) + 1})
    with pytest.raises(GroupMismatchError, match=rf"bytes of ordinal \d are those of another group: {name} \d+, not"):
        rank.cycle(infos)


def test_a_rank_that_holds_too_few_groups_trains_on_none(tmp_path: Path) -> None:
    groups = scored_groups(Mixer(1), Judge(2))
    with pytest.raises(GroupMismatchError, match="a cycle of 4 groups came to a rank that holds 0"):
        _saving(Streams(), SoloGang(), tmp_path).cycle(infos_of(groups))
