"""The configuration: whatever is wrong is one line that says what came, what is allowed and what to do."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from advdmd_ray.config import Config, Resume, dump_config, read_config
from advdmd_ray.errors import UserError

CONFIGS = Path(__file__).parent.parent / "configs"


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert read_config(write(tmp_path, "")) == Config()


@pytest.mark.parametrize("name", ["digits.yaml", "digits_2step.yaml", "shapes.yaml"])
def test_a_dumped_configuration_reads_back_as_itself(tmp_path: Path, name: str) -> None:
    config = read_config(CONFIGS / name)
    assert read_config(write(tmp_path, dump_config(config))) == config


def test_the_two_step_recipe_differs_only_in_name_and_levels() -> None:
    four, two = (read_config(CONFIGS / name) for name in ("digits.yaml", "digits_2step.yaml"))
    assert (four.steps, two.steps) == (4, 2)
    assert two.model_copy(update={"run": four.run, "diffusion": four.diffusion}) == four
    assert two.run.model_copy(update={"name": four.run.name}) == four.run
    assert two.diffusion.model_copy(update={"sigmas": four.diffusion.sigmas}) == four.diffusion


def test_overrides_are_applied_in_order_and_read_as_yaml(tmp_path: Path) -> None:
    overrides = ["rollout.actors=3", "rollout.actors=5", "diffusion.sigmas=[1.0, 0.5]", "ray.address=null"]
    config = read_config(write(tmp_path, "rollout: {actors: 2}"), overrides)
    assert (config.rollout.actors, config.diffusion.sigmas, config.ray.address) == (5, (1.0, 0.5), None)


@given(st.integers(min_value=1, max_value=10**6), st.floats(min_value=1e-6, max_value=1))
def test_an_override_equals_the_same_value_in_the_file(cycles: int, rate: float) -> None:
    by_override = read_config(CONFIGS / "digits.yaml", [f"run.cycles={cycles}", f"dmd.learning_rate={rate!r}"])
    tree = read_config(CONFIGS / "digits.yaml").model_dump()
    tree["run"]["cycles"], tree["dmd"]["learning_rate"] = cycles, rate
    assert by_override == Config.model_validate(tree)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().run.cycles = 3  # pyright: ignore[reportAttributeAccessIssue] - that is what is refused


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("rolout: {}", ["rolout", "rollout"]),
        ("rollout: {actorz: 2}", ["rollout.actorz", "rollout.actors"]),
        ("rollout: {actors: many}", ["rollout.actors", "many", "integer"]),
        ("rollout: {actors: 0}", ["rollout.actors", "0", "greater than or equal to 1"]),
        ("dmd: {learning_rate: .nan}", ["dmd.learning_rate"]),
        ("policy_gradient: {trust_region: none}", ["policy_gradient.trust_region", "flow_dppo"]),
        ("diffusion: {sigmas: [1.0]}", ["policy_gradient.enabled", "diffusion.sigmas"]),
        ("diffusion: {sigmas: [1.0, 0.5, 0.5]}", ["sigmas", "descend"]),
        ("diffusion: {kernel: ode}", ["diffusion.kernel", "policy_gradient.enabled=false"]),
        ("learner: {ranks: 3}", ["learner.ranks", "rollout.groups_per_cycle"]),
        ("learner: {zero_stage: 4}", ["learner.zero_stage", "4"]),
        (
            "{learner: {zero_stage: 3}, lora: {rank: 8}}",
            ["learner.zero_stage=3", "lora.rank=8", "learner.zero_stage=1"],
        ),
        ("learner: {zero_stage: 0, offload_optimizer: true}", ["offload_optimizer", "zero_stage 1, 2 or 3", "0"]),
        ("learner: {engine: torch, offload_optimizer: true}", ["offload_optimizer", "engine=deepspeed", "torch"]),
        ("learner: {offload_activations: true}", ["offload_activations", "gradient_checkpointing=true"]),
        ("weights: {keep: 2}", ["weights.keep", "rollout.max_policy_age"]),
        ("reward: {kind: oracle}", ["reward.kind=oracle", "data.source=shapes", "digits"]),
        (
            "{data: {source: shapes}, reward: {kind: oracle}, policy_gradient: {advantage: own_step}}",
            ["reward.kind=oracle", "policy_gradient.advantage", "own_step"],
        ),
        (
            "{data: {source: shapes}, reward: {kind: oracle}, policy_gradient: {final_weight: 0}}",
            ["reward.kind=oracle", "final_weight"],
        ),
        (
            "policy_gradient: {intermediate_weight: [1.0, 0.5]}",
            ["policy_gradient.intermediate_weight", "3 intermediate levels", "[1.0, 0.5]"],
        ),
        ("policy_gradient: {intermediate_weight: [1.0, -0.5, 0.0]}", ["policy_gradient.intermediate_weight", "-0.5"]),
        ("policy_gradient: {intermediate_weight: -1}", ["policy_gradient.intermediate_weight", "-1"]),
        ("data: {source: files}", ["source=files and path belong together", "None"]),
        ("data: {path: images}", ["source=files and path belong together", "digits"]),
        ("model: {height: 64}", ["give height and width or neither", "64", "None"]),
        ("policy_gradient: {minibatches: 5}", ["policy_gradient.minibatches", "rollout.group_size", "5", "16"]),
        (
            "policy_gradient: {group_rows: 12, minibatches: 5}",
            ["policy_gradient.minibatches", "policy_gradient.group_rows", "5", "12"],
        ),
        ("rollout: {warm_group_size: 17}", ["rollout.warm_group_size", "rollout.group_size", "17", "16"]),
        ("policy_gradient: {group_rows: 18}", ["policy_gradient.group_rows", "rollout.group_size", "18", "16"]),
        (
            "policy_gradient: {group_rows: 6, minibatches: 6}",
            ["policy_gradient.minibatches = 6", "one of as many policy_gradient.group_rows"],
        ),
        ("policy_gradient: {group_rows: 5}", ["policy_gradient.group_rows", "multiple of 2", "5"]),
        ("reward: {oracle_agreement: true}", ["reward.oracle_agreement", "data.source=shapes", "digits"]),
        (
            (
                "data: {source: shapes}\nreward: {kind: oracle, oracle_agreement: true}\n"
                "cadence: {discriminator_updates: 0}"
            ),
            ["reward.oracle_agreement", "cadence.discriminator_updates"],
        ),
        ("discriminator: {auc_rows: 0}", ["discriminator.auc_rows=0", "policy_gradient.enabled=false"]),
        ("cadence: {discriminator_updates: 0}", ["cadence.discriminator_updates=0", "reward.kind=oracle"]),
        (
            "{cadence: {discriminator_updates: 0}, policy_gradient: {enabled: false}, dmd: {gan_weight: 0.5}}",
            ["dmd.gan_weight", "0.5", "cadence.discriminator_updates"],
        ),
        ("rollout", ["sections"]),
        ("rollout: [", ["YAML"]),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line_that_names_it(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        read_config(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    for part in parts:
        assert part in message


ORACLE = {"data": {"source": "shapes"}, "reward": {"kind": "oracle"}}


@pytest.mark.parametrize(
    ("tree", "source"),
    [
        ({}, "discriminator"),
        ({"policy_gradient": {"enabled": False}}, "discriminator"),
        ({"policy_gradient": {"enabled": False}, "cadence": {"discriminator_updates": 0}}, "nobody"),
        (ORACLE, "oracle"),
        (ORACLE | {"cadence": {"discriminator_updates": 0}}, "oracle"),
    ],
)
def test_who_scores_follows_from_the_reward_and_whether_a_discriminator_is_trained(
    tree: dict[str, dict[str, object]], source: str
) -> None:
    assert Config.model_validate(tree).rewarded_by == source


@pytest.mark.parametrize("override", ["rollout.actors", "=3", "rollout..actors=3", "run.name=[", "run.name.first=x"])
def test_a_malformed_override_is_quoted(tmp_path: Path, override: str) -> None:
    with pytest.raises(UserError, match="override"):
        read_config(write(tmp_path, "run: {name: a}"), [override])


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "", ".hidden", "a b"])
def test_a_run_name_cannot_leave_the_output_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"run\.name"):
        read_config(write(tmp_path, f"run: {{name: '{name}'}}"))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xff\xfe\x00run")
    with pytest.raises(UserError, match="UTF-8"):
        read_config(path)


def test_every_setting_says_whether_a_resumed_run_may_change_it() -> None:
    said = {
        f"{section}.{name}": [kind for kind in field.metadata if isinstance(kind, Resume)]
        for section, part in Config()
        for name, field in type(part).model_fields.items()
    }
    assert [name for name, kinds in said.items() if len(kinds) != 1] == []
    assert [".".join(key) for key in Config.settings(*Resume)] == list(said)
    assert Config.settings(Resume.PLACE) == (("run", "output"), ("model", "embeddings"), ("data", "cache"))


def test_the_teacher_is_judged_as_the_student_matches_it_unless_told_otherwise() -> None:
    assert Config.model_validate({"model": {"guidance": 3.5}}).judged_guidance == 3.5
    told = Config.model_validate({"model": {"guidance": 3.5}, "evaluation": {"teacher_guidance": 2.0}})
    assert (told.judged_guidance, told.model.guidance) == (2.0, 3.5)
