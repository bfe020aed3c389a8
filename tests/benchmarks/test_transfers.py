"""Every contestant brings the same bytes down and up again, and those are counted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from advdmd_ray.stations.records import TrajectoryGroup
from benchmarks import transfers
from benchmarks.host.rows.buffer import made_group
from benchmarks.rollouts import OURS
from benchmarks.transfers import LIMIT, PINNED, PLAIN, moved_bytes, ways_of

CPU = torch.device("cpu")
SAMPLES, STEPS, LATENT = 3, 4, (2, 4, 4)


def a_group() -> TrajectoryGroup:
    """Random values."""
    return made_group(SAMPLES, STEPS, LATENT)


def test_every_way_ends_with_the_latents_and_means_that_began_it() -> None:
    group = a_group()
    ways = ways_of(group, CPU)
    assert set(ways) == {OURS, PINNED, PLAIN, LIMIT}
    for name, way in ways.items():
        latents, means = way()
        assert torch.equal(latents, torch.from_numpy(group.latents)), name
        assert torch.equal(means, torch.from_numpy(group.means)), name


def test_the_bytes_are_those_of_latents_and_means_down_and_up() -> None:
    assert moved_bytes(a_group()) == 2 * SAMPLES * (STEPS + 1 + STEPS - 1) * 2 * 4 * 4 * 4


def test_our_way_goes_through_an_arrow_batch_that_refuses_what_is_not_finite() -> None:
    group = a_group()
    latents = group.latents.copy()
    latents[0, 0, 0, 0, 0] = np.nan
    ways = ways_of(replace(group, latents=latents), CPU)
    for name in (OURS, PINNED):
        with pytest.raises(ValueError, match="latents: contains NaN"):
            ways[name]()
    assert len(ways[PLAIN]()) == 2


def test_our_way_comes_down_at_once_and_up_as_its_name_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The branch of a GPU: what the package's own transfers are asked for."""
    asked: list[str] = []

    def down(*tensors: Tensor) -> list[Tensor]:
        asked.append(f"down {len(tensors)}")
        return list(tensors)

    def up(tensor: Tensor, device: torch.device) -> Tensor:
        asked.append(f"up to {device}")
        return tensor

    monkeypatch.setattr(transfers, "to_host", down)
    monkeypatch.setattr(transfers, "to_device", up)
    ways = ways_of(a_group(), CPU)
    ways[OURS]()
    assert asked == ["down 2"]
    ways[PINNED]()
    assert asked == ["down 2", "down 2", "up to cpu", "up to cpu"]
