"""Pipeline folders with the headers of full-size models and sparse files in place of their weights."""

from pathlib import Path

from benchmarks.headers import write_headers
from benchmarks.models import FULL, PLANNED

# The published number of weights of each recipe's transformer; of SD3 also its table of positions, which is in the file
# and does not learn.
PUBLISHED: dict[str, float] = {
    "sd3_medium": 2.03e9 + 192**2 * 1536,
    "sd35_medium_lora": 2.24e9 + 384**2 * 1536,
    "sd35_large_lora": 8.06e9 + 192**2 * 2432,
    "qwen_image_lora_2step": 20.4e9,
    "flux_dev_lora": 11.9e9,
    "flux2_klein_lora": 3.88e9,
    "sana_lora": 1.60e9,
    "krea2_lora": 12.9e9,
}
MODELS = {model.name: model for model in (*FULL, *PLANNED) if model.name == model.recipe}


def write_full_size(recipe: str, folder: Path) -> Path:
    """Write the folder of a recipe's model; its files take no room."""
    return write_headers(MODELS[recipe], folder)
