"""The table of GPUs is plausible."""

import pytest

from advdmd_ray.planning.cards import CARDS, GIGA, Card


@pytest.mark.parametrize("card", CARDS.values(), ids=str)
def test_dense_peaks_have_the_ratio_of_tensor_cores_to_the_others(card: Card) -> None:
    # Per cycle and core, bfloat16 in tensor cores is 16 times float32 on Ampere's A100, 14.8 on Hopper, 2 to 4 on Ada.
    ratio = card.bfloat16 / card.float32
    bounds = {"a100": (15, 17), "h": (14, 16), "b200": (28, 32), "l4": (3.9, 4.1), "rtx4090": (1.9, 2.1)}
    least, most = next(pair for name, pair in bounds.items() if card.name.startswith(name))
    assert least <= ratio <= most
    assert 20 * GIGA < card.memory < 200 * GIGA
    assert "NVIDIA" in card.source
