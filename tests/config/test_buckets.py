"""`data.buckets`: sizes that differ, weights for each, and the one size that `model.height` and `model.width` name."""

from typing import Any

import pytest
from pydantic import ValidationError

from advdmd_ray.config import Config
from advdmd_ray.data.registry import source_of
from advdmd_ray.errors import UserError

SIZES = [[512, 768], [768, 512]]


def read(model: dict[str, Any] | None = None, evaluation: dict[str, Any] | None = None, **data: Any) -> Config:
    return Config.model_validate({"model": model or {}, "evaluation": evaluation or {}, "data": data})


def test_without_buckets_images_are_of_the_one_size_that_the_model_section_names() -> None:
    assert (Config().sizes, Config().main_size) == ((None,), None)
    one = read({"height": 64, "width": 32})
    assert (one.sizes, one.main_size) == (((64, 32),), (64, 32))


def test_the_first_bucket_is_the_main_size_unless_the_model_section_names_another() -> None:
    assert read(buckets=SIZES).sizes == ((512, 768), (768, 512))
    assert read(buckets=SIZES).main_size == (512, 768)
    assert read({"height": 768, "width": 512}, buckets=SIZES).main_size == (768, 512)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"buckets": [*SIZES, [512, 768]]}, "buckets names 512 x 768 twice; remove one"),
        ({"buckets": SIZES, "bucket_weights": [1]}, "one number for each of buckets, got 1 and 2"),
        ({"bucket_weights": [1]}, "one number for each of buckets, got 1 and 0"),
        ({"buckets": SIZES, "bucket_weights": [1, 0]}, "greater than 0"),
        ({"buckets": [[512]]}, "buckets"),
        ({"model": {"height": 512, "width": 512}, "buckets": SIZES}, "must be one of data.buckets, got 512 x 512"),
        (
            {"evaluation": {"judge_samples": 20}, "buckets": [[64, 64 + 8 * number] for number in range(11)]},
            "evaluation.judge_samples = 20 has no two images for each of 11 data.buckets; raise it to 22",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        read(**sections)


def test_a_source_of_images_of_one_size_takes_no_buckets() -> None:
    with pytest.raises(UserError, match=r"data\.source=digits has images of one size, and data\.buckets names 2; set"):
        source_of(read(buckets=SIZES))
