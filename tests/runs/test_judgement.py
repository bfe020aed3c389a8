"""A judgement in pieces: all of it, the same whoever draws which, and never more in memory than features."""

import gc
import itertools
import weakref
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.cli.evaluate import judge_table
from advdmd_ray.config import Config, read_config
from advdmd_ray.evaluation.judges.thumbnails import thumbnails
from advdmd_ray.models.families.base import TransformerDenoiser
from advdmd_ray.runs import judgement, verdict
from advdmd_ray.runs.judgement import (
    PIECE_OF_LARGE_IMAGES,
    Drawn,
    JudgeInputs,
    Piece,
    PieceDrawer,
    Sampler,
    calls,
    judge_inputs,
    pieces_of,
    samplers_of,
    shown_samplers,
)
from advdmd_ray.runs.parts.networks import denoiser_at
from advdmd_ray.runs.verdict import draw_here, facts_of, verdict_of
from toy_scorers import LIGHTNESS

pytestmark = pytest.mark.usefixtures("encoders_once")


def config(pipeline: Path | str = "builtin:digits", **sections: dict[str, object]) -> Config:
    tree = {
        "run": {"seed": 5},
        "model": {"path": str(pipeline), "max_sequence_length": 5},
        "diffusion": {"sigmas": (1.0, 0.6)},
        "evaluation": {"samples": 24},
        "rollout": {"micro_batch": 6},
    }
    return Config.model_validate({**tree, **sections})


@given(samples=st.integers(20, 600), most=st.none() | st.integers(1, 40), student=st.booleans())
def test_the_pieces_have_every_image_of_every_sampler_once(samples: int, most: int | None, student: bool) -> None:
    run = config(evaluation={"samples": samples}, rollout={"micro_batch": most})
    pieces = pieces_of(run, student=student)
    for sampler in samplers_of(run, student=student):
        own = [piece.images for piece in pieces if piece.sampler == sampler]
        assert list(itertools.chain(*own)) == list(range(samples))
    assert len({piece.name for piece in pieces}) == len(pieces)
    assert [piece.sampler.student for piece in pieces] == sorted(piece.sampler.student for piece in pieces)
    # Whole calls of the network, but for the last piece.
    assert most is None or all(len(piece.images) % most == 0 for piece in pieces if piece.end < samples)


def test_a_real_models_judgement_is_cut_finer_than_the_gpus_it_is_dealt_to() -> None:
    run = read_config("qwen_image_lora_2step")
    pieces = pieces_of(run, student=True)
    gpus = run.rollout.actors + run.reward.workers + run.learner.ranks
    assert len(pieces) == 125
    assert len([piece for piece in pieces if piece.sampler.steps == 40]) > 3 * gpus


def test_a_guided_teacher_calls_its_network_twice_a_step() -> None:
    teacher, student = Piece(Sampler(False, 8), 0, 10), Piece(Sampler(True, 2), 0, 10)
    guided, plain = (config(model={"path": "builtin:digits", "guidance": guidance}) for guidance in (2.0, 1.0))
    assert (calls(guided, teacher), calls(plain, teacher)) == (160, 80)
    assert calls(guided, student) == calls(plain, student) == 20


def same(a: Drawn, b: Drawn) -> bool:
    return (
        torch.equal(a.rows, b.rows)
        and torch.equal(a.features, b.features)
        and a.shown.keys() == b.shown.keys()
        and all(np.array_equal(image, b.shown[index]) for index, image in a.shown.items())
    )


def test_pieces_are_small_where_the_gpu_settles_what_fits_and_as_ever_on_a_cpu() -> None:
    auto: dict[str, object] = {"micro_batch": "auto"}
    on_gpu = pieces_of(config(rollout=auto | {"num_gpus": 1.0}), student=True)
    assert max(len(piece.images) for piece in on_gpu) <= PIECE_OF_LARGE_IMAGES
    assert pieces_of(config(rollout=auto), student=True) == pieces_of(
        config(rollout={"micro_batch": None}), student=True
    )


@dataclass(frozen=True)
class DrawnHere:
    """Everything that is judged, as one process draws it, and what it told of its progress."""

    images: dict[Piece, Drawn]
    told: list[tuple[int, int]]


@pytest.fixture(scope="module")
def drawn_here(tiny_pipeline: Path) -> DrawnHere:
    told: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdict, "usable_cores", torch.get_num_threads)  # sums depend on the number of threads
        images = draw_here(config(tiny_pipeline), tiny_pipeline, lambda done, of: told.append((done, of)))
    return DrawnHere(images, told)


def test_who_draws_a_piece_and_after_which_one_changes_nothing(tiny_pipeline: Path, drawn_here: DrawnHere) -> None:
    run = config(tiny_pipeline)
    inputs = judge_inputs(run)
    pieces = [piece for piece in pieces_of(run, student=True) if piece.sampler.steps < 40]
    alone = PieceDrawer(run, tiny_pipeline, inputs, "cpu")
    whole = {piece: alone.draw(piece) for piece in pieces}
    team = [PieceDrawer(run, tiny_pipeline, inputs, "cpu") for _ in range(3)]
    for number, piece in enumerate(reversed(pieces)):
        assert same(team[number % 3].draw(piece), whole[piece])
    drawn = {piece: draw for piece, draw in drawn_here.images.items() if piece.sampler.steps < 40}
    assert all(same(draw, whole[piece]) for piece, draw in drawn.items())
    first, second = verdict_of(run, drawn), verdict_of(run, whole)
    assert (first.teacher, first.student) == (second.teacher, second.student)
    # The kernels and levels are not the same, and the seeds are: the student's images are no teacher's.
    two = [piece for piece in pieces if piece.first == 0 and piece.sampler.steps == 2]
    assert len(two) == 2
    assert not torch.equal(whole[two[0]].features, whole[two[1]].features)


def test_a_worker_has_one_network_at_a_time(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, there = config(tiny_pipeline), list[weakref.ref[torch.nn.Module]]()

    def loaded(config: Config, path: str, dtype: torch.dtype, micro_batch: int | None) -> TransformerDenoiser:
        assert not [network for network in there if network() is not None]
        network = denoiser_at(config, path, dtype, micro_batch)
        there.append(weakref.ref(network.transformer))
        return network

    monkeypatch.setattr(judgement, "denoiser_at", loaded)
    drawer = PieceDrawer(run, tiny_pipeline, judge_inputs(run), "cpu")
    gc.disable()  # the modules of a network refer to each other, and the collector comes when it likes
    try:
        for student in (False, True, True, False):
            drawer.draw(Piece(Sampler(student=student, steps=2), 0, 2))
    finally:
        gc.enable()
    assert len(there) == 3


def test_of_a_piece_only_features_are_kept_and_the_images_that_are_shown(tiny_pipeline: Path) -> None:
    run = config(tiny_pipeline)
    made = judge_inputs(run)
    drawer = PieceDrawer(run, tiny_pipeline, JudgeInputs(made.prompts, made.empty, thumbnails, made.texts), "cpu")
    hidden, shown = Sampler(student=False, steps=8), Sampler(student=True, steps=2)
    assert hidden not in shown_samplers(run)
    assert shown in shown_samplers(run)
    drawn = drawer.draw(Piece(shown, 18, 24))
    assert drawn.features.shape == (6, 3, 8, 8)
    assert list(drawn.shown) == [18, 19]  # two rounds of ten prompts
    assert {image.shape for image in drawn.shown.values()} == {(8, 8, 3)}
    assert drawer.draw(Piece(hidden, 0, 6)).shown == {}


def test_a_verdict_has_a_score_of_every_sampler_and_the_images_of_three(
    tiny_pipeline: Path, drawn_here: DrawnHere
) -> None:
    run, drawn, told = config(tiny_pipeline), drawn_here.images, drawn_here.told
    assert told[0] == (0, 120)
    assert told[-1] == (120, 120)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    said = verdict_of(run, drawn)
    assert list(said.teacher) == [40, 8, 4, 2]
    assert said.student is not None
    assert {score.images for score in (*said.teacher.values(), said.student)} == {24}
    assert list(said.images) == ["teacher, 40 steps", "teacher, 2 steps", "student, 2 steps"]
    assert {images.shape for images in said.images.values()} == {(20, 3, 8, 8)}
    assert len(said.prompts) == 10


@pytest.mark.parametrize("steps", [3, 40])
def test_the_comparison_has_a_teacher_of_as_many_steps_only_where_one_is_judged(steps: int) -> None:
    sigmas = tuple(1 - number / steps for number in range(steps))
    labels = [sampler.label for sampler in shown_samplers(config(diffusion={"sigmas": sigmas}))]
    assert labels == ["teacher, 40 steps", f"student, {steps} steps"]


def test_scorers_see_every_judged_image_with_its_prompt_and_stand_beside_the_judges_figures(
    tiny_pipeline: Path, drawn_here: DrawnHere
) -> None:
    run = config(tiny_pipeline, scorers={"names": (LIGHTNESS,)})
    inputs = judge_inputs(run)
    piece = next(piece for piece in drawn_here.images if piece.sampler.student and piece.first == 6)
    drawn = PieceDrawer(run, tiny_pipeline, inputs, "cpu").draw(piece)
    seen = [float(drawn.shown[index].mean()) / 255 for index in piece.images]
    asked = [len(inputs.texts[row]) for row in drawn.rows.tolist()]
    np.testing.assert_allclose(drawn.scores["lightness"], np.add(seen, asked), atol=2e-3)
    numbers = torch.arange(24.0)
    scored = {
        piece: replace(drawn, scores={"lightness": numbers[piece.first : piece.end] + piece.sampler.steps})
        for piece, drawn in drawn_here.images.items()
    }
    said, alone = verdict_of(run, scored), verdict_of(config(tiny_pipeline), drawn_here.images)
    assert [figure.key for figure in said.figures] == [*(figure.key for figure in alone.figures), "lightness"]
    assert {steps: score.figures["lightness"] for steps, score in said.teacher.items()} == {
        steps: pytest.approx(11.5 + steps) for steps in (40, 8, 4, 2)
    }
    assert said.real == alone.real, "no scorer sees real images"
    (*_, real), (*_, without) = judge_table(facts_of(said)).columns, judge_table(facts_of(alone)).columns
    assert (real.header, list(real.cells)[-2:]) == ("lightness", ["13.500", ""])
    assert "" not in list(without.cells)
