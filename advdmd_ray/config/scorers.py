"""Scorers of images beside the judge, and the validation prompts whose images they look at."""

from collections.abc import Mapping
from typing import Self

from pydantic import Field, field_validator, model_validator

from advdmd_ray.config.base import Free, Place, Positive, Section
from advdmd_ray.config.texts import PathText

SHIPPED = ("clip_score", "pick_score", "hpsv2", "image_reward")
"""Scorers that have a name of their own; each has a setting of that name for the folder of its weights."""


def scorer_word(name: str) -> str:
    """What a scorer is called in series, tables and pictures: its own name, without the module that it is from."""
    return name.rpartition(":")[2]


class ScorersSection(Section):
    """Scorers that look at images and their prompts, and from which nothing learns. Nothing is downloaded."""

    names: Free[tuple[str, ...]] = Field(
        default=(),
        description="Those that score the images of the validation prompts and the judge's: clip_score, pick_score, "
        "hpsv2, image_reward, or a function of one's own as package.module:function (docs/guides/rewards.md).",
    )
    alarm: Free[str | None] = Field(
        default=None,
        min_length=1,
        description="The one of them that the alarm for reward hacking watches; default: the judge's headline.",
    )
    clip_score: Place[PathText | None] = Field(
        default=None, description="Folder of a CLIP as transformers saves it, such as openai/clip-vit-large-patch14's."
    )
    pick_score: Place[PathText | None] = Field(
        default=None, description="Folder of PickScore, a CLIP too: that of yuvalkirstain/PickScore_v1."
    )
    hpsv2: Place[PathText | None] = Field(
        default=None,
        description="Folder of HPSv2, a CLIP by open_clip's or transformers' names (docs/guides/rewards.md).",
    )
    image_reward: Place[PathText | None] = Field(
        default=None, description="Folder of ImageReward (docs/guides/rewards.md)."
    )

    @property
    def folders(self) -> Mapping[str, str | None]:
        """Where the weights of each of `SHIPPED` are."""
        return {name: self.model_dump()[name] for name in SHIPPED}

    @field_validator("names")
    @classmethod
    def _names_differ(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        words = [scorer_word(name) for name in names]
        if twice := next((word for word in words if words.count(word) > 1), None):
            raise ValueError(f"has two scorers that are called {twice!r} in series and tables; rename one of them")
        return names

    @model_validator(mode="after")
    def _alarm_is_asked(self) -> Self:
        if self.alarm is not None and self.alarm not in self.names:
            raise ValueError(f"alarm = {self.alarm!r} is none of names, which are {list(self.names)}; add it to them")
        return self


class ValidationSection(Section):
    """Prompts that the student draws while it learns, always from the same noise."""

    prompts: Free[PathText | None] = Field(
        default=None, description="Text file of them, one a line; default: no validation."
    )
    cycles: Free[Positive] = Field(default=50, description="Cycles between two validations.")
    images: Free[int] = Field(
        default=4, ge=1, le=16, description="Images of each prompt, whose seeds hang on run.seed alone."
    )
