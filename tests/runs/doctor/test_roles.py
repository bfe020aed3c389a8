"""What the doctor says of the workers' places: CPUs, GPUs, memory and object store, role by role."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from advdmd_ray.config import Config
from advdmd_ray.runs.doctor import roles
from advdmd_ray.runs.doctor.finding import Finding
from advdmd_ray.runs.doctor.nodes import HERE, Node
from advdmd_ray.runs.doctor.roles import examine_memory, examine_placement, examine_roles, examine_store
from advdmd_ray.runs.needs.memory import GIB, memory
from advdmd_ray.runs.needs.spilling import Disk
from advdmd_ray.runs.needs.texts import TextNeed
from large_model import SIZES

WHOLE = replace(SIZES, adapters=0)
HEAD = Node("head", cpus=8, gpus=0, memory=500 * GIB, object_store=100 * GIB)
GPU = Node("gpu", cpus=32, gpus=8, memory=500 * GIB, object_store=100 * GIB, gpu="H100", gpu_memory=80 * GIB)
ON_GPUS: dict[str, dict[str, Any]] = {
    "rollout": {"num_gpus": 1.0, "micro_batch": 1},
    "reward": {"num_gpus": 1.0, "micro_batch": 1},
    "learner": {"num_gpus": 1.0, "micro_batch": 1, "gradient_checkpointing": True},
    "model": {"precision": "bfloat16"},
    "lora": {"rank": 16},
}


def config(**sections: Mapping[str, Any]) -> Config:
    return Config.model_validate({**ON_GPUS, **{key: {**ON_GPUS.get(key, {}), **own} for key, own in sections.items()}})


def found(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings}


def test_every_role_is_told_with_its_largest_part() -> None:
    roles = found(examine_roles(config(), SIZES, [HEAD, GPU]))
    assert list(roles) == ["prompts", "rollout", "reward", "learner"]
    assert {finding.state for finding in roles.values()} == {"ok"}
    assert roles["rollout"].text.startswith("2 workers, ")
    assert "GiB on a GPU and" in roles["rollout"].text
    assert "the largest part is student, 3.8 GiB" in roles["rollout"].text


def test_a_worker_that_fits_no_node_is_a_change_of_its_own_setting() -> None:
    many = found(examine_roles(config(learner={"num_cpus": 33.0}), SIZES, [HEAD, GPU]))
    assert [name for name, finding in many.items() if finding.state == "change"] == ["learner"]
    assert many["learner"].text.endswith("gpu has 32 CPUs, a worker asks for 33; lower learner.num_cpus")
    wide = found(examine_roles(config(reward={"num_gpus": 9.0}), SIZES, [HEAD, GPU]))
    assert wide["reward"].text.endswith("gpu has 8 GPUs, a worker asks for 9; lower reward.num_gpus")


def test_a_node_that_has_the_memory_but_no_gpu_does_not_do() -> None:
    poor = replace(GPU, memory=1 * GIB)
    roles = found(examine_roles(config(), SIZES, [HEAD, poor]))
    assert roles["learner"].state == "change"
    assert "gpu has 1.0 GiB; networks go to a GPU through host memory" in roles["learner"].text


def test_no_gpu_at_all_is_said_once_and_not_by_every_role() -> None:
    roles = examine_roles(config(), SIZES, [HEAD])
    assert {finding.state for finding in roles} == {"note"}
    placed = examine_placement(config(), [HEAD])
    assert placed.state == "change"
    assert "4 of 0 GPUs; lower the num_gpus of a role, or rollout.actors, or add nodes" in placed.text


def test_gpus_of_unknown_size_are_worth_a_note() -> None:
    roles = examine_roles(config(), SIZES, [replace(GPU, gpu="A100", gpu_memory=None)])
    assert {finding.state for finding in roles} == {"note"}
    assert all("how much a GPU has is not known here" in finding.text for finding in roles)


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"learner": {"micro_batch": None}}, "set learner.micro_batch=1"),
        ({"learner": {"micro_batch": 8}}, "set learner.micro_batch=4"),
        ({"learner": {"gradient_checkpointing": False}}, "set learner.gradient_checkpointing=true"),
        ({"lora": {"rank": 0}}, "set lora.rank above 0"),
        ({"model": {"precision": "float32"}}, "set model.precision=bfloat16"),
        ({}, "set model.quantization=int8, or use a machine with more memory"),
        ({"model": {"precision": "bfloat16", "quantization": "int8"}}, "use a machine with more memory"),
    ],
)
def test_a_gpu_that_is_too_small_names_the_setting_that_shrinks_the_largest_part(
    sections: dict[str, dict[str, Any]], says: str
) -> None:
    sizes = WHOLE if "lora" in sections else SIZES
    if not sections or "model" in sections:
        # Weights count most.
        sizes = replace(sizes, transformer=20 * 10**9)
    learner = found(examine_roles(config(**sections), sizes, [replace(GPU, gpu_memory=2 * GIB)]))["learner"]
    assert learner.state == "change"
    assert f"a worker's share of a GPU of gpu is 2.0 GiB; {says}" in learner.text


def test_workers_that_share_a_gpu_share_its_memory() -> None:
    whole, half = (
        found(examine_roles(config(reward={"num_gpus": share}), SIZES, [replace(GPU, gpu_memory=6 * GIB)]))["reward"]
        for share in (1.0, 0.5)
    )
    assert (whole.state, half.state) == ("ok", "change")


def test_workers_that_fit_one_by_one_may_not_fit_together() -> None:
    # 3 + 3 CPUs do not leave 2 in one place for the last.
    nodes = [replace(HEAD, cpus=4), replace(HEAD, name="other", cpus=4)]
    settings = Config.model_validate(
        {"learner": {"num_cpus": 3.0}, "reward": {"num_cpus": 3.0}, "rollout": {"num_cpus": 2.0, "actors": 1}}
    )
    placed = examine_placement(settings, nodes)
    assert placed.state == "note"
    assert "a rollout worker may find no node with all it needs left" in placed.text


def test_workers_of_more_than_half_a_gpu_do_not_share_one() -> None:
    wide = config(rollout={"num_gpus": 0.6, "actors": 4}, reward={"num_gpus": 0.6}, learner={"num_gpus": 0.5})
    few, enough = (replace(GPU, gpus=count) for count in (4, 6))
    placed = examine_placement(wide, [HEAD, few])
    assert placed.state == "change"
    assert "3.5 of 4 GPUs, but 5 GPUs are wanted by workers of more than half of one" in placed.text
    assert examine_placement(wide, [HEAD, enough]).state == "ok"


def test_a_share_of_a_gpu_is_a_share_of_one() -> None:
    # 0.4 and 0.4 leave 0.2 of each; no third 0.4 finds a place, although 0.4 are left in all.
    shares = config(rollout={"num_gpus": 0.4, "actors": 3}, reward={"num_gpus": 0.4}, learner={"num_gpus": 0.4})
    placed = examine_placement(shares, [replace(GPU, gpus=2)])
    assert placed.state == "note"
    assert "worker may find no node with all it needs left" in placed.text
    assert examine_placement(shares, [replace(GPU, gpus=3)]).state == "ok"


def test_gpus_beyond_a_workers_first_are_worth_a_note() -> None:
    reward = found(examine_roles(config(reward={"num_gpus": 2.0}), SIZES, [HEAD, GPU]))["reward"]
    assert reward.state == "note"
    assert "a worker computes on one GPU, so 1 of 2 idle" in reward.text


def test_a_worker_with_more_threads_than_cores_is_worth_a_note() -> None:
    eager = Config.model_validate({"learner": {"threads": 8}})
    placed = examine_placement(eager, [replace(HEAD, cpus=6)])
    assert placed.state == "note"
    assert placed.text.endswith("a worker of learner computes with 8 threads on at most 6 cores: lower learner.threads")


def test_many_threads_on_few_cores_are_worth_a_note() -> None:
    crowded = Config.model_validate({"rollout": {"threads": 16}})
    assert examine_placement(crowded, [replace(HEAD, cpus=4)]).text.endswith("together they compute with 34 threads")
    assert examine_placement(crowded, [replace(HEAD, cpus=64)]).state == "ok"


def test_host_memory_is_that_of_all_workers_and_of_a_local_object_store() -> None:
    settings = Config()
    needed = sum(row.host_of_all for row in memory(settings, SIZES))
    there = replace(HEAD, memory=needed)
    assert examine_memory(settings, SIZES, [there]).state == "ok"
    local = examine_memory(settings, SIZES, [replace(there, name=HERE)])
    assert local.state == "change"
    assert "all workers and an object store of 512 MiB need" in local.text
    assert "lower ray.object_store_bytes" in local.text


def test_one_process_holds_the_encoded_texts_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Config()
    monkeypatch.setattr(roles, "text_need", lambda _: TextNeed(texts=2, each=GIB, folder=None, free=0))
    there = replace(HEAD, name=HERE, memory=2 * GIB)
    found = examine_memory(settings, SIZES, [there], processes=False)
    assert found.state == "change"
    assert "all workers and encoded texts of 2.0 GiB need" in found.text
    assert "object_store" not in found.text
    monkeypatch.setattr(roles, "text_need", lambda _: TextNeed(texts=2, each=GIB, folder=Path("/texts"), free=0))
    assert "texts" not in examine_memory(settings, SIZES, [there], processes=False).text


def test_the_role_that_needs_most_memory_is_the_one_to_make_smaller() -> None:
    many = Config.model_validate({"rollout": {"actors": 100, "micro_batch": 1}, "learner": {"micro_batch": 1}})
    assert "rollout needs the most: lower rollout.actors" in examine_memory(many, WHOLE, [HEAD]).text
    one = Config.model_validate({"learner": {"micro_batch": 1}})
    few = replace(HEAD, memory=10 * GIB)
    assert "learner needs the most: set lora.rank above 0" in examine_memory(one, WHOLE, [few]).text


def test_what_the_object_store_cannot_hold_goes_to_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roles, "ray_disk", lambda: Disk(Path("/disk/ray"), 10**15))
    snapshot = 4 * WHOLE.transformer
    settings = Config()
    for size, state in ((snapshot, "note"), (5 * snapshot, "ok")):
        assert examine_store(settings, WHOLE, [replace(HEAD, object_store=size)]).state == state
    here = examine_store(settings, WHOLE, [replace(HEAD, name=HERE, object_store=snapshot)])
    assert "raise ray.object_store_bytes to " in here.text
    monkeypatch.setattr(roles, "ray_disk", lambda: Disk(Path("/full/ray"), 5))
    full = examine_store(settings, WHOLE, [replace(HEAD, name=HERE, object_store=snapshot)])
    assert full.state == "change"
    assert "to /full/ray, which is slow, and only 0 MiB may be written there" in full.text


def test_what_auto_will_take_is_said_for_the_memory_of_the_gpu() -> None:
    auto = config(rollout={"micro_batch": "auto"}, learner={"micro_batch": "auto"})
    roles = found(examine_roles(auto, SIZES, [HEAD, GPU]))
    assert roles["rollout"].text.endswith("; micro_batch=auto takes all rows at a time")
    assert "micro_batch" not in roles["reward"].text
    small = found(examine_roles(auto, SIZES, [HEAD, replace(GPU, gpu_memory=12 * GIB)]))
    taken = re.search(r"micro_batch=auto takes (\d+) rows at a time", small["learner"].text)
    assert taken is not None
    assert small["learner"].state == "ok"
    unknown = found(examine_roles(auto, SIZES, [HEAD, replace(GPU, gpu_memory=None)]))
    assert unknown["learner"].text.endswith("micro_batch=auto takes as many rows as fit; counted is one")
