"""Where images are drawn, and in which precision."""

from pathlib import Path

import psutil
import pytest
import torch

from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.place import check_room, place_of
from advdmd_ray.models.folder import inspect_pipeline
from pipeline_folder import NETWORKS, WEIGHTS, write_pipeline

WHOLE = WEIGHTS * len(NETWORKS)


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """As many as this machine shall have."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("count", "device", "precision", "where", "half"),
    [
        (0, "auto", "auto", "cpu", False),
        (1, "auto", "auto", "cuda", True),
        (1, "cpu", "auto", "cpu", False),
        (1, "auto", "float32", "cuda", False),
        (0, "auto", "bfloat16", "cpu", True),
        (2, "cuda:1", "auto", "cuda:1", True),
    ],
)
def test_a_gpu_is_taken_if_there_is_one_and_computes_in_half_precision(
    count: int, device: str, precision: str, where: str, half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, count)
    place = place_of(device, precision)
    assert (place.device, place.half) == (torch.device(where), half)
    assert place.dtype == (torch.bfloat16 if half else torch.float32)


@pytest.mark.parametrize(
    ("count", "device", "says"),
    [
        (0, "cuda", "--device cuda: torch .* sees no CUDA device here; use another, or --device cpu"),
        (2, "cuda:2", "sees 2, cuda:0 to cuda:1"),
        (1, "gpu", "--device gpu: is none; use auto, cpu, cuda"),
        (1, "cuda:x", "--device cuda:x: is none"),
        (1, "cpu:0", "--device cpu:0: is none"),
    ],
)
def test_a_device_that_is_not_there_is_one_line(
    count: int, device: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, count)
    with pytest.raises(UserError, match=says):
        place_of(device)


def test_weights_that_do_not_fit_are_told_before_they_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, 1)
    info = inspect_pipeline(write_pipeline(tmp_path / "teacher"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (3 * WHOLE, 10**12))
    check_room(info, place_of("cuda", "bfloat16"))
    with pytest.raises(UserError, match=r"GiB in float32, and .* are free on cuda; use --precision bfloat16"):
        check_room(info, place_of("cuda", "float32"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (WHOLE, 10**12))
    with pytest.raises(UserError, match="use --device cpu"):
        check_room(info, place_of("cuda", "bfloat16"))


def test_on_the_cpu_it_is_the_host_whose_memory_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = inspect_pipeline(write_pipeline(tmp_path / "teacher"))
    free = type("Memory", (), {"available": 2 * WHOLE})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    check_room(info, place_of("cpu", "bfloat16"))
    with pytest.raises(UserError, match="are free on cpu; use --precision bfloat16"):
        check_room(info, place_of("cpu", "float32"))
