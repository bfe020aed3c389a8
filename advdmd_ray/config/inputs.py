"""What a run works on: the teacher, the prompts and the real images."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from advdmd_ray.config.base import Count, Fixed, Free, OfStudent, PixelSide, Place, Positive, Section
from advdmd_ray.config.texts import PathText

Attention = Literal[
    "native",
    "_native_cudnn",
    "_native_efficient",
    "_native_flash",
    "_native_math",
    "flex",
    "flash",
    "flash_varlen",
    "_flash_3",
    "_flash_varlen_3",
    "xformers",
]
"""Those that gradients go through and that need no code from the network."""


class ModelSection(Section):
    """The teacher pipeline and how it is guided."""

    path: OfStudent[PathText] = Field(
        default="builtin:digits",
        min_length=1,
        description="A diffusers folder, builtin:NAME, or owner/name on the Hugging Face hub, downloaded.",
    )
    max_sequence_length: OfStudent[int] = Field(
        default=8,
        ge=1,
        le=1024,
        description="Most text tokens, as in sampling.json; of SD3 pipelines the length of the T5 slot.",
    )
    embeddings: Place[PathText | None] = Field(
        default=None,
        min_length=1,
        description="Folder that all nodes see and that keeps encoded texts: each is encoded once for all runs, and "
        "workers map the rows they need; default: texts are encoded whenever a run starts, and every node has a copy "
        "of all in its object store.",
    )
    precision: OfStudent[Literal["float32", "bfloat16"]] = Field(
        default="float32",
        description="bfloat16: of matrix products, and of a base that adapters are learned on. Solver, latents, losses "
        "and what is learned are float32.",
    )
    quantization: OfStudent[Literal["int8"] | None] = Field(
        default=None,
        description="int8: blocks of the frozen base under adapters keep their linear layers in 8 bits a weight, by "
        "torchao (advdmd-ray[quantization]): about half of bfloat16's memory. All roles share that base; adapters are "
        "float32, and exports merge them into the folder's own weights. Default: as model.precision says.",
    )
    attention: Free[Attention | None] = Field(
        default=None,
        description="Attention backend by diffusers' name, of families whose attention diffusers dispatches (not SD3); "
        "default: torch's own choice. Of those with kernels outside torch few take a text mask, which Qwen-Image has "
        "where the prompts of one call differ in length: with micro_batch=1 never.",
    )
    height: OfStudent[PixelSide | None] = Field(
        default=None, description="Pixels of an image; default: the model's own size."
    )
    width: OfStudent[PixelSide | None] = Field(default=None, description="As model.height; give both or neither.")
    guidance: OfStudent[float] = Field(
        default=1.0,
        ge=1,
        le=20,
        description="Teacher CFG scale w in v_u + w (v_c - v_u), or what a network that takes it as input is given.",
    )

    negative_prompt: OfStudent[str | None] = Field(
        default=None,
        description="What the teacher is guided away from; default: the empty prompt of its family. Networks that take "
        "the guidance as an input have none, and SANA's is not read.",
    )

    @property
    def pixels(self) -> tuple[int, int] | None:
        """Height and width of an image; None for the model's own."""
        return None if self.height is None or self.width is None else (self.height, self.width)

    @model_validator(mode="after")
    def _both_sides(self) -> Self:
        if (self.height is None) != (self.width is None):
            raise ValueError(f"give height and width or neither, got {self.height} and {self.width}")
        return self


class DataSection(Section):
    """Real images for the discriminator and prompts for the rollouts."""

    source: Fixed[str] = Field(
        default="digits",
        min_length=1,
        description="Where prompts and real images come from: digits; shapes; files: data.path; teacher_samples: the "
        "guided teacher's own, drawn by the actors for data.prompts before they train; or package.module:Class.",
    )
    path: Fixed[PathText | None] = Field(
        default=None,
        min_length=1,
        description="files: a folder of captioned images, or Parquet files, or WebDataset tars.",
    )
    image_column: Fixed[str] = Field(
        default="image", min_length=1, description="files: Parquet column of encoded images."
    )
    caption_column: Fixed[str] = Field(
        default="text",
        min_length=1,
        description="files: Parquet column of captions; in tables and JSON a name beside text, caption and prompt.",
    )
    cache: Place[PathText | None] = Field(
        default=None,
        min_length=1,
        description="files, teacher_samples: folder of latents; default: run.output/latents.",
    )
    most_skipped: Free[Count] = Field(
        default=100,
        description="files: images that may be unreadable, too small or without a caption before it stops; "
        "docs/guides/data.md.",
    )
    most_upscaling: Fixed[float] = Field(
        default=1.5, ge=1, description="files: an image that must grow by more than this factor is left out."
    )
    buckets: OfStudent[tuple[tuple[PixelSide, PixelSide], ...]] = Field(
        default=(),
        max_length=64,
        description="files, teacher_samples: sizes as [[height, width], ...] in pixels; a cycle is of one of them. A "
        "user's image is cut to the one of nearest aspect ratio, the teacher draws each; default: all images are of "
        "model.height and model.width.",
    )
    bucket_weights: Fixed[tuple[Annotated[float, Field(gt=0)], ...]] = Field(
        default=(),
        description="How often a cycle is of each of data.buckets, in any unit; default: as often as images are.",
    )
    prompts: Fixed[PathText | None] = Field(
        default=None, description="Text file of prompts, one a line; default: the data's own."
    )
    teacher_samples: Fixed[Positive] = Field(default=4, description="teacher_samples: images of each prompt and size.")
    teacher_steps: Fixed[Positive] = Field(
        default=40, description="teacher_samples: steps of each, of the teacher's Euler."
    )
    licence: Free[str | None] = Field(
        default=None, min_length=1, description="Of images and captions, as the card of an exported student says it."
    )
    prompt_rows: Fixed[Positive] = Field(
        default=960, description="shapes: rows of the training prompt table; each skill has its share of them."
    )
    images_per_prompt: Fixed[int] = Field(default=16, ge=2, description="shapes: real images drawn for each row.")
    held_out: Fixed[bool] = Field(
        default=False,
        description="shapes: prompts and real images have the combinations too that no teacher of the shapes was "
        "shown, as a user's own images go beyond a model. The judge's held-out prompts are then trained on.",
    )

    @model_validator(mode="after")
    def _buckets_differ(self) -> Self:
        again = [size for place, size in enumerate(self.buckets) if size in self.buckets[:place]]
        if again:
            raise ValueError(f"buckets names {again[0][0]} x {again[0][1]} twice; remove one")
        if self.bucket_weights and len(self.bucket_weights) != len(self.buckets):
            raise ValueError(
                f"bucket_weights needs one number for each of buckets, got {len(self.bucket_weights)} and "
                f"{len(self.buckets)}; change one of them"
            )
        return self


class LoraSection(Section):
    """Low-rank adapters in place of whole networks: what learns, travels and is averaged are adapters of one base."""

    rank: OfStudent[Count] = Field(default=0, description="Of the adapters; 0: whole networks learn.")
    alpha: OfStudent[float | None] = Field(
        default=None, gt=0, description="Adapters count alpha / rank; default: the rank."
    )
    targets: OfStudent[tuple[str, ...]] = Field(
        default=("to_q", "to_k", "to_v", "to_out.0"),
        min_length=1,
        description="Linear layers of the transformer that have an adapter, by the ends of their names. attention: "
        "those of attention in all blocks; all-linear: all of all blocks. They are looked up in the files' headers "
        "before anything is loaded. A text is taken apart at its commas.",
    )
    merge: Free[bool | None] = Field(
        default=None,
        description="Rollout actors and reward workers add adapters to the weights when they load them: faster, for a "
        "second copy of the layers that have one. false: they stay beside their layers, as in the learner. Default: "
        "where model.precision is float32; in bfloat16 it is for latents of thousands of numbers (ALGORITHM.md, 1).",
    )

    @field_validator("targets", mode="before")
    @classmethod
    def _of_a_text(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @property
    def scale_alpha(self) -> float:
        """Alpha, resolved."""
        return float(self.rank) if self.alpha is None else self.alpha
