"""Every contestant brings the learner's newest weights into the actor's network, and ours alone proves it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from advdmd_ray.errors import WeightsMismatchError
from advdmd_ray.models.merging import MergedLinear
from advdmd_ray.stations.weights.snapshot import digest_of
from bench_subjects import CPU, BesideUs, subject_of
from benchmarks.parts import random_teacher
from benchmarks.publishing import PUT, SAVED, Publisher, learnt_weights, published_bytes, time_publishing
from benchmarks.rollouts import OURS
from benchmarks.timing import Stopwatch

NAMES = ["tiny_sd3", "tiny_qwen_image_lora"]


@pytest.mark.parametrize("name", NAMES)
def test_every_way_ends_with_the_newest_weights_in_the_actors_network(name: str, tmp_path: Path) -> None:
    subject = subject_of(name, tmp_path)
    weights, actor = learnt_weights(subject, random_teacher(subject)), BesideUs(subject)
    publisher = Publisher(weights, actor, tmp_path)
    assert set(publisher.ways) == {OURS, SAVED, PUT}
    seen = {digest_of(weights)}
    for _ in range(2):
        for way in publisher.ways.values():
            way()
            held = actor.call("digest")
            assert held == digest_of(weights)
            assert held not in seen
            seen.add(held)
    assert [method for method in actor.called if method != "digest"] == ["load", "load_file", "load_state"] * 2


def test_merged_adapters_are_merged_anew_by_every_way(tmp_path: Path) -> None:
    subject = subject_of("tiny_qwen_image_lora", tmp_path)
    weights, actor = learnt_weights(subject, random_teacher(subject)), BesideUs(subject)
    layer = next(module for module in actor.actor._network.modules() if isinstance(module, MergedLinear))
    publisher = Publisher(weights, actor, tmp_path)
    for way in publisher.ways.values():
        before = layer.merged.clone()
        for each in weights.values():
            each.normal_()
        way()
        expected = layer.base_layer.weight.float() + layer._scale * (
            layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        )
        assert torch.equal(layer.merged, expected.to(layer.merged.dtype))
        assert not torch.equal(layer.merged, before)


def test_with_adapters_they_alone_travel_and_else_all_that_learns(tmp_path: Path) -> None:
    for name in NAMES:
        subject = subject_of(name, tmp_path)
        teacher = random_teacher(subject)
        weights = learnt_weights(subject, teacher)
        assert all((".lora_" in each) == (subject.learns == "lora") for each in weights)
        assert {each.dtype for each in weights.values()} == {torch.float32}
        assert not any(each.requires_grad for each in teacher.parameters())
        size = sum(each.nbytes for each in weights.values())
        # The table of positions, 16 x 16 places of 32 channels, is in the file and does not learn.
        assert published_bytes(subject) == size + (4 * 16 * 16 * 32 if name == "tiny_sd3" else 0)


def test_the_figures_have_the_bytes_and_tensors_that_travelled(tmp_path: Path) -> None:
    subject = subject_of("tiny_qwen_image_lora", tmp_path)
    actor = BesideUs(subject)
    timings, size, tensors = time_publishing(subject, random_teacher(subject), actor, Stopwatch(CPU))
    payload: Any = next(value for value in actor.stored if isinstance(value, tuple))
    assert size == sum(each.nbytes for each in payload)
    # 3 blocks, 8 maps of attention, factors A and B of rank 4 and width 32
    assert (tensors, size) == (3 * 8 * 2, 3 * 8 * 2 * 4 * 32 * 4)
    assert all(len(timing.seconds) == subject.settings.repeats for timing in timings.values())


def test_bytes_that_are_damaged_on_the_way_stop_our_way(tmp_path: Path) -> None:
    class Damaged(BesideUs):
        """Its store flips a bit."""

        def put(self, value: Any) -> Any:
            reference = super().put(value)
            if isinstance(value, tuple):
                self.stored[-1][0][0] ^= 1
            return reference

    subject = subject_of("tiny_sd3", tmp_path)
    publisher = Publisher(learnt_weights(subject, random_teacher(subject)), Damaged(subject), tmp_path)
    with pytest.raises(WeightsMismatchError, match="the payload has digest"):
        publisher.ways[OURS]()


def test_a_rival_whose_actor_holds_other_weights_is_found_out(tmp_path: Path) -> None:
    class Forgetful(BesideUs):
        """Loads no file."""

        def call(self, method: str, *values: Any) -> Any:
            return None if method == "load_file" else super().call(method, *values)

    subject = subject_of("tiny_sd3", tmp_path)
    publisher = Publisher(learnt_weights(subject, random_teacher(subject)), Forgetful(subject), tmp_path)
    with pytest.raises(RuntimeError, match=r"torch.save and load: the actor holds other weights"):
        publisher.check()
