"""A field has the networks of its checkpoint: the student that learns, and the discriminator that scores."""

from pathlib import Path

import pytest
import torch
from torch import nn

from advdmd_ray.errors import CheckpointError, UserError
from advdmd_ray.learner.checkpoint import save_checkpoint
from advdmd_ray.learner.learner import Learner
from advdmd_ray.learner.networks import Networks
from advdmd_ray.stations.weights.snapshot import Snapshot, unpack
from benchmarks.estimators.opening import checkpoint_at, load_networks, open_field
from small_parts import Judge, Mixer, config, infos_of, learner, scored_groups


@pytest.fixture
def taught() -> Learner:
    settings = config(reward={"ema_decay": 0.9}, discriminator={"learning_rate": 0.1}, dmd={"learning_rate": 0.1})
    student, critic = Mixer(1), Judge(2)
    one = learner(settings, student=student, critic=critic)
    groups = scored_groups(Mixer(1), Judge(2))
    one.cycle(groups, infos_of(groups))
    return one


def holds(network: nn.Module, snapshot: Snapshot) -> bool:
    return all(torch.equal(dict(network.named_parameters())[name], weight) for name, weight in unpack(snapshot).items())


def test_the_student_is_the_one_that_learns_and_the_discriminator_the_average_that_scores(
    taught: Learner, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "checkpoints", 1, taught.tensors(), {"learner": taught.facts()}, 1)
    networks = Networks(Mixer(1), Mixer(7), Mixer(8), Judge(9))
    load_networks(checkpoint_at(tmp_path), networks)
    student, discriminator = taught.snapshots()
    assert holds(networks.student, student)
    assert holds(networks.discriminator, discriminator)
    assert not any(weight.requires_grad for weight in networks.discriminator.parameters())
    assert all(weight.requires_grad for weight in networks.student.parameters())


def test_a_checkpoint_is_given_itself_or_by_its_run(taught: Learner, tmp_path: Path) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path / "checkpoints", step, taught.tensors(), {"learner": taught.facts()}, 2)
    assert checkpoint_at(tmp_path).step == 2
    assert checkpoint_at(tmp_path / "checkpoints" / "step-00000001").step == 1
    with pytest.raises(UserError, match="there is no folder"):
        checkpoint_at(tmp_path / "none")
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        checkpoint_at(tmp_path / "checkpoints")


def test_settings_over_the_runs_are_checked_like_a_runs(taught: Learner, tmp_path: Path) -> None:
    facts = {"learner": taught.facts(), "config": config().model_dump(mode="json")}
    save_checkpoint(tmp_path / "checkpoints", 1, taught.tensors(), facts, 1)
    checkpoint = checkpoint_at(tmp_path)
    with pytest.raises(UserError, match=r"^--set policy_gradient\.rows=3: unknown key policy_gradient\.rows"):
        open_field(checkpoint, ["policy_gradient.rows=3"], 0)
    with pytest.raises(UserError, match=r"^--set 'gamma': expected section\.key=value"):
        open_field(checkpoint, ["gamma"], 0)
