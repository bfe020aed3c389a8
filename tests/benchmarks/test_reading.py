"""`python -m benchmarks.reading`."""

import pytest
import torch
from torch import Tensor

from advdmd_ray.data.shapes.captions import draw_exam
from advdmd_ray.data.shapes.render import render_all
from advdmd_ray.data.shapes.scenes import draw_scenes
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.models import pipeline as pipeline_module
from advdmd_ray.models.pipeline import load_pipeline
from advdmd_ray.models.text import encode_prompts
from benchmarks import reading


def test_a_folder_that_is_none_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert reading.main(["nowhere"]) == reading.BAD_INPUT
    said = capsys.readouterr()
    assert said.err.startswith("reading: ")
    assert said.err.count("\n") == 1
    assert "nowhere" in said.err


def test_the_shipped_shapes_teacher_hears_all_words_and_does_not_say_which_way_round(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reading, "FITTED", 100)
    monkeypatch.setattr(reading, "ASKED", 20)
    assert reading.main(["builtin:shapes"]) == reading.DONE
    texts, likes = capsys.readouterr().out.split("\n\n")
    rows = [line.split(" | ") for line in texts.splitlines()[2:]]
    assert [row[1] for row in rows] == ["pooled", "mean token", "all tokens"]
    pooled, _, tokens = (float(row[2].split()[0]) for row in rows)
    assert pooled < 0.7
    assert tokens > 0.8
    assert [float(line.split(" | ")[1]) for line in likes.splitlines()[2:]] == list(reading.LEVELS)


@pytest.mark.parametrize(("knows", "share"), [(1.0, 1.0), (-1.0, 0.0), (0.0, 0.5)])
def test_a_denoiser_prefers_the_caption_that_it_denoises_better_with(
    monkeypatch: pytest.MonkeyPatch, knows: float, share: float
) -> None:
    """One that finds the noise but for an error, which the own caption makes smaller, larger, or leaves as it is."""
    monkeypatch.setattr(reading, "ASKED", 10)
    real = load_pipeline("builtin:shapes")
    prompts = draw_exam(10, 2)
    said = encode_prompts(real, [prompt.text for prompt in prompts], 1)
    scenes = torch.from_numpy(render_all(draw_scenes(prompts, 3)))
    x0 = real.vae.encode(scenes, return_dict=False)[0].mode()

    def denoiser(x: Tensor, t: Tensor, asked: Conditioning) -> Tensor:
        own = (asked.embeds - said.embeds).abs().amax(dim=(1, 2)) == 0
        exact = (x - x0) / t.reshape(-1, 1, 1, 1)
        side = torch.arange(len(x)) % 2 == 0  # who does not know says the same of a caption and of that exchanged
        error = torch.where(own, 1.0 - 0.5 * knows, 1.0) if knows else torch.where(own == side, 0.5, 1.0)
        return exact + error.reshape(-1, 1, 1, 1)

    monkeypatch.setattr(pipeline_module, "denoiser_of", lambda _: denoiser)
    assert {found.value for found in reading.liked_shares(real).values()} == {share}
