"""The pods of a run hold its workers, no more than Ray puts there, with the memory that the plan counts."""

import math
from dataclasses import replace

import pytest
import yaml

from advdmd_ray.cli import main
from advdmd_ray.config import Config, read_config
from advdmd_ray.runs.doctor.kubernetes import cluster_spec
from advdmd_ray.runs.needs.memory import GIB, Sizes, memory, object_store_demand, sizes_of
from advdmd_ray.runs.needs.pods import GPUS_OF_A_MACHINE, PodGroup, head_pod, pod_groups

ON_GPUS = ("rollout.num_gpus=0.5", "reward.num_gpus=0.25", "learner.num_gpus=1")
CASES = (
    (),
    ("rollout.actors=7", "reward.workers=5", "rollout.num_cpus=0.3", "reward.num_cpus=2"),
    ("rollout.num_cpus=0", "rollout.actors=3", "rollout.threads=2"),
    ("rollout.actors=5", "reward.workers=6", "learner.ranks=4", *ON_GPUS),
    ("learner.ranks=16", "rollout.groups_per_cycle=16", *ON_GPUS),
    ("autoscale.enabled=true", "autoscale.rollout_max=6", "autoscale.reward_max=3", "ray.placement=labelled"),
)
every_case = pytest.mark.parametrize("overrides", CASES)


def planned(overrides: tuple[str, ...]) -> tuple[Config, Sizes, dict[str, PodGroup]]:
    config = read_config("digits", list(overrides))
    sizes = sizes_of(config)
    return config, sizes, {group.role: group for group in pod_groups(config, sizes)}


@every_case
def test_all_workers_have_a_pod_and_ray_puts_no_more_into_one_than_it_was_made_for(overrides: tuple[str, ...]) -> None:
    config, _, groups = planned(overrides)
    scale = config.autoscale
    most = {
        "learner": config.learner.ranks,
        "rollout": scale.rollout_max if scale.enabled else config.rollout.actors,
        "reward": scale.reward_max if scale.enabled else config.reward.workers,
    }
    for name, group in groups.items():
        section, pod = config.roles[name], group.pod
        assert group.most == math.ceil(most[name] / group.workers)
        assert group.workers * section.num_cpus <= pod.logical_cpus
        assert group.workers * section.num_gpus <= pod.gpus
        assert pod.cpus >= group.workers * section.threads
        one_more = (group.workers + 1) * section.num_cpus > pod.logical_cpus or (
            (group.workers + 1) * section.num_gpus > pod.gpus
        )
        assert one_more or group.workers == most[name]


@every_case
def test_a_pods_memory_holds_its_workers_and_its_object_store_all_that_waits(overrides: tuple[str, ...]) -> None:
    config, sizes, groups = planned(overrides)
    rows = {row.role: row for row in memory(config, sizes)}
    for name, group in groups.items():
        workers = rows[name].host + (group.workers - 1) * rows[name].host_of_another
        assert group.pod.memory >= workers + group.pod.shared
        assert group.pod.shared > group.pod.store >= object_store_demand(config, sizes)
        assert group.pod.memory % GIB == group.pod.shared % GIB == 0
        assert group.pod.memory <= max(workers, 8 * rows["rollout"].host) + group.pod.shared + 2 * GIB, (
            "no more than that"
        )
    assert groups["rollout"].pod.memory >= rows["prompts"].host + groups["rollout"].pod.shared


def test_text_encoders_count_where_prompts_are_encoded_and_nowhere_else() -> None:
    config, sizes, groups = planned(())
    large = {g.role: g.pod.memory for g in pod_groups(config, replace(sizes, others=8 * GIB))}
    assert large["rollout"] > groups["rollout"].pod.memory + 7 * GIB
    assert large["reward"] == groups["reward"].pod.memory


def test_the_ranks_of_a_gang_are_in_as_few_equal_pods_as_machines_have_gpus_for() -> None:
    learner = planned(("learner.ranks=16", "rollout.groups_per_cycle=16", "learner.num_gpus=1"))[2]["learner"]
    assert (learner.workers, learner.most, learner.pod.gpus) == (GPUS_OF_A_MACHINE, 2, GPUS_OF_A_MACHINE)
    learner = planned(
        (
            "learner.ranks=12",
            "rollout.groups_per_cycle=12",
            "learner.num_gpus=1",
            "dmd.batch_size=12",
            "fake_score.batch_size=12",
            "discriminator.batch_size=12",
        )
    )[2]["learner"]
    assert (learner.workers, learner.most) == (6, 2)


def test_pods_are_there_before_the_run_asks_only_where_no_label_leads_to_them() -> None:
    assert {group.first for group in planned(("ray.placement=labelled",))[2].values()} == {0}
    groups = planned(("rollout.actors=3", "rollout.num_cpus=1"))[2]
    assert (groups["rollout"].first, groups["rollout"].most) == (3, 3)


def test_the_head_offers_no_cpu_and_has_memory_for_the_export() -> None:
    _, sizes, _ = planned(("rollout.num_gpus=1",))
    pod = head_pod(sizes)
    assert (pod.logical_cpus, pod.gpus) == (0, 0)
    larger = head_pod(replace(sizes, transformer=sizes.transformer + GIB))
    assert larger.memory - pod.memory >= 8 * GIB, "the student and its merged copy, in float32"


def test_the_doctor_prints_the_pods_as_a_rayjob_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["rollout.num_gpus=1", "ray.placement=labelled"]
    assert main(["doctor", "--config", "digits", "--kubernetes", *overrides]) == 0
    said = yaml.safe_load(capsys.readouterr().out)
    config = read_config("digits", overrides)
    assert said == cluster_spec(config, sizes_of(config))
    rollout = next(group for group in said["workerGroupSpecs"] if group["groupName"] == "rollout")
    (container,) = rollout["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == container["resources"]["requests"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
