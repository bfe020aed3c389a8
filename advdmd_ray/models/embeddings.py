"""Encoded texts on disk: a text is encoded once, whichever runs ask for it, and in whatever company."""

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.errors import UserError
from advdmd_ray.files import file_digest, write_atomically
from advdmd_ray.models.folder import PipelineInfo
from advdmd_ray.stations.encoded_texts import Catalogue, Shard, TextIndex, arrow_bytes

_LIBRARIES = ("diffusers", "transformers", "tokenizers")


def encoder_identity(info: PipelineInfo, max_sequence_length: int, dtype: torch.dtype) -> str:
    """SHA-256 of everything but the texts that embeddings hang on, file by file of tokenizers and text encoders.

    Args:
        info: The pipeline folder.
        max_sequence_length: Most text tokens.
        dtype: Of the encoders.
    """
    digest = hashlib.sha256()
    facts = [info.family.name, max_sequence_length, str(dtype), *(f"{name} {version(name)}" for name in _LIBRARIES)]
    # Without its T5 encoder an SD3 pipeline takes the width of the empty slot from the transformer.
    digest.update(json.dumps([*facts, list(info.dropped)]).encode())
    for part in info.components:
        if part.name.startswith(("text_encoder", "tokenizer")):
            for file in sorted((info.folder / part.name).iterdir()):
                digest.update(f"{part.name}/{file.name}".encode())
                digest.update(file_digest(file))
    return digest.hexdigest()


class EmbeddingStore:
    """A folder of encoded texts, in Arrow files that are written once, whole, and never changed.

    A text is found by itself, whatever stood around it when it was encoded. Several processes may encode at the same
    time: at worst a text is there twice, and each of them keeps to the row that it found first.

    Args:
        folder: Of all encoders; made when the first file is written. What else is in it is left alone.
        identity: See `encoder_identity`; names the encoder's own folder.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder = folder / identity[:32]
        self._catalogue, self._seen = Catalogue(), set[Path]()

    def missing(self, texts: Sequence[str]) -> list[str]:
        """The texts that are not there, each once.

        Raises:
            UserError: if a file is damaged.
        """
        for file in sorted(self._folder.glob("*.arrow")):
            if file not in self._seen:
                self._add(file)
        return [text for text in dict.fromkeys(texts) if text not in self._catalogue]

    def add(self, texts: Sequence[str], rows: Conditioning) -> None:
        """Keeps encoded texts as one file.

        Raises:
            UserError: if the folder cannot be written.
        """
        payload = arrow_bytes(texts, rows)
        file = self._folder / f"{hashlib.sha256(payload.data).hexdigest()[:32]}.arrow"
        try:
            write_atomically(file, payload.data)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"model.embeddings {self._folder}: cannot be written ({reason}); choose another") from None
        self._add(file)

    def index(self, texts: Sequence[str]) -> TextIndex:
        """Where the texts are, none of which is missing."""
        return self._catalogue.index(texts)

    def _add(self, file: Path) -> None:
        self._seen.add(file)
        self._catalogue.add(Shard(file), file)
