"""Encoded prompts on disk: a prompt is encoded once, whichever runs ask for it."""

import hashlib
import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.errors import UserError
from advdmd_ray.files import drafted_file, file_digest
from advdmd_ray.models.folder import PipelineInfo
from advdmd_ray.models.text import encoder_batches

Encode = Callable[[Sequence[str]], Conditioning]
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
    """A folder of encoded prompts, in files of up to 32 whose names are those of their texts and of the encoder.

    Args:
        folder: Made when the first file is written.
        identity: See `encoder_identity`.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder, self._identity = folder, identity

    def conditioning(self, texts: Sequence[str], encode: Encode) -> Conditioning:
        """The encoded texts, row by row.

        Args:
            texts: One or more.
            encode: Asked for up to 32 texts that are not there yet; what it gives is kept as it is.

        Raises:
            UserError: if the folder cannot be written or a file is damaged.
        """
        return Conditioning.concatenate([self._part(part, encode) for part in encoder_batches(texts)])

    def _part(self, texts: Sequence[str], encode: Encode) -> Conditioning:
        name = hashlib.sha256(json.dumps([self._identity, *texts]).encode()).hexdigest()
        file = self._folder / name[:2] / f"{name}.safetensors"
        if not file.exists():
            self._write(file, encode(texts).to("cpu"))
        try:
            tensors = load_file(file)
        except SafetensorError as error:
            raise UserError(f"{file}: is damaged ({error}); remove it, it is made again") from None
        return Conditioning(tensors["embeds"], tensors["pooled"], tensors.get("mask"))

    def _write(self, file: Path, rows: Conditioning) -> None:
        tensors = {"embeds": rows.embeds.contiguous(), "pooled": rows.pooled.contiguous()}
        if rows.mask is not None:
            tensors["mask"] = rows.mask.contiguous()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with drafted_file(file) as draft:
                save_file(tensors, draft)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"model.embeddings {file.parent}: cannot be written ({reason}); choose another") from None
