"""What the stations work on: shapes and levels, and the prompt table."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from advdmd_ray.config import Config
from advdmd_ray.controller.prompt_order import size_of
from advdmd_ray.data.registry import source_of
from advdmd_ray.data.source import Progress, mismatchable
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.diffusion.kernels import Kernel, kernel_of
from advdmd_ray.diffusion.resolution import Resolution
from advdmd_ray.diffusion.schedule import student_sigmas
from advdmd_ray.models.embeddings import EmbeddingStore, encoder_identity
from advdmd_ray.models.families import adapter
from advdmd_ray.models.families.base import Pipeline
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.pipeline import load_pipeline
from advdmd_ray.models.sizes import sized_pipelines
from advdmd_ray.models.text import cut_texts, encode_prompts, encoder_batches, tell_cut
from advdmd_ray.runs.needs.memory import group_bytes
from advdmd_ray.runs.parts.networks import device_of
from advdmd_ray.stations.encoded_texts import Catalogue, EncodedTexts, Shard, arrow_bytes
from advdmd_ray.stations.prompt_table import PromptRows, PromptTable, TableFacts


@dataclass(frozen=True, slots=True)
class Geometry:
    """Shapes and levels that follow from the configuration and the pipeline folder's headers.

    Attributes:
        resolutions: Of every size of images.
        kernel: The student's kernel.
        group_bytes: Size of one group of the largest images with its scores.
    """

    resolutions: tuple[Resolution, ...]
    kernel: Kernel
    group_bytes: int

    @property
    def largest(self) -> Resolution:
        """That of the largest latents."""
        return max(self.resolutions, key=lambda resolution: resolution.numel)


def geometry(config: Config) -> Geometry:
    """Reads the pipeline folder's headers; loads no weights."""
    infos = sized_pipelines(config)
    levels = [student_sigmas(config.diffusion.sigmas, info.scheduler_shift) for info in infos]
    resolutions = tuple(Resolution(info.latent.shape, sigmas) for info, sigmas in zip(infos, levels, strict=True))
    largest = max((info.latent for info in infos), key=lambda latent: latent.numel)
    return Geometry(resolutions, kernel_of(config.diffusion), group_bytes(config, largest))


def resolution_of(config: Config, shapes: Geometry, table: PromptTable) -> Callable[[int], Resolution]:
    """From an ordinal to the size of its group: all groups of a cycle have that of the cycle.

    Args:
        config: The run's.
        shapes: Of it.
        table: Says how often a cycle is of each size.
    """

    def resolution(ordinal: int) -> Resolution:
        cycle = ordinal // config.rollout.groups_per_cycle
        return shapes.resolutions[size_of(config.run.seed, cycle, table.size_weights)]

    return resolution


def guided_away_from(config: Config) -> str:
    """The text of the other half of the teacher's classifier-free guidance."""
    given = config.model.negative_prompt
    return adapter(inspect_pipeline(config.model.path).family).empty_prompt if given is None else given


class TableEncoder:
    """Encodes the prompts of a run, and behind them the captions of real images, a batch of the encoder at a time.

    What is in `model.embeddings` is not encoded again. The text encoders are loaded by the first batch.

    Raises:
        UserError: as `Source.prompts`, or if no two texts differ where the discriminator needs another.
    """

    def __init__(self, config: Config) -> None:
        source = source_of(config)
        prompts = source.prompts()
        known = set(prompts)
        texts = (*prompts, *(caption for caption in source.captions() if caption not in known))
        self._texts, self._rollouts = mismatchable(texts, config, prompts), len(prompts)
        self._model, self._precision = config.model, _precision(config)
        self._size_weights = config.data.bucket_weights or source.bucket_images() or (1.0,)
        self._empty = guided_away_from(config)
        self._encode, self._store, self._kept = text_encoder(config), embedding_store(config), Catalogue()

    def batches(self) -> Iterator[tuple[int, int, np.ndarray | None]]:
        """Encodes, and yields after each batch: texts that are done, all texts, and the shard if no folder keeps it.

        Raises:
            UserError: if the folder cannot be written, or a file in it is damaged.
        """
        everything = dict.fromkeys((*self._texts, self._empty))
        todo = list(everything) if self._store is None else self._store.missing(list(everything))
        done = len(everything) - len(todo)
        # The empty prompt alone, as whoever samples with guidance encodes it.
        parts = encoder_batches([text for text in todo if text != self._empty])
        for batch in [*parts, [self._empty]] if self._empty in todo else parts:
            rows, done = self._encode(batch), done + len(batch)
            if self._store is None:
                payload = arrow_bytes(batch, rows)
                self._kept.add(Shard(payload, "the prompts"))
                yield done, len(everything), payload
            else:
                self._store.add(batch, rows)
                yield done, len(everything), None

    def facts(self) -> TableFacts:
        """What travels to workers, once all batches are done."""
        where = self._kept if self._store is None else self._store
        # Told at every start, also of texts that were encoded before.
        tokenizers = load_pipeline(self._model.path, self._precision, "tokenizers")
        cut = cut_texts(tokenizers, self._texts, self._model.max_sequence_length)
        texts, empty = where.index(self._texts), where.index([self._empty])
        return TableFacts(self._texts, self._rollouts, texts, empty, self._size_weights, cut)


def encode_table(config: Config, progress: Progress = lambda _done, _of: None) -> PromptTable:
    """The prompt table, in this process; the text encoders are released.

    Args:
        config: The run's.
        progress: Told how many of all texts are done.

    Raises:
        UserError: see `TableEncoder`.
    """
    encoder, payloads = TableEncoder(config), []
    for done, count, payload in encoder.batches():
        progress(done, count)
        if payload is not None:
            payloads.append(payload)
    facts = encoder.facts()
    tell_cut(facts.cut, len(facts.texts), "model.max_sequence_length")
    return PromptTable.opened(facts, payloads)


def prompt_encoder(config: Config) -> Callable[[Sequence[str]], PromptRows]:
    """From prompts to their rows, out of the store where there is one."""
    encode, store = text_encoder(config), embedding_store(config)
    if store is None:
        return lambda texts: Conditioning.concatenate([encode(batch) for batch in encoder_batches(texts)])

    def rows(texts: Sequence[str]) -> PromptRows:
        for batch in encoder_batches(store.missing(texts)):
            store.add(batch, encode(batch))
        return EncodedTexts(store.index(texts)).held()

    return rows


def text_encoder(config: Config) -> Callable[[Sequence[str]], Conditioning]:
    """From a batch of texts to embeddings on the CPU; the text encoders are loaded when they are first asked."""
    length = config.model.max_sequence_length

    @functools.cache
    def encoders() -> Pipeline:
        return load_pipeline(config.model.path, _precision(config), "text").to(device_of(config.rollout))

    return lambda texts: encode_prompts(encoders(), texts, length)


def embedding_store(config: Config) -> EmbeddingStore | None:
    """The folder of `model.embeddings`, if the configuration names one."""
    if config.model.embeddings is None:
        return None
    info = inspect_pipeline(config.model.path)
    identity = encoder_identity(info, config.model.max_sequence_length, _precision(config))
    return EmbeddingStore(Path(config.model.embeddings), identity)


def _precision(config: Config) -> torch.dtype:
    """Of the text encoders."""
    return torch.bfloat16 if config.model.precision == "bfloat16" else torch.float32
