"""The bundled digits and their split."""

import torch
from sklearn.datasets import load_digits as bundled

from advdmd_ray.data.digits.images import load_digits
from advdmd_ray.data.digits.prompts import DIGIT_PROMPTS


def rows(images: torch.Tensor) -> list[tuple[float, ...]]:
    return sorted(tuple(row) for row in images.flatten(1).tolist())


def test_the_two_parts_together_are_the_whole_data_set() -> None:
    train, held_out = load_digits("train"), load_digits("held_out")
    assert (len(train), len(held_out)) == (1437, 360)
    pixels, _ = bundled(return_X_y=True)
    source = torch.tensor(pixels, dtype=torch.float32)
    assert rows(torch.cat([train.images, held_out.images])) == rows(source / 8 - 1)


def test_images_are_float32_in_minus_one_to_one() -> None:
    images = load_digits("train").images
    assert images.dtype == torch.float32
    assert images.min() == -1
    assert images.max() == 1


def test_both_parts_hold_every_digit_in_the_same_proportion() -> None:
    shares = [torch.bincount(load_digits(part).labels, minlength=10) / len(load_digits(part)) for part in PARTS]
    assert (shares[0] - shares[1]).abs().max() < 0.005


def test_the_split_is_the_same_every_time() -> None:
    assert torch.equal(load_digits("held_out").images, load_digits("held_out").images)
    assert load_digits("held_out").labels[:8].tolist() == load_digits("held_out").labels[:8].tolist()


def test_a_prompt_id_is_the_digit_that_the_prompt_names() -> None:
    assert len(DIGIT_PROMPTS) == 10
    assert DIGIT_PROMPTS[7] == "a handwritten seven"


PARTS = ("train", "held_out")
