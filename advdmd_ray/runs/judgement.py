"""The work of a judgement in pieces: who draws a piece does not matter, so they can be dealt out to many workers.

The teacher at 40, 8, 4 and 2 steps of its own ODE and a student at its K with its own kernel draw as many images of the
same prompts from the same initial noise. A piece is some images of one of them. What is cut into pieces, and what every
piece draws, hangs on the configuration alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.data.registry import source_of
from advdmd_ray.diffusion.denoiser import Conditioning, Denoiser
from advdmd_ray.diffusion.kernels import Kernel, kernel_of
from advdmd_ray.diffusion.sampling import sample
from advdmd_ray.diffusion.schedule import student_sigmas, teacher_sigmas
from advdmd_ray.diffusion.seeds import group_noise
from advdmd_ray.diffusion.transfer import let_go
from advdmd_ray.evaluation.judges.contract import Scores, scores_of
from advdmd_ray.evaluation.judges.draws import DRAWN_AT_ONCE, draw_images, portions
from advdmd_ray.evaluation.judges.pipelines import TEACHER_STEPS
from advdmd_ray.evaluation.pictures.frames import room_for
from advdmd_ray.evaluation.pictures.grids import tiles_that_fit, to_pixels
from advdmd_ray.evaluation.scorers import load_scorers
from advdmd_ray.models.families import adapter
from advdmd_ray.models.families.base import TransformerDenoiser
from advdmd_ray.models.folder import PipelineInfo, inspect_pipeline
from advdmd_ray.models.pipeline import image_decoder, load_pipeline
from advdmd_ray.models.sizes import sized_pipelines
from advdmd_ray.runs.parts.inputs import guided_away_from, prompt_encoder
from advdmd_ray.runs.parts.micro_batch import rows_without_trial
from advdmd_ray.runs.parts.networks import denoiser_at

PIECE_OF_LARGE_IMAGES = 8
"""Images of a piece where `rollout.micro_batch` says that few go through the network at once; more if it takes more."""
SHOWN_PROMPTS, SHOWN_ROUNDS = 11, 2
"""Most columns of the comparison picture, and most images of each sampler in a column; fewer of large images."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """The teacher at a number of steps, or the student at its own.

    Attributes:
        student: Whether it is the student.
        steps: Calls of the network for one image, times two for a guided teacher.
    """

    student: bool
    steps: int

    @property
    def label(self) -> str:
        """Its name for a reader."""
        return f"{'student' if self.student else 'teacher'}, {self.steps} steps"


@dataclass(frozen=True, slots=True)
class Piece:
    """Some images of one sampler.

    Attributes:
        sampler: Who draws them.
        first: The first image.
        end: The one after the last.
    """

    sampler: Sampler
    first: int
    end: int

    @property
    def images(self) -> range:
        """All of them."""
        return range(self.first, self.end)

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return f"the judge's images {self.first} to {self.end - 1} of the {self.sampler.label}"


@dataclass(frozen=True, slots=True)
class Drawn:
    """What is kept of a piece.

    Attributes:
        rows: Row of the judge's prompts that each image was asked for.
        features: What the judge needs of each.
        shown: RGB of the images that the comparison picture shows, by number.
        scores: What `scorers.names` give each.
    """

    rows: Int64[Tensor, " n"]
    features: Float[Tensor, "n ..."]
    shown: Mapping[int, UInt8[np.ndarray, "h w 3"]]
    scores: Scores = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JudgeInputs:
    """What every worker of a judgement needs beside the configuration, made once.

    Attributes:
        prompts: The judge's prompts, encoded.
        empty: The encoded empty prompt.
        features: Of the judge.
        texts: The judge's prompts.
    """

    prompts: Conditioning
    empty: Conditioning
    features: Callable[[Tensor], Tensor]
    texts: tuple[str, ...]


def judge_inputs(config: Config) -> JudgeInputs:
    """Encodes the judge's prompts, out of `model.embeddings` where it has them; the text encoders are released."""
    judge, encode = source_of(config).judge(), prompt_encoder(config)
    texts = judge.prompts[: config.evaluation.samples]
    rows = torch.arange(len(texts))
    empty = encode([guided_away_from(config)]).select(rows[:1])
    return JudgeInputs(encode(texts).select(rows), empty, judge.features, texts)


def samplers_of(config: Config, *, student: bool) -> list[Sampler]:
    """Who is judged, the one with the most steps first."""
    teachers = [Sampler(student=False, steps=steps) for steps in TEACHER_STEPS]
    return [*teachers, Sampler(student=True, steps=config.steps)] if student else teachers


def pieces_of(config: Config, *, student: bool) -> list[Piece]:
    """The pieces of a judgement, those that take longest first."""
    given = config.rollout.micro_batch
    few = PIECE_OF_LARGE_IMAGES if config.rollout.num_gpus else None  # how many fit a GPU is not known here
    most = few if given == "auto" else given
    images = DRAWN_AT_ONCE if most is None else max(most, PIECE_OF_LARGE_IMAGES // most * most)
    return [
        Piece(sampler, portion.start, portion.stop)
        for sampler in samplers_of(config, student=student)
        for portion in portions(config.evaluation.samples, images)
    ]


def calls(config: Config, piece: Piece) -> int:
    """Forwards of the network, one row each, that a piece takes."""
    embedded = inspect_pipeline(config.model.path).embedded_guidance
    pairs = not piece.sampler.student and not embedded and config.judged_guidance != 1
    return len(piece.images) * piece.sampler.steps * (2 if pairs else 1)


def shown_samplers(config: Config) -> list[Sampler]:
    """Who stands in the comparison picture: teacher at 40 and at K steps, then the student."""
    steps = dict.fromkeys((TEACHER_STEPS[0], config.steps))
    teachers = [Sampler(student=False, steps=count) for count in steps if count in TEACHER_STEPS]
    return [*teachers, Sampler(student=True, steps=config.steps)]


def shown_images(prompts: int, samples: int, pixels: tuple[int, int] = (1, 1)) -> list[int]:
    """Which of the judged images to show: those of the first prompts, whole rounds of them, as many as fit.

    Args:
        prompts: Number of the judge's prompts.
        samples: Number of images; image i has prompt `i % prompts`.
        pixels: Height and width of an image.
    """
    height, width = pixels
    most, columns = tiles_that_fit(3 * height, width, SHOWN_ROUNDS, min(prompts, SHOWN_PROMPTS))
    rounds = range(0, most * prompts, prompts)
    return [first + column for first in rounds if first + columns <= samples for column in range(columns)]


def sampled_with(
    config: Config, sampler: Sampler, network: TransformerDenoiser, empty: Conditioning, info: PipelineInfo
) -> tuple[Denoiser, Kernel, Float[Tensor, " k1"]]:
    """What a sampler's images are drawn with: a guided teacher and its ODE, or the student, its kernel and its levels.

    Args:
        config: Names the teacher's guidance, and the student's kernel and levels.
        sampler: Who draws.
        network: Its network.
        empty: The encoded empty prompt.
        info: Its pipeline.
    """
    if sampler.student:
        return network, kernel_of(config.diffusion), student_sigmas(config.diffusion.sigmas, info.scheduler_shift)
    guided = adapter(info.family).guided(network, empty, config.judged_guidance)
    levels = teacher_sigmas(sampler.steps, info.teacher_shift(sampler.steps), info.scheduler_terminal)
    return guided, Kernel.ode(), levels


class PieceDrawer:
    """Draws one piece after the other, with one network at a time.

    Args:
        config: Names the teacher, its guidance, the student's levels and kernel, and the seed.
        student: An exported student's folder, if pieces of one are drawn.
        inputs: See `JudgeInputs`.
        device: Where network and image codec are.
    """

    def __init__(self, config: Config, student: Path | None, inputs: JudgeInputs, device: str) -> None:
        self._config, self._inputs, self._device = config, inputs, device
        self._paths = {False: config.model.path, True: str(student)}
        self._dtype = torch.bfloat16 if config.model.precision == "bfloat16" else torch.float32
        self._infos = sized_pipelines(config)
        self._decode = image_decoder(load_pipeline(config.model.path, self._dtype, "codec").to(device))
        self._scorers = load_scorers(config.scorers, torch.device(device))
        self._network: tuple[bool, TransformerDenoiser] | None = None
        prompts, samples = len(inputs.prompts), config.evaluation.samples
        self._shown = frozenset(shown_images(prompts, samples, room_for(info.pixels for info in self._infos)))
        self._shown_samplers = frozenset(shown_samplers(config))

    @torch.no_grad()
    def draw(self, piece: Piece) -> Drawn:
        """Draws a piece."""
        network, path = self._loaded(student=piece.sampler.student), self._paths[piece.sampler.student]
        shown = self._shown if piece.sampler in self._shown_samplers else frozenset[int]()

        def draw(conditioning: Conditioning, seeds: Sequence[int], size: int) -> Tensor:
            info = inspect_pipeline(path, self._infos[size].pixels)
            denoiser, kernel, sigmas = sampled_with(self._config, piece.sampler, network, self._inputs.empty, info)
            start = group_noise(info.latent.shape, seeds, "initial")
            return sample(denoiser, conditioning, kernel, sigmas, start, seeds)

        rows, features, kept, scores = [], [], dict[int, np.ndarray](), list[Scores]()
        seed, sizes = self._config.run.seed, len(self._infos)
        for drawn in draw_images(draw, self._inputs.prompts, piece.images, seed, sizes):
            images = self._decode(drawn.latents)
            places = [place for place, index in enumerate(drawn.images) if index in shown]
            pixels = to_pixels(images[places].cpu().float().numpy())
            kept |= {drawn.images[place]: image for place, image in zip(places, pixels, strict=True)}
            rows.append(drawn.rows)
            features.append(self._inputs.features(images))
            scores.append(scores_of(self._scorers, images, [self._inputs.texts[row] for row in drawn.rows.tolist()]))
        together = {word: torch.cat([part[word] for part in scores]) for word in scores[0]}
        return Drawn(torch.cat(rows), torch.cat(features), kept, together)

    def _loaded(self, *, student: bool) -> TransformerDenoiser:
        if self._network is None or self._network[0] != student:
            self._network = None
            let_go()  # a GPU need not hold both
            rows = rows_without_trial(self._config, torch.device(self._device))
            network = denoiser_at(self._config, self._paths[student], self._dtype, rows)
            self._network = student, network.to(self._device)
        return self._network[1]
