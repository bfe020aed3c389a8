"""`python -m benchmarks.reading`: whether a shapes pipeline knows what is left of what: its texts, and its denoiser."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from advdmd_ray.cli.arguments import Parser
from advdmd_ray.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from advdmd_ray.data.shapes.skills import ShapePrompt
    from advdmd_ray.models.families.base import Pipeline
    from advdmd_ray.pretrain.probe import Share

DONE, BAD_INPUT = 0, 2
DESCRIPTION = (
    "Fits a linear probe on the text embeddings of a shapes pipeline: on which side of the other is each shape? Half "
    "of the captions asked are the other half with their two shapes exchanged: words without their order give 0.5. "
    "Then asks the denoiser: is a real scene's noise better found with its caption than with its shapes exchanged?"
)
HEAD = "| pipeline | read from | all captions | placements of held-out wordings |\n|---|---|---|---|\n"
LIKES = "\n| pipeline | noise level | scenes whose own caption has the smaller loss |\n|---|---|---|\n"
FITTED, ASKED = 700, 250
"""Captions that the probe is fitted on, and others that it is asked about, in four versions each."""
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Noise levels at which the denoiser is asked: where the layout is decided."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print a row for each pipeline and each part of its embeddings.

    Args:
        argv: Arguments after the program's name; `sys.argv[1:]` if None.

    Returns:
        0, or 2 for bad input.
    """
    try:
        args = _parser().parse_args(argv)
        from advdmd_ray.models.pipeline import load_pipeline  # noqa: PLC0415 - takes seconds

        pipelines = {folder: load_pipeline(folder) for folder in args.pipeline}
    except UserError as error:
        sys.stderr.write(f"reading: {error}\n")
        return BAD_INPUT
    sys.stdout.write(HEAD)
    for folder, pipeline in pipelines.items():
        for part, (asked, unseen) in read_shares(pipeline).items():
            sys.stdout.write(f"| {folder} | {part} | {asked} | {unseen} |\n")
    sys.stdout.write(LIKES)
    for folder, pipeline in pipelines.items():
        for level, share in liked_shares(pipeline).items():
            sys.stdout.write(f"| {folder} | {level} | {share} |\n")
    return DONE


def read_shares(pipeline: "Pipeline") -> "dict[str, tuple[Share, Share]]":
    """Shares of captions read the right way round, by the part that the probe looks at.

    The second share is of the pairs in which one wording, or both, is that of a held-out placement.
    """
    import torch  # noqa: PLC0415 - takes seconds

    from advdmd_ray.data.shapes.captions import draw_exam, sides_of  # noqa: PLC0415
    from advdmd_ray.pretrain.probe import order_probe  # noqa: PLC0415

    fitted, asked = draw_exam(FITTED, 1, fitted=True), draw_exam(ASKED, 2)
    new = [one.held_out or other.held_out for one, other in zip(asked[::2], asked[1::2], strict=True)]
    unseen = torch.tensor(new).repeat_interleave(2)
    known, truth, told = sides_of(fitted), sides_of(asked), _parts(pipeline, asked)
    return {
        part: (
            order_probe(features, known, told[part], truth),
            order_probe(features, known, told[part][unseen], truth[unseen]),
        )
        for part, features in _parts(pipeline, fitted).items()
    }


def liked_shares(pipeline: "Pipeline") -> "dict[float, Share]":
    """Share of scenes whose caption the denoiser prefers to the one with its two shapes exchanged, by noise level.

    A scene of each caption that the text probe is asked about, the same noise for both captions; the loss is
    `|v(x_t, t, c) - (eps - x0)|^2`. Who does not know has 0.5. It tells sooner than images do whether a teacher begins
    to read (a denoiser as a classifier, Li et al., arXiv 2303.16203).
    """
    import torch  # noqa: PLC0415 - takes seconds

    from advdmd_ray.data.shapes.captions import draw_exam  # noqa: PLC0415
    from advdmd_ray.data.shapes.render import render_all  # noqa: PLC0415
    from advdmd_ray.data.shapes.scenes import draw_scenes  # noqa: PLC0415
    from advdmd_ray.losses.fake_score import noised  # noqa: PLC0415
    from advdmd_ray.models.pipeline import denoiser_of  # noqa: PLC0415
    from advdmd_ray.models.text import encode_prompts  # noqa: PLC0415
    from advdmd_ray.pretrain.probe import wilson  # noqa: PLC0415

    prompts, denoiser = draw_exam(ASKED, 2), denoiser_of(pipeline)
    said = encode_prompts(pipeline, [prompt.text for prompt in prompts], 1)
    captions = said, said.select(torch.arange(len(prompts)) ^ 1)
    scenes = torch.from_numpy(render_all(draw_scenes(prompts, 3)))
    generator, found = torch.Generator().manual_seed(4), {}
    with torch.no_grad():
        x0 = pipeline.vae.encode(scenes, return_dict=False)[0].mode()
        for level in LEVELS:
            eps, t = torch.randn(x0.shape, generator=generator), torch.full((len(x0),), level)
            x = noised(x0, eps, t)
            own, other = ((denoiser(x, t, each) - (eps - x0)).square().flatten(1).sum(dim=1) for each in captions)
            found[level] = wilson(float((own < other).double().mean()), len(x0))
    return found


def _parts(pipeline: "Pipeline", prompts: "Sequence[ShapePrompt]") -> "dict[str, Tensor]":
    """What a reader may look at: the pooled embedding, the tokens' mean, and all tokens, each at its place."""
    from advdmd_ray.models.text import encode_prompts  # noqa: PLC0415 - takes seconds

    said = encode_prompts(pipeline, [prompt.text for prompt in prompts], 1)
    return {"pooled": said.pooled, "mean token": said.embeds.mean(dim=1), "all tokens": said.embeds.flatten(1)}


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m benchmarks.reading", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("pipeline", nargs="+", help="folders of shapes pipelines, or builtin:shapes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
