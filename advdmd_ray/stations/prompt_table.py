"""The prompt table: every prompt encoded once, read where it is by all workers, never stored beside a trajectory."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.stations.encoded_texts import EncodedTexts, TextIndex


class PromptRows(Protocol):
    """Encoded prompts that are read by row: a `Conditioning`, or files."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def select(self, index: Int[Tensor, " n"], /) -> Conditioning:
        """A copy of some rows, in the order of the index."""
        ...


@dataclass(frozen=True, slots=True)
class CutTexts:
    """Texts of which a tokenizer hands on a part only.

    Attributes:
        tokenizer: Its folder in the pipeline's.
        most: Tokens that it hands on.
        fixed: Whether that is its own limit, and not `model.max_sequence_length`.
        count: How many texts have more.
        first: A few of them.
    """

    tokenizer: str
    most: int
    fixed: bool
    count: int
    first: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A prompt table as it travels to workers: texts, and where their rows are.

    Attributes:
        texts: The prompts.
        rollouts: As in `PromptTable`.
        prompts: Where the rows are.
        empty: Where that of the empty prompt is.
        size_weights: As in `PromptTable`.
        cut: Texts that are encoded in part.
    """

    texts: tuple[str, ...]
    rollouts: int
    prompts: TextIndex
    empty: TextIndex
    size_weights: tuple[float, ...] = (1.0,)
    cut: tuple[CutTexts, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptTable:
    """Encoded prompts, row i for prompt_id i, and the encoded empty prompt for classifier-free guidance.

    Attributes:
        texts: The prompts.
        conditioning: One row per prompt; in files, if they are large.
        unconditional: One row, the empty prompt.
        rollouts: Rollouts draw from so many first rows; the others are captions of real images. 0: from all.
        size_weights: How often a cycle's images are of each size of the run, in any unit.
    """

    texts: tuple[str, ...]
    conditioning: PromptRows
    unconditional: Conditioning
    rollouts: int = 0
    size_weights: tuple[float, ...] = (1.0,)
    _rows_of: dict[str, list[int]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rows_of: dict[str, list[int]] = {}
        for row, text in enumerate(self.texts):
            rows_of.setdefault(text, []).append(row)
        object.__setattr__(self, "_rows_of", rows_of)
        object.__setattr__(self, "rollouts", self.rollouts or len(self.texts))
        if len(self.texts) != len(self.conditioning) or len(self.unconditional) != 1:
            raise ValueError(
                f"{len(self.texts)} prompts came with {len(self.conditioning)} embeddings and "
                f"{len(self.unconditional)} empty prompts; expected as many as prompts, and 1"
            )

    def of(self, prompt_id: int, count: int) -> Conditioning:
        """The conditioning of one prompt, repeated `count` times."""
        return self.rows(torch.full((count,), prompt_id, dtype=torch.int64))

    def rows(self, prompt_ids: Int64[Tensor, " b"]) -> Conditioning:
        """The conditioning of a batch of prompt ids, padded to the longest of them."""
        return self.conditioning.select(prompt_ids)

    def other(self, prompt_id: int, u: float) -> int:
        """A row whose text is another one than this row's, the k-th of them with `k = floor(u x their number)`.

        Args:
            prompt_id: The row; its text may stand in several.
            u: In [0, 1).

        Raises:
            ValueError: if every row has the same text.
        """
        own = self._rows_of[self.texts[prompt_id]]
        count = len(self.texts) - len(own)
        if not count:
            raise ValueError(f"every prompt of the table is {self.texts[prompt_id]!r}; there is no other to draw")
        # float32, as the draw itself: in float64 the product may fall on the other side of a whole number.
        row = int(torch.tensor(u, dtype=torch.float32) * count)
        for taken in own:
            row += row >= taken
        return row

    @classmethod
    def opened(cls, facts: TableFacts, payloads: Sequence[np.ndarray] = ()) -> Self:
        """The table where its rows are mapped from files, or from shards in memory.

        Args:
            facts: What travels.
            payloads: The shards, where they are not in files.

        Raises:
            UserError: if a file is not seen here, or is another than the one that the run began with.
        """
        prompts, empty = (EncodedTexts(index, payloads) for index in (facts.prompts, facts.empty))
        empty_prompt = empty.select(torch.tensor([0]))
        return cls(facts.texts, prompts.held(), empty_prompt, facts.rollouts, facts.size_weights)
