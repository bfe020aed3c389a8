"""Room for encoded prompts and captions: on the disk of `model.embeddings`, or in the object store of every node."""

from dataclasses import dataclass
from pathlib import Path

from advdmd_ray.config import Config
from advdmd_ray.data.registry import source_of
from advdmd_ray.errors import UserError
from advdmd_ray.files import disk_of
from advdmd_ray.models.families.kept import BFLOAT16, FLOAT32
from advdmd_ray.models.families.text_size import text_elements
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.runs.needs.amounts import amount
from advdmd_ray.runs.needs.memory import GIB

KIB = 2**10


@dataclass(frozen=True, slots=True)
class TextNeed:
    """Encoded texts of a run. No worker holds more of them than the rows of a batch.

    Attributes:
        texts: Most texts; None: that is known only once the images are read.
        each: Most bytes of one.
        folder: `model.embeddings`.
        free: Bytes that texts may take there: what is free, and what has been written there already.
    """

    texts: int | None
    each: int
    folder: Path | None
    free: int

    @property
    def total(self) -> int:
        """Most bytes of all that are known."""
        return (self.texts or 0) * self.each

    @property
    def in_store(self) -> int:
        """Bytes of the object store of each node; of a run in one process, of its memory."""
        return 0 if self.folder is not None else self.total

    @property
    def fits(self) -> bool:
        """Whether the folder has room, even if every text were as long as it may be."""
        return self.folder is None or self.total <= self.free

    @property
    def wants_folder(self) -> bool:
        """Whether they are large, or may be, and no folder is named."""
        return self.folder is None and (self.texts is None or self.total >= GIB)

    @property
    def text(self) -> str:
        """In words, with what to do where they do not fit or are large."""
        if self.texts is None:
            said = f"each takes {self.each / KIB:,.0f} KiB at most; how many there are is known once images are read"
        else:
            said = f"{self.texts:,} of {self.each / KIB:,.0f} KiB at most take {amount(self.total)}"
        if self.folder is None:
            remedy = "; set model.embeddings to a folder that all nodes see" if self.wants_folder else ""
            return f"{said}, in the object store of every node{remedy}"
        remedy = "" if self.fits else "; choose another model.embeddings, or give fewer texts"
        return f"{said}, in {self.folder}, where {amount(self.free)} are free{remedy}"


def text_need(config: Config) -> TextNeed:
    """That of a configuration. Reads no image; a data source that would be refused counts no texts here.

    Raises:
        UserError: if the pipeline folder is missing or damaged.
    """
    model, info = config.model, inspect_pipeline(config.model.path, config.model.pixels)
    half = model.precision == "bfloat16"
    each = text_elements(info, model.max_sequence_length) * (BFLOAT16 if half else FLOAT32)
    try:
        texts = source_of(config).most_texts()
    except UserError:  # which is the finding of another check
        texts = None
    folder = None if model.embeddings is None else Path(model.embeddings)
    return TextNeed(None if texts is None else texts + 1, each, folder, 0 if folder is None else _free(folder))


def _free(folder: Path) -> int:
    there = sum(file.stat().st_size for file in folder.rglob("*.arrow"))
    return disk_of(folder)[1] + there
