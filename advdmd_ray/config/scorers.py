"""Scorers of images for their prompts."""

from collections.abc import Mapping

from pydantic import Field

from advdmd_ray.config.base import Place, Section
from advdmd_ray.config.texts import PathText

SHIPPED = ("clip_score", "pick_score", "hpsv2")
"""Scorers that have a name of their own; each has a setting of that name for the folder of its weights."""


def scorer_word(name: str) -> str:
    """What a scorer is called in series, tables and pictures: its own name, without the module that it is from."""
    return name.rpartition(":")[2]


class ScorersSection(Section):
    """Where the weights of the scorers that ship are. Nothing is downloaded."""

    clip_score: Place[PathText | None] = Field(
        default=None, description="Folder of a CLIP as transformers saves it, such as openai/clip-vit-large-patch14's."
    )
    pick_score: Place[PathText | None] = Field(
        default=None, description="Folder of PickScore, a CLIP too: that of yuvalkirstain/PickScore_v1."
    )
    hpsv2: Place[PathText | None] = Field(
        default=None, description="Folder of HPSv2 as transformers' CLIP has it (docs/guides/rewards.md)."
    )

    @property
    def folders(self) -> Mapping[str, str | None]:
        """Where the weights of each of `SHIPPED` are."""
        return {"clip_score": self.clip_score, "pick_score": self.pick_score, "hpsv2": self.hpsv2}
