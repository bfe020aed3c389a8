"""Every family through the whole method on real files, and out into plain diffusers."""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advdmd_ray.comparison.serial import SerialRun
from advdmd_ray.config import Config
from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.diffusion.sampling import sample
from advdmd_ray.diffusion.schedule import student_sigmas
from advdmd_ray.learner.learner import RATIO_TOLERANCE
from advdmd_ray.models.adapter_keys import LOADED_BY_DIFFUSERS, Convention
from advdmd_ray.models.exporting import export_adapters, export_student
from advdmd_ray.models.families import adapter
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.lora import add_lora, is_adapter
from advdmd_ray.models.model_card import About
from advdmd_ray.models.pipeline import (
    denoiser_of,
    image_decoder,
    load_denoiser,
    load_pipeline,
)
from advdmd_ray.models.sampling_settings import SamplingSettings
from advdmd_ray.models.text import encode_prompts
from local_runs import stored_tensors
from tiny_families import BUILDERS, starting_latents

pytestmark = pytest.mark.usefixtures("encoders_once")

PROMPTS = ["a red fox above the boat", "a fox"]
LENGTH, GUIDANCE, SIGMAS, SIZE = 300, 2.0, (1.0, 0.6), (32, 64)

# What a user types, once for each line that it is given: no module of this package is known to this interpreter.
STRANGER = """
import json, sys, numpy as np, torch, diffusers
for line in sys.stdin:
    folder, numbers, out = json.loads(line)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    given = np.load(numbers, allow_pickle=False)
    arguments = {key[4:]: given[key].item() for key in given.files if key.startswith("arg_")}
    images = pipeline(
        prompt=[str(prompt) for prompt in given["prompts"]], sigmas=given["sigmas"].tolist(), output_type="np",
        latents=torch.from_numpy(given["latents"]), **arguments,
    ).images
    np.save(out, images)
    assert not any(name.startswith("advdmd_ray") for name in sys.modules)
    print("drawn", flush=True)
"""


class Stranger:
    """A process that draws with plain diffusers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def draw(self, folder: Path, numbers: Path, out: Path) -> None:
        """Draws with the pipeline in `folder`, from the numbers, into a file."""
        to, back = self._process.stdin, self._process.stdout
        assert to is not None
        assert back is not None
        to.write(json.dumps([str(folder), str(numbers), str(out)]) + "\n")
        to.flush()
        assert back.readline() == "drawn\n"


@pytest.fixture(scope="module")
def stranger() -> Iterator[Stranger]:
    """One for all families, as its imports take longer than what it draws."""
    with subprocess.Popen(
        [sys.executable, "-c", STRANGER],
        env={"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Stranger(process)


@pytest.fixture(scope="session")
def captioned_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(44):
        pixels = rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
        (folder / f"{number:03d}.txt").write_text(f"a red fox above {'the ' * (number % 4)}boat")
    return folder


def _config(teacher: Path, images: Path, out: Path, backbone: str, rank: int, **model: str) -> Config:
    return Config.model_validate(
        {
            "run": {"output": str(out)},
            "model": {
                "path": str(teacher),
                "height": SIZE[0],
                "width": SIZE[1],
                "guidance": GUIDANCE,
                "max_sequence_length": LENGTH,
                **model,
            },
            "lora": {"rank": rank},
            "data": {"source": "files", "path": str(images), "cache": str(images.parent / "latents")},
            "diffusion": {"sigmas": SIGMAS},
            "rollout": {"group_size": 4, "groups_per_cycle": 2},
            "learner": {"engine": "torch"},
            "dmd": {"batch_size": 2, "gan_weight": 0.5},
            "fake_score": {"batch_size": 2},
            "discriminator": {
                "backbone": backbone,
                "batch_size": 2,
                "blocks": (0, 1),
                "mismatched_text": 0.5,
                "text_errors": None,
                "auc_high": 1.0,
            },
            "cadence": {"fake_score_updates": 1, "discriminator_updates": 1, "warm_dmd_updates": 0, "ramp_interval": 1},
        }
    )


# Every backbone with both ways to learn, each pair by one family or two.
OFTEN = {
    ("sd3", "teacher", 0),
    ("sd3", "fake_score", 2),
    ("flux", "own", 2),
    ("flux2", "own", 0),
    ("qwen_image", "fake_score", 0),
    ("z_image", "teacher", 2),
    ("sana", "own", 0),
    ("krea2", "fake_score", 0),
}
# Of those that learn with adapters above, or are packed as another that does.
SELDOM_HALF = {"flux", "z_image"}


@pytest.mark.parametrize(
    ("family", "backbone", "rank"),
    [
        pytest.param(family, backbone, rank, marks=[] if case in OFTEN else [pytest.mark.wide])
        for case in itertools.product(sorted(BUILDERS), ["teacher", "own", "fake_score"], [0, 2])
        for family, backbone, rank in [case]
    ],
    indirect=["family"],
)
def test_a_cycle_trains_every_network_and_acts_and_learns_alike(
    family_folder: Path, captioned_images: Path, tmp_path: Path, backbone: str, rank: int
) -> None:
    run = SerialRun(_config(family_folder, captioned_images, tmp_path, backbone, rank))
    before = stored_tensors(run.learner)
    reports = [run.cycle() for _ in range(2)]
    for report in reports:
        assert {name: update.updates for name, update in report.updates.items()} == {
            "fake_score": 1,
            "discriminator": 1,
            "rl": 1,
            "dmd": 1,
        }
        assert 0 <= report.fresh_deviation <= 1e-6
    after = stored_tensors(run.learner)
    for role in ("student", "fake_score", "discriminator"):
        assert before[role].keys() == after[role].keys()
        assert any(not torch.equal(before[role][name], after[role][name]) for name in before[role]), role
        assert all(is_adapter(name) == (rank > 0) for name in after[role] if not name.startswith("heads.")), role
    assert run.table.rollouts == len(run.table.texts) == 4


def _seldom(family: str, rank: int) -> bool:
    """Whether a family's run in bfloat16 is one of the further cases."""
    return family in SELDOM_HALF or (rank == 0 and family != "sd3")


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch of its own speed, once a process
@pytest.mark.parametrize(
    ("family", "rank"),
    [
        pytest.param(family, rank, marks=[pytest.mark.wide] if _seldom(family, rank) else [])
        for family, rank in itertools.product(sorted(BUILDERS), [0, 2])
    ],
    indirect=["family"],
)
def test_bfloat16_acts_and_learns_alike_too(
    family_folder: Path, captioned_images: Path, tmp_path: Path, rank: int
) -> None:
    run = SerialRun(_config(family_folder, captioned_images, tmp_path, "own", rank, precision="bfloat16"))
    for report in [run.cycle() for _ in range(2)]:
        assert 0 <= report.fresh_deviation <= RATIO_TOLERANCE["bfloat16"]
        assert report.updates["rl"].updates == 1
    assert all(tensor.dtype == torch.float32 for tensor in run.learner.ema().values())


def test_an_exported_student_gives_plain_diffusers_the_same_pixels(
    family_folder: Path, tmp_path: Path, stranger: Stranger
) -> None:
    generator = torch.Generator().manual_seed(7)
    weights = load_denoiser(family_folder).transformer.state_dict()
    student = {name: value + 0.01 * torch.randn(value.shape, generator=generator) for name, value in weights.items()}
    folder, settings = tmp_path / "student", SamplingSettings(LENGTH, *SIZE)
    export_student(
        family_folder,
        student,
        folder,
        sigmas_before_shift=SIGMAS,
        kernel="ode",
        sampling=settings,
        guidance=GUIDANCE,
        prompt=PROMPTS[0],
        about=About("student"),
    )
    info, exported = inspect_pipeline(folder), load_pipeline(folder)
    assert info.pixels == SIZE
    assert info.scheduler_shift == pytest.approx(inspect_pipeline(family_folder, SIZE).scheduler_shift)
    start = torch.randn(2, *info.latent.shape, generator=generator)
    conditioning = encode_prompts(exported, PROMPTS, LENGTH)
    with torch.no_grad():
        final = sample(
            denoiser_of(exported, GUIDANCE),
            conditioning,
            Kernel.ode(),
            student_sigmas(SIGMAS, info.scheduler_shift),
            start,
            [0, 1],
        )
    own = (image_decoder(exported)(final) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    arguments = {
        "max_sequence_length": LENGTH,
        "height": SIZE[0],
        "width": SIZE[1],
        **adapter(info.family).unguided(GUIDANCE),
    }
    np.savez(
        tmp_path / "numbers.npz",
        latents=starting_latents(info.family.name, start).numpy(),
        prompts=np.array(PROMPTS),
        sigmas=np.array(SIGMAS),
        allow_pickle=False,
        **{f"arg_{key}": np.array(value) for key, value in arguments.items()},
    )
    stranger.draw(folder, tmp_path / "numbers.npz", tmp_path / "out.npy")
    pixels = np.load(tmp_path / "out.npy")
    assert own.std() > 0.01
    np.testing.assert_allclose(pixels, own, rtol=0, atol=1e-4)
    readme = (folder / "README.md").read_text()
    assert f"height={SIZE[0]}" in readme
    assert f"from diffusers import {info.family.pipeline}" in readme


# Diffusers knows the width of FLUX's joined layers by heart, and reads no other keys for SD3.
OTHER_KEYS = LOADED_BY_DIFFUSERS - {"flux"}


@pytest.mark.parametrize(
    ("family", "alpha"),
    [
        pytest.param(family, alpha, marks=[] if alpha != 2 or family in OTHER_KEYS else [pytest.mark.wide])
        for family, alpha in itertools.product(sorted(BUILDERS), [2.0, 6.0])
    ],
    indirect=["family"],
)
def test_exported_adapters_do_in_plain_diffusers_what_they_do_here(
    family: str, family_folder: Path, tmp_path: Path, alpha: float
) -> None:
    keys: Convention = "kohya" if alpha == 6 and family in OTHER_KEYS else "diffusers"
    targets = ("to_q", "to_v", "to_out.0")
    role = add_lora(load_denoiser(family_folder, GUIDANCE), rank=2, alpha=alpha, targets=targets, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in role.named_parameters():
            if is_adapter(name):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    state = {name: parameter for name, parameter in role.named_parameters() if is_adapter(name)}
    export_adapters(
        family_folder,
        state,
        tmp_path / "adapters",
        scale=alpha / 2,
        sigmas_before_shift=SIGMAS,
        kernel="renoise",
        sampling=SamplingSettings(LENGTH, *SIZE),
        prompt=PROMPTS[0],
        about=About("student"),
        keys=keys,
    )
    pipeline, info = load_pipeline(family_folder), inspect_pipeline(family_folder, SIZE)
    conditioning = encode_prompts(pipeline, PROMPTS, LENGTH)
    x, t = torch.randn(2, *info.latent.shape, generator=generator), torch.tensor([0.3, 0.8])
    with torch.no_grad():
        before = denoiser_of(pipeline, GUIDANCE)(x, t, conditioning)
        pipeline.load_lora_weights(str(tmp_path / "adapters"))
        theirs, ours = denoiser_of(pipeline, GUIDANCE)(x, t, conditioning), role(x, t, conditioning)
    assert (ours - before).abs().max() > 1e-2
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
