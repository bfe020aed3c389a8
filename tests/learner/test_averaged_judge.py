"""The heads that give the rewards are an average of the trained ones, and the AUC that gates RL is theirs."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from advdmd_ray.learner.batch import collate
from advdmd_ray.learner.checkpoint import open_checkpoint, save_checkpoint
from advdmd_ray.learner.ema import warm_decay
from advdmd_ray.learner.learner import Learner
from advdmd_ray.stations.weights.snapshot import digest_of, unpack
from small_parts import Judge, Mixer, config, heldout_auc, infos_of, learner, scored_groups


def _learner(decay: float) -> Learner:
    settings = config(
        reward={"ema_decay": decay},
        discriminator={"batch_size": 64, "learning_rate": 0.1, "text_errors": None, "auc_high": 1.0, "auc_decay": 0.0},
        cadence={"warm_dmd_updates": 1000},
    )
    return learner(settings, student=Mixer(1), critic=Judge(2))


def _cycle(taught: Learner) -> tuple[float, ...]:
    student = Mixer(1)
    student.load_state_dict(taught._engines["student"].state_dict())
    groups = scored_groups(student, Judge(2), range(4), version=taught.version)
    return taught.cycle(groups, infos_of(groups)).auc


def _heads(taught: Learner) -> dict[str, Tensor]:
    return taught._engines["discriminator"].state_dict()


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_what_is_published_averages_the_heads_once_per_cycle(decay: float) -> None:
    taught = _learner(decay)
    expected = _heads(taught)
    for cycle in range(3):
        _cycle(taught)
        now = warm_decay(decay, cycle)
        expected = {name: now * expected[name] + (1 - now) * head for name, head in _heads(taught).items()}
        published = unpack(taught.snapshots()[1])
        for name, head in expected.items():
            torch.testing.assert_close(published[name], head)
    assert (digest_of(unpack(taught.snapshots()[1])) == digest_of(_heads(taught))) == (decay == 0)


def test_the_auc_is_that_of_the_published_heads_and_not_of_the_trained_ones() -> None:
    taught = _learner(0.95)
    for _ in range(3):
        _cycle(taught)
    published, trained = copy.deepcopy(Judge(2)), copy.deepcopy(Judge(2))
    published.load_state_dict(unpack(taught.snapshots()[1]))
    trained.load_state_dict(_heads(taught))
    student = Mixer(1)
    student.load_state_dict(taught._engines["student"].state_dict())
    version = taught.version
    batch = collate(scored_groups(student, Judge(2), range(4), version=version), version)
    areas = [
        heldout_auc(judge, taught._settings[0], batch, ("auc", version)).tolist() for judge in (published, trained)
    ]
    assert areas[0] != areas[1]
    assert list(_cycle(taught)) == areas[0]


def test_the_average_goes_on_after_a_checkpoint(tmp_path: Path) -> None:
    whole, second = _learner(0.9), _learner(0.9)
    _cycle(whole)
    saved = save_checkpoint(tmp_path, whole.version, whole.tensors(), {"learner": whole.facts()}, 1)
    second.restore(open_checkpoint(saved))
    for taught in (whole, second):
        _cycle(taught)
    assert whole.snapshots()[1].manifest == second.snapshots()[1].manifest
