"""Seeds are named by their path: the same for ever, and different for every path."""

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.diffusion import seeds
from advdmd_ray.seeding import derive_seed

paths = st.lists(st.integers(-(2**62), 2**62) | st.text(max_size=8), max_size=4)


@given(seed=st.integers(0, 2**31), path=paths)
def test_the_seed_of_a_draw_is_derived_the_same_with_and_without_torch(seed: int, path: list[int | str]) -> None:
    assert derive_seed(seed, *path) == seeds.derive_seed(seed, *path)


@given(seed=st.integers(0, 2**31), one=paths, other=paths)
def test_different_paths_give_different_seeds_of_63_bits(
    seed: int, one: list[int | str], other: list[int | str]
) -> None:
    first, second = derive_seed(seed, *one), derive_seed(seed, *other)
    assert 0 <= first < 2**63
    assert (first == second) == (one == other)


def test_a_number_and_its_spelling_are_different_names() -> None:
    assert derive_seed(0, 12) != derive_seed(0, "12")
    assert derive_seed(0, "i12") != derive_seed(0, 12)
    assert derive_seed(0, 1, 2) != derive_seed(0, 12)


def test_seeding_and_the_frontier_and_the_buffer_need_no_torch() -> None:
    modules = (
        "seeding",
        "controller.frontier",
        "controller.prompt_order",
        "stations.buffer.index",
        "stations.buffer.record_batch",
    )
    code = (
        f"import sys, {', '.join(f'advdmd_ray.{module}' for module in modules)};"
        "sys.exit(int('torch' in sys.modules or 'ray' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
