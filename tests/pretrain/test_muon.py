"""Muon in float32: what its updates are, and that they are those of torch's own."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from advdmd_ray.pretrain.muon import RMS, Muon, orthogonalize

SHAPES = st.sampled_from([(8, 8), (8, 24), (24, 8), (96, 384)])


def random(shape: tuple[int, ...], seed: int, count: int = 1) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


@given(SHAPES, st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_an_orthogonalized_matrix_keeps_its_directions_and_loses_its_scale(
    shape: tuple[int, int], seed: int, scale: float
) -> None:
    u, _, vh = torch.linalg.svd(random(shape, seed)[0], full_matrices=False)
    matrix = u @ torch.diag(torch.linspace(0.2, 1.0, len(vh))) @ vh
    (found,) = orthogonalize((scale * matrix)[None])
    inside = u.mT @ found @ vh.mT
    assert inside.diagonal().min() > 0.6
    assert inside.diagonal().max() < 1.3
    assert (inside - torch.diag(inside.diagonal())).abs().max() < 1e-3
    torch.testing.assert_close(found, orthogonalize(matrix[None])[0], atol=1e-4, rtol=1e-4)


@given(SHAPES, st.integers(0, 1000))
def test_every_matrix_is_orthogonalized_as_if_alone_and_transposed_alike(shape: tuple[int, int], seed: int) -> None:
    matrices = random(shape, seed, count=3)
    together = orthogonalize(matrices)
    for matrix, found in zip(matrices, together, strict=True):
        torch.testing.assert_close(found, orthogonalize(matrix[None])[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(orthogonalize(matrices.mT), together.mT, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_its_steps_are_those_of_torch_but_for_bfloat16(decay: float) -> None:
    ours = [nn.Parameter(random(shape, seed)[0]) for seed, shape in enumerate([(8, 24), (24, 8), (8, 24)])]
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    start = [parameter.detach().clone() for parameter in ours]
    mine = Muon(ours, learning_rate=0.05, weight_decay=decay)
    reference = torch.optim.Muon(theirs, lr=0.05, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            one.grad = random(one.shape, 10 * step + index)[0]
            other.grad = one.grad.clone()
        mine.step()
        reference.step()
    for before, one, other in zip(start, ours, theirs, strict=True):
        moved = (other - before).norm()
        assert (one - other).norm() < 0.03 * moved
        assert moved > 0.1


def test_an_update_has_about_the_size_of_one_of_adamw() -> None:
    parameter = nn.Parameter(torch.zeros(96, 384))
    optimizer = Muon([parameter], learning_rate=0.5, weight_decay=0.0)
    parameter.grad = 1e-3 * random((96, 384), 0)[0]
    gradient = parameter.grad.clone()
    optimizer.step()
    assert math.isclose(float(parameter.detach().square().mean().sqrt()), 0.5 * RMS, rel_tol=0.2)
    assert float((parameter.detach() * gradient).sum()) < 0


def test_only_matrices_are_taken_and_those_without_gradient_stay() -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        Muon([nn.Parameter(torch.zeros(3))], learning_rate=0.1, weight_decay=0.0)
    idle, busy = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = Muon([idle, busy], learning_rate=0.1, weight_decay=0.0)
    busy.grad = torch.ones(2, 2)
    optimizer.step()
    assert torch.equal(idle, torch.ones(2, 2))
    assert not torch.equal(busy, torch.ones(2, 2))
