"""The benchmark runs from end to end without a GPU, and claims nothing that was not measured."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.diffusion.sampling import sample
from advdmd_ray.diffusion.seeds import group_noise
from advdmd_ray.learner.gang import SoloGang
from advdmd_ray.learner.networks import Networks
from benchmarks import command, learning
from benchmarks.card import PEAKS, peak_of
from benchmarks.command import main
from benchmarks.document import figures, table
from benchmarks.flops import forward_flops, update_flops
from benchmarks.learning import TimedLearner
from benchmarks.parts import Settings, config_of, random_table, random_teacher, sigmas_of
from benchmarks.rollouts import plain_loop
from benchmarks.sizes import TINY
from benchmarks.timing import Stopwatch, Timing, timed
from small_parts import SIGMAS as LEVELS
from small_parts import Judge, Mixer, config, infos_of, learner, real_images, scored_groups
from small_parts import table as small_table

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
ARGUMENTS = ["--size", "tiny", "--device", "cpu"]
UPDATES = {"fake_score", "discriminator", "dmd", "rl"}
SETTINGS = Settings(TINY, CPU, ("lora",), engine="torch", checkpointing=True, rows=TINY.rows)
# torch says once a process that a normalisation of mixed types has a speed of its own
pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command with its own engine leaves."""
    out = tmp_path_factory.mktemp("bench") / "new" / "tiny.json"
    line = [sys.executable, "-m", "benchmarks", *ARGUMENTS, "--out", str(out)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads(out.read_text())
    assert table(written) in done.stdout
    return written


def test_a_document_says_what_was_measured_where_and_of_which_commit(document: dict[str, Any]) -> None:
    assert document["settings"]["size"] == "tiny"
    assert document["settings"]["engine"] == "deepspeed"
    assert document["settings"]["text_tokens"] == TINY.text_tokens
    hardware = document["hardware"]
    assert hardware["device"].startswith("CPU")
    assert hardware["memory_bytes"] > 2**30
    assert hardware["versions"]["torch"] == torch.__version__
    if (ROOT / ".git").exists():
        assert len(document["commit"].removesuffix("-dirty")) == 40
    assert document["transformer"]["forward_flops"] == forward_flops(TINY).forward


def test_a_cpu_claims_neither_speed_nor_utilisation_nor_memory(document: dict[str, Any]) -> None:
    assert not document["gpu_figure"]
    assert document["note"].startswith("no figure of speed")
    assert document["hardware"]["peak_tflops"] is None
    rows = [*document["rollout"].values()]
    for part in document["learner"].values():
        rows += [*part["updates"].values(), part["cycle"]]
    assert len(rows) == 3 + 2 * 5
    assert {row["mfu"] for row in rows} == {row["peak_bytes"] for row in rows} == {None}
    assert "no utilisation is claimed" in table(document)


def test_every_figure_has_its_repeats_its_spread_and_its_rate(document: dict[str, Any]) -> None:
    assert set(document["rollout"]) == {"plain", "lora", "full"}
    assert set(document["learner"]) == {"lora", "full"}
    rows = [*document["rollout"].values()]
    for learns, part in document["learner"].items():
        assert set(part["updates"]) == UPDATES
        assert part["skipped_updates"] == 0
        assert part["ratio_deviation"] <= part["ratio_tolerance"]
        counted = update_flops(config_of(SETTINGS, learns), TINY)
        assert {name: row["flops"] for name, row in part["updates"].items()} == counted
        rows += part["updates"].values()
    for row in rows:
        assert len(row["seconds"]) == 5
        assert 0 < row["least_s"] <= row["median_s"] <= row["most_s"]
        assert row["images_per_s"] == pytest.approx(row["images"] / row["median_s"])
        assert row["tflops_per_s"] == pytest.approx(row["flops"] / row["median_s"] / 1e12)
    plain = document["rollout"]["plain"]["images_per_s"]
    for learns in ("lora", "full"):
        assert document["rollout"][learns]["of_plain"] == pytest.approx(
            document["rollout"][learns]["images_per_s"] / plain
        )


def test_adapters_are_what_learns_with_lora_and_whole_networks_without(document: dict[str, Any]) -> None:
    weights = document["transformer"]["weights"]
    assert document["learner"]["full"]["trainable"]["student"] == weights
    # 9 attentions, each with 4 matrices that have factors A and B of rank 4 and width 32
    assert document["learner"]["lora"]["trainable"]["student"] == 9 * 4 * 2 * 4 * 32
    assert document["learner"]["lora"]["discriminator_backbone"] == "own"


def test_without_a_cuda_device_it_says_so_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    assert capsys.readouterr().out == "no CUDA device here: nothing was measured\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size", "huge"], "invalid choice: 'huge'"),
        (["--device", "cpu"], "give --size tiny, or --device cuda"),
        ([*ARGUMENTS, "--repeats", "4"], "--repeats must be at least 5, got 4"),
        ([*ARGUMENTS, "--rows", "0"], "--rows must be at least 1, got 0"),
        ([*ARGUMENTS, "--out", __file__], "exists; name another file"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_what_does_not_fit_into_memory_is_said_to_be_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has a capacity of ...")

    monkeypatch.setattr(learning, "time_learner", too_large)
    document = command.measure(SETTINGS)
    assert document["learner"] == {"lora": {"not_measured": "CUDA out of memory. Tried to allocate 9.00 GiB"}}
    assert document["rollout"]["lora"]["images_per_s"] > 0
    assert "learner, lora: not measured: CUDA out of memory" in table(document)


def test_utilisation_is_the_share_of_the_peak_and_nothing_for_an_unknown_card() -> None:
    timing = Timing((4.0, 1.0, 2.0), peak_bytes=7)
    row = figures(timing, images=8, flops=10**14, peak_tflops=100.0)
    assert row["median_s"] == 2.0
    assert row["mfu"] == pytest.approx(0.5)
    assert row["images_per_s"] == 4.0
    assert figures(timing, images=8, flops=10**14, peak_tflops=None)["mfu"] is None
    assert peak_of("NVIDIA H100 80GB HBM3")[0] == 989.4
    unknown, why = peak_of("NVIDIA H100 80GB HBM3 MIG 1g.10gb")
    assert unknown is None
    assert "no utilisation is claimed" in why
    assert all(source for _, source in PEAKS.values())


def test_a_gpu_has_done_its_work_whenever_the_stopwatch_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: events.append("waited"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: events.append("forgot"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 42)
    timing = timed(lambda: events.append("worked"), Stopwatch(torch.device("cuda")), warm_up=2, repeats=2)
    assert events == ["worked", "worked", "forgot", *["waited", "worked", "waited"] * 2]
    assert timing.peak_bytes == 42
    assert len(timing.seconds) == 2


def test_the_plain_loop_draws_what_our_sampler_draws_from_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, prompts = random_teacher(SETTINGS, torch.bfloat16), random_table(SETTINGS).of(0, 3)
    sigmas, seeds = sigmas_of(config_of(SETTINGS, "lora")), [1, 2, 3]
    x = group_noise(TINY.latent, seeds, "initial")
    fresh = iter([group_noise(TINY.latent, seeds, "step", step) for step in range(3)])
    monkeypatch.setattr(torch, "randn_like", lambda _: next(fresh))
    plain = plain_loop(teacher.transformer, prompts, x, sigmas.tolist())
    ours = sample(teacher, prompts, Kernel.renoise(), sigmas, x, seeds=seeds)
    assert next(fresh, None) is None
    # One is bfloat16 throughout, the other by autocast.
    assert (plain - ours).abs().mean() < 0.02 * ours.abs().mean()


def test_a_timed_learner_learns_what_the_learner_learns_and_times_every_update() -> None:
    settings = config(policy_gradient={"minibatches": 2}, cadence={"fake_score_updates": 3})
    student, critic = Mixer(1), Judge(2)
    groups = scored_groups(student, critic)
    plainly = learner(settings, student=Mixer(1), critic=Judge(2))
    watched = TimedLearner(
        Stopwatch(CPU),
        settings,
        SoloGang(),
        Networks(Mixer(1), student, Mixer(20), critic),
        small_table(),
        real_images(),
        kernel=Kernel.renoise(),
        sigmas=LEVELS,
    )
    for _ in range(2):
        plainly.cycle(groups, infos_of(groups))
        watched.cycle(groups, infos_of(groups))
    for name, weight in plainly.ema().items():
        assert torch.equal(watched.ema()[name], weight)
    counts = {name: len(timing.seconds) for name, timing in watched.timings().items()}
    assert counts == {"fake_score": 6, "discriminator": 2, "rl": 4, "dmd": 2}
    watched.forget()
    assert watched.timings() == {}
