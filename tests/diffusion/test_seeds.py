"""Randomness belongs to the work."""

import subprocess
import sys

import torch
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.diffusion.seeds import derive_seed, group_noise, noise, uniform

SEEDS = st.integers(0, 2**63 - 1)
PATHS = st.lists(st.integers(-(2**70), 2**70) | st.text(max_size=8), max_size=4)


@given(SEEDS, PATHS)
def test_a_seed_has_63_bits(run_seed: int, path: list[int | str]) -> None:
    assert 0 <= derive_seed(run_seed, *path) < 2**63


@given(st.lists(st.tuples(SEEDS, PATHS.map(tuple)), min_size=2, max_size=2, unique=True))
def test_different_paths_have_different_seeds(work: list[tuple[int, tuple[int | str, ...]]]) -> None:
    (first, path), (second, other) = work
    assert derive_seed(first, *path) != derive_seed(second, *other)


def test_paths_that_read_alike_differ() -> None:
    spelled = [(1, 2), ("1", 2), ("12",), (12,), ("1", "2"), (1, 2, ""), ("i1", 2)]
    assert len({derive_seed(0, *path) for path in spelled}) == len(spelled)


def test_a_seed_is_the_same_in_another_process() -> None:
    code = "from advdmd_ray.diffusion.seeds import derive_seed; print(derive_seed(7, 'group', 3))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(other.stdout) == derive_seed(7, "group", 3) == 1342384347024291846


@given(st.permutations(range(5)), st.integers(1, 4), st.integers(0, 9))
def test_a_row_of_noise_depends_on_its_seed_only(order: list[int], split: int, step: int) -> None:
    seeds = [derive_seed(0, "sample", n) for n in range(5)]
    whole = group_noise((2, 3, 3), seeds, "step", step)
    shuffled = group_noise((2, 3, 3), [seeds[i] for i in order], "step", step)
    assert torch.equal(shuffled, whole[list(order)])
    parts = [group_noise((2, 3, 3), part, "step", step) for part in (seeds[:split], seeds[split:])]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(noise((2, 3, 3), seeds[0], "step", step), whole[0])


def test_drawing_does_not_touch_the_global_generator() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    noise((4,), 0)
    uniform((4,), 0)
    assert torch.equal(torch.rand(4), expected)


def test_noise_is_standard_normal_and_uniform_is_uniform() -> None:
    normal, flat = noise((200_000,), 1, "n"), uniform((200_000,), 1, "u")
    assert normal.dtype == flat.dtype == torch.float32
    # Bounds are five standard errors of each moment.
    assert abs(float(normal.mean())) < 5 / 200_000**0.5
    assert abs(float(normal.square().mean()) - 1) < 5 * (2 / 200_000) ** 0.5
    assert abs(float(flat.mean()) - 0.5) < 5 * (1 / 12 / 200_000) ** 0.5
    assert 0 <= float(flat.min()) <= float(flat.max()) < 1


def test_steps_of_one_sample_are_independent() -> None:
    first, second = (noise((50_000,), 1, "step", k) for k in (0, 1))
    assert abs(float((first * second).mean())) < 5 / 50_000**0.5
