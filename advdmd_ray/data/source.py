"""What a data source offers: prompts, real images, their judge, and what is made or refused before a run.

Nothing here imports torch, and no source does before it is asked for images or a judge: pre-flight answers at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from advdmd_ray.config import Config
from advdmd_ray.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from advdmd_ray.data.real import RealImages
    from advdmd_ray.data.recipe import TeacherRecipe
    from advdmd_ray.diffusion.denoiser import Denoiser
    from advdmd_ray.evaluation.judges.contract import Judge
    from advdmd_ray.stations.prompt_table import PromptRows
    from advdmd_ray.stations.reward import Oracle

Progress = Callable[[int, int], None]
"""Told how many are done, of how many."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What workers have to make images with.

    Attributes:
        teacher: Guided as the judged teacher is.
        conditioning: The run's prompts, encoded, row by row.
        decode: From latents to images in [-1, 1].
    """

    teacher: "Denoiser"
    conditioning: "PromptRows"
    decode: Callable[["Tensor"], "Tensor"]


class Shards(Protocol):
    """Images that workers make, shard by shard: plain data that travels to them."""

    @property
    def images(self) -> int:
        """How many there are to be."""
        ...

    def missing(self) -> list[int]:
        """The shards that are not there yet."""
        ...

    def rows(self, shard: int) -> range:
        """The images of a shard."""
        ...

    def make(self, shard: int, tools: Tools) -> int:
        """Makes a shard, as a whole or not at all, and returns the number of its images."""
        ...


@dataclass(frozen=True, slots=True)
class Encoded:
    """What became of a shard's images.

    Attributes:
        images: Number of those that were encoded now.
        skipped: Names of others that cannot be used, and why.
    """

    images: int
    skipped: Sequence[tuple[str, str]] = ()


class EncodingTask(Protocol):
    """Images on disk that a worker encodes: plain data that travels to it."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    def encode(self, codec: Callable[["Tensor"], "Tensor"], threads: int = 1) -> Encoded:
        """Encodes them, as a whole or not at all, with so many threads that decode."""
        ...


class Source(ABC):
    """The prompts and real images of one configuration.

    The constructor refuses settings, `check` what is on disk.

    Args:
        config: The whole configuration.

    Attributes:
        judge_revision: Counted up whenever the judge judges the same images otherwise: a comparison never mixes both.
        reads_path: Whether it needs `data.path`; one that does not refuses it.
        takes_buckets: Whether its images can be of several sizes; one whose cannot refuses `data.buckets`.

    Raises:
        UserError: for settings that contradict the source.
    """

    judge_revision: ClassVar[int] = 1
    reads_path: ClassVar[bool] = False
    takes_buckets: ClassVar[bool] = False

    def __init__(self, config: Config) -> None:
        self.config = config
        name, path = config.data.source, config.data.path
        if self.reads_path and path is None:
            raise UserError(
                f"data.source={name} needs data.path: a folder of captioned images, or Parquet files, or "
                "WebDataset tars"
            )
        if path is not None and not self.reads_path:
            raise UserError(
                f"data.source={name} reads no data.path, got {path}; set data.source=files or data.path=null"
            )
        if config.data.buckets and not self.takes_buckets:
            raise UserError(
                f"data.source={name} has images of one size, and data.buckets names {len(config.data.buckets)}; set "
                "data.source=files or teacher_samples, or data.buckets=[]"
            )
        if config.asks_oracle and type(self).oracle is Source.oracle:
            key = "reward.kind=oracle" if config.reward.kind == "oracle" else "reward.oracle_agreement"
            raise UserError(
                f"{key} needs data.source=shapes, whose images can be checked, got {name}; set "
                "reward.kind=discriminator and reward.oracle_agreement=false"
            )

    @abstractmethod
    def prompts(self) -> tuple[str, ...]:
        """The prompts that rollouts draw from, by prompt id; one may stand there more than once.

        Raises:
            UserError: if a file of them cannot be read, or one of them has no real image.
        """

    def captions(self) -> tuple[str, ...]:
        """Texts of real images that may not be among the prompts, each once."""
        return ()

    def most_texts(self) -> int | None:
        """How many texts prompts and captions are at most, told without reading an image; None: not before that.

        Raises:
            UserError: as `prompts`.
        """
        return len(set(self.prompts()) | set(self.captions()))

    @abstractmethod
    def real_images(self, texts: tuple[str, ...]) -> "RealImages":
        """Real latents.

        Args:
            texts: The run's prompt table: the prompts, and behind them the captions that are not among them.
        """

    def bucket_images(self) -> tuple[int, ...]:
        """How many real images there are in each of `data.buckets`; whoever takes none keeps this."""
        return ()

    @abstractmethod
    def judge(self) -> "Judge":
        """The judge of generated images."""

    def oracle(self) -> "Oracle":
        """A checker of single images, for `reward.kind=oracle`; whoever has none keeps this."""
        raise UserError(f"data.source={self.config.data.source} has no oracle")

    def teacher_recipe(self, images: int, seed: int) -> "TeacherRecipe":  # noqa: ARG002 - see the error
        """What `advdmd pretrain` trains a small teacher on.

        Args:
            images: About how many are drawn, by sources that draw them.
            seed: Of what is drawn.

        Raises:
            UserError: by sources that have none.
        """
        raise UserError(f"pretrain makes the teachers of data.source digits and shapes, got {self.config.data.source}")

    @abstractmethod
    def check(self) -> None:
        """Looks, before anything starts, for whatever would make a run fail; leaves nothing behind.

        Raises:
            UserError: for the first obstacle found.
        """

    def to_encode(self) -> Sequence[EncodingTask]:
        """What workers have to encode before the prompts are known; whoever has nothing to encode keeps this."""
        return ()

    def encoded(self, results: Iterable[Encoded]) -> str:  # noqa: ARG002 - whoever has nothing to encode keeps this
        """Takes what became of each of `to_encode`, as it comes.

        Returns:
            Lines for the user; empty if there is nothing to say.

        Raises:
            UserError: if too many images cannot be used, or too few can.
        """
        return ""

    def shards(self) -> Shards | None:
        """What workers have to make before the others start; None: nothing."""
        return None

    @property
    def made_by_workers(self) -> bool:
        """Whether workers make its images."""
        return type(self).shards is not Source.shards


def mismatchable(texts: tuple[str, ...], config: Config, prompts: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """The same texts, once there is a wrong one for each wherever one is needed.

    Args:
        texts: What the discriminator may learn from.
        config: The whole configuration.
        prompts: Those of them that rollouts draw from; None: all.

    Raises:
        UserError: if the discriminator learns from wrong texts, or is measured by them, and there is none.
    """
    mismatched = config.discriminator.mismatched_text > 0 and len(set(texts)) == 1
    if mismatched or (config.measures_text and len(set(texts if prompts is None else prompts)) == 1):
        which, off = ("mismatched_text", "0") if mismatched else ("text_errors", "null")
        raise UserError(
            f"{config.data.prompts or config.data.path or config.data.source}: has one prompt only, and "
            f"discriminator.{which} needs another; add one or set it to {off}"
        )
    return texts
