"""Encoded texts as Arrow bytes that are mapped and read row by row, whether they stand in files or in shared memory.

A text has a row of its own tokens without padding, in the precision of the encoder; a batch of rows is padded to
its own longest. Where a row is, and the digest of what must be there, is plain data that travels to workers.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.diffusion.transfer import raw_bytes
from advdmd_ray.errors import UserError

OPEN_BYTES, OPEN_FILES = 2**29, 128
"""Most that a process has mapped of files at a time: what was read of a mapped file counts as its resident memory."""
HELD_BYTES = 2**24
"""Rows of one length that are smaller than this together are read once and held."""
_COLUMNS = (
    ("text", pa.string()),
    ("tokens", pa.int32()),
    ("digest", pa.binary(32)),
    ("embeds", pa.large_binary()),
    ("pooled", pa.large_binary()),
)


@dataclass(frozen=True, slots=True)
class TextShape:
    """What the rows of one encoder have in common.

    Attributes:
        dtype: Such as `bfloat16`.
        width: Channels of a token, d.
        pooled: Channels of a prompt, p.
        masked: Whether rows differ in length, so that a batch of them needs a mask.
    """

    dtype: str
    width: int
    pooled: int
    masked: bool

    @classmethod
    def of(cls, rows: Conditioning) -> "TextShape":
        """That of some rows."""
        dtype = str(rows.embeds.dtype).removeprefix("torch.")
        return cls(dtype, rows.embeds.shape[2], rows.pooled.shape[1], rows.mask is not None)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch has it."""
        return getattr(torch, self.dtype)


@dataclass(frozen=True, slots=True)
class TextIndex:
    """Where the rows of some texts are.

    Attributes:
        files: Of shards, by number; empty where the shards travel as bytes.
        shards: Number of the shard, for each text.
        rows: Row of it.
        digests: SHA-256 of what must be there.
        nbytes: Of all these rows, as they are stored.
    """

    files: tuple[Path, ...]
    shards: tuple[int, ...]
    rows: tuple[int, ...]
    digests: tuple[bytes, ...]
    nbytes: int


def arrow_bytes(texts: Sequence[str], rows: Conditioning) -> UInt8[np.ndarray, " bytes"]:
    """A shard: the rows of some texts as one Arrow file, in memory.

    Args:
        texts: One for each row.
        rows: As the encoder gives them; a mask's own tokens come first.

    Raises:
        ValueError: if a mask has padding in front of a token, or the pooled embeddings another precision.
    """
    shape, rows = TextShape.of(rows), rows.to("cpu")
    if rows.pooled.dtype != rows.embeds.dtype:
        raise ValueError(f"pooled embeddings are {rows.pooled.dtype} and those of tokens {rows.embeds.dtype}")
    lengths = [rows.embeds.shape[1]] * len(rows) if rows.mask is None else rows.mask.sum(dim=1).tolist()
    columns: dict[str, list[Any]] = {name: [] for name, _ in _COLUMNS}
    for row, (text, length) in enumerate(zip(texts, lengths, strict=True)):
        if rows.mask is not None and not bool(rows.mask[row, :length].all()):
            raise ValueError(f"the mask of {text!r} has padding in front of a token; it must come behind")
        embeds, pooled = raw_bytes(rows.embeds[row, :length]).tobytes(), raw_bytes(rows.pooled[row]).tobytes()
        values = text, length, _digest(shape, length, embeds, pooled), embeds, pooled
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)
    schema = pa.schema(_COLUMNS, metadata={"shape": json.dumps([shape.dtype, shape.width, shape.pooled, shape.masked])})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    return np.frombuffer(sink.getvalue(), np.uint8)


def _digest(shape: TextShape, tokens: int, embeds: Any, pooled: Any) -> bytes:
    digest = hashlib.sha256(f"{shape.dtype} {shape.width} {shape.pooled} {shape.masked} {tokens}\n".encode())
    digest.update(embeds)
    digest.update(pooled)
    return digest.digest()


class Shard:
    """An Arrow file of `arrow_bytes`, opened: nothing of it is copied before a row is asked for.

    Args:
        source: The file, or its bytes.
        name: For messages; default: the file.

    Attributes:
        shape: Of its rows.
        nbytes: Its size.

    Raises:
        UserError: if it is no such file as a whole.
    """

    def __init__(self, source: Path | np.ndarray, name: str = "") -> None:
        self.name = name or str(source)
        try:
            opened = pa.memory_map(str(source)) if isinstance(source, Path) else pa.py_buffer(source)
            self.nbytes = opened.size() if isinstance(opened, pa.MemoryMappedFile) else opened.size
            self._batch = pa.ipc.open_file(opened).get_batch(0)
            metadata: Mapping[bytes, bytes] = self._batch.schema.metadata or {}
            self.shape = TextShape(*json.loads(metadata[b"shape"]))
            if self._batch.schema.remove_metadata() != pa.schema(_COLUMNS):
                raise pa.ArrowInvalid("it has other columns")  # noqa: TRY301 - one more way to be damaged
        except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.name}: is damaged ({error}); remove it, it is made again") from None

    def texts(self) -> list[str]:
        """Of every row."""
        return self._batch.column("text").to_pylist()

    def digests(self) -> list[bytes]:
        """Of every row."""
        return self._batch.column("digest").to_pylist()

    def sizes(self) -> list[int]:
        """Bytes of every row."""
        token = self.shape.width * self.shape.torch_dtype.itemsize
        pooled = self.shape.pooled * self.shape.torch_dtype.itemsize
        return [tokens * token + pooled for tokens in self._batch.column("tokens").to_pylist()]

    def row(self, row: int) -> tuple[int, np.ndarray, np.ndarray]:
        """Tokens of a row, and the bytes of its embeddings and of its pooled embedding, where they stand."""
        tokens = self._batch.column("tokens")[row].as_py()
        return tokens, self._bytes("embeds", row), self._bytes("pooled", row)

    def _bytes(self, name: str, row: int) -> np.ndarray:
        """A value of a column of bytes as a view; pyarrow's own access to one value copies it."""
        _, offsets, values = self._batch.column(name).buffers()
        if values is None or offsets is None or not values.size:
            return np.empty(0, np.uint8)
        first, last = np.frombuffer(offsets, np.int64)[row : row + 2].tolist()
        return np.frombuffer(values, np.uint8)[first:last]


class Catalogue:
    """Which texts stand in which shards; of a text that stands in several the first that was added counts."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[int, int, bytes, int]] = {}
        self._files: list[Path] = []
        self._shards = 0

    def __contains__(self, text: str) -> bool:
        return text in self._places

    def add(self, shard: Shard, file: Path | None = None) -> None:
        """Enters a shard's texts; either all shards are files or none."""
        number, self._shards = self._shards, self._shards + 1
        if file is not None:
            self._files.append(file)
        for row, (text, digest, size) in enumerate(zip(shard.texts(), shard.digests(), shard.sizes(), strict=True)):
            self._places.setdefault(text, (number, row, digest, size))

    def index(self, texts: Sequence[str]) -> TextIndex:
        """Where these texts are, all of which are there; of files only those that have one of them."""
        places = [self._places[text] for text in texts]
        numbers = {number: new for new, number in enumerate(dict.fromkeys(number for number, *_ in places))}
        if not self._files:
            numbers = {number: number for number in numbers}
        return TextIndex(
            files=tuple(self._files[number] for number in numbers) if self._files else (),
            shards=tuple(numbers[number] for number, *_ in places),
            rows=tuple(row for _, row, _, _ in places),
            digests=tuple(digest for _, _, digest, _ in places),
            nbytes=sum(size for *_, size in places),
        )


class EncodedTexts:
    """The rows of an index, read when they are asked for and verified when they are read for the first time.

    Args:
        index: Where they are.
        payloads: The shards, where they are not in files.

    Raises:
        UserError: if a file is not seen here.
    """

    def __init__(self, index: TextIndex, payloads: Sequence[np.ndarray] = ()) -> None:
        absent = next((file for file in index.files if not file.exists()), None)
        if absent is not None:
            raise UserError(
                f"{absent}: is not there, where encoded prompts should be; model.embeddings must be a folder that all "
                "nodes see, and its files must stay while a run goes on"
            )
        self._index = index
        self._held = [Shard(payload, f"shard {number} of the prompts") for number, payload in enumerate(payloads)]
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self._verified = np.zeros(len(self), dtype=bool)

    def __len__(self) -> int:
        return len(self._index.rows)

    def held(self) -> "EncodedTexts | Conditioning":
        """These rows, in memory where they are few and need no padding: a small table answers at once."""
        if self._index.nbytes > HELD_BYTES or self._shard(self._index.shards[0]).shape.masked:
            return self
        return self.select(torch.arange(len(self)))

    def select(self, index: Int[Tensor, " n"]) -> Conditioning:
        """The rows named by `index`, in its order, padded to the longest of them; a row may be named many times.

        Raises:
            UserError: if other bytes are there than the index says.
        """
        wanted, places = index.cpu().unique(return_inverse=True)
        rows = [self._row(number) for number in wanted.tolist()]
        shape = self._shard(self._index.shards[int(wanted[0])]).shape
        lengths = torch.tensor([tokens for tokens, _, _ in rows])
        if not shape.masked and len(set(lengths.tolist())) > 1:
            raise ValueError(f"prompts without a mask must have one length, got {sorted(set(lengths.tolist()))}")
        longest = int(lengths.max())
        embeds = torch.zeros(len(rows), longest, shape.width, dtype=shape.torch_dtype)
        pooled = torch.zeros(len(rows), shape.pooled, dtype=shape.torch_dtype)
        for number, (_, tokens, summary) in enumerate(rows):
            _fill(embeds[number], tokens)
            _fill(pooled[number], summary)
        mask = torch.arange(longest) < lengths.unsqueeze(1) if shape.masked else None
        found = Conditioning(embeds, pooled, mask)
        return found if torch.equal(places, torch.arange(len(rows))) else found.select(places)

    def _row(self, number: int) -> tuple[int, np.ndarray, np.ndarray]:
        shard = self._shard(self._index.shards[number])
        tokens, embeds, pooled = shard.row(self._index.rows[number])
        if not self._verified[number]:
            if _digest(shard.shape, tokens, embeds, pooled) != self._index.digests[number]:
                raise UserError(
                    f"{shard.name}: row {self._index.rows[number]} is another than the one that the run began with; "
                    "remove the file and start again, it is made again"
                )
            self._verified[number] = True
        return tokens, embeds, pooled

    def _shard(self, number: int) -> Shard:
        if self._held:
            return self._held[number]
        shard = self._open.pop(number, None) or Shard(self._index.files[number])
        self._open[number] = shard
        while len(self._open) > OPEN_FILES or sum(opened.nbytes for opened in self._open.values()) > OPEN_BYTES:
            if len(self._open) == 1:
                break
            self._open.popitem(last=False)
        return shard


def _fill(target: Tensor, values: np.ndarray) -> None:
    """Writes bytes into the beginning of a tensor."""
    target.reshape(-1).view(torch.uint8).numpy()[: len(values)] = values
