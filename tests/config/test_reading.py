"""A configuration is read from files and overrides; what is wrong is one line that blames the place where it stands."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.config import Config, dump_config, read_config
from advdmd_ray.config.base import Section
from advdmd_ray.config.layers import Layer, resolve
from advdmd_ray.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"


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
        ("diffusion: {sigmas: [1.0, 0.5, 0.4999]}", ["sigmas", "descend", "0.001"]),
        ("diffusion: {sigmas: [1.0, 1.0e-30]}", ["sigmas", "descend", "0.001"]),
        ("discriminator: {blocks: [1, 1]}", ["blocks must differ", "[1, 1]"]),
        ("evaluation: {samples: 100000000}", ["evaluation.samples", "less than or equal to 1000000"]),
        ("run: {cycles: 10000000000}", ["run.cycles", "less than or equal to 1000000000"]),
        ("run: {name: %s}" % ("a" * 300), ["run.name", "at most 128"]),
        ("ray: {address: nonsense}", ["ray.address: expected HOST:PORT"]),
        ("ray: {address: 'ray://a:1'}", ["ray.address"]),
        ("diffusion: {kernel: ode}", ["diffusion.kernel", "policy_gradient.enabled=false"]),
        ("learner: {ranks: 3}", ["learner.ranks", "rollout.groups_per_cycle"]),
        ("learner: {zero_stage: 4}", ["learner.zero_stage", "4"]),
        (
            "{learner: {zero_stage: 3}, lora: {rank: 8}}",
            ["learner.zero_stage=3", "lora.rank=8", "learner.zero_stage=1", "model.quantization=int8", "lora.rank=0"],
        ),
        ("model: {quantization: int4}", ["model.quantization", "int4", "int8"]),
        ("model: {quantization: int8}", ["model.quantization=int8", "lora.rank=0", "leave"]),
        ("{model: {quantization: int8}, lora: {rank: 2}}", ["model.precision=bfloat16", "got float32"]),
        (
            "{model: {quantization: int8, precision: bfloat16}, lora: {rank: 2, merge: true}}",
            ["lora.merge=true", "lora.merge=false"],
        ),
        (
            "{model: {quantization: int8, precision: bfloat16}, lora: {rank: 2}}",
            ["learner.gradient_checkpointing=true"],
        ),
        ("learner: {zero_stage: 0, offload_optimizer: true}", ["offload_optimizer", "zero_stage 1, 2 or 3", "0"]),
        ("learner: {engine: torch, offload_optimizer: true}", ["offload_optimizer", "engine=deepspeed", "torch"]),
        ("reward: {num_gpus: 1.5}", ["num_gpus above 1 must be a whole number, got 1.5"]),
        ("learner: {offload_activations: true}", ["offload_activations", "gradient_checkpointing=true"]),
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
        ("policy_gradient: {last_actions: 4}", ["policy_gradient.last_actions = 4", "of 4 steps 3 draw noise"]),
        ("policy_gradient: {group_rows: 5}", ["policy_gradient.group_rows", "multiple of 2", "5"]),
        (
            (
                "data: {source: shapes}\nreward: {kind: oracle, oracle_agreement: true}\n"
                "cadence: {discriminator_updates: 0}"
            ),
            ["reward.oracle_agreement", "cadence.discriminator_updates"],
        ),
        (
            "policy_gradient: {advantage: own_step, last_actions: 1, intermediate_weight: [1.0, 1.0, 0.0]}",
            ["policy_gradient: with advantage=own_step", "no score reaches an action"],
        ),
        ("policy_gradient: {advantage: final_only, gamma: 0}", ["gamma=0", "no score reaches an action"]),
        (
            "{discriminator: {auc_decay: 0}, rollout: {groups_per_cycle: 8}}",
            ["discriminator.text_errors = 3", "2.83", "groups_per_cycle=8"],
        ),
        ("discriminator: {text_errors: 20}", ["discriminator.text_errors = 20", "12.3", "auc_decay=0.9"]),
        ("discriminator: {auc_decay: 1}", ["discriminator.auc_decay = 1", "less than 1"]),
        ("policy_gradient: {std_decay: 1.0}", ["policy_gradient.std_decay = 1", "less than 1"]),
        ("learner: {betas: [0.9, 1.0]}", ["learner.betas", "less than 1"]),
        ("discriminator: {auc_rows: 0}", ["discriminator.auc_rows=0", "policy_gradient.enabled=false"]),
        ("cadence: {discriminator_updates: 0}", ["cadence.discriminator_updates=0", "reward.kind=oracle"]),
        (
            "{cadence: {discriminator_updates: 0}, policy_gradient: {enabled: false}, dmd: {gan_weight: 0.5}}",
            ["dmd.gan_weight", "0.5", "cadence.discriminator_updates"],
        ),
        ("policy_gradient: {intermediate_weight: x}", ["policy_gradient.intermediate_weight = 'x'", "number"]),
        ("rollout: 3", ["rollout is a section", "3", "rollout.num_cpus"]),
        ("rollout: []", ["rollout is a section", "[]"]),
        ("actors: 3", ["unknown key actors", "rollout.actors"]),
        ("rollout: {cycles: 3}", ["unknown key rollout.cycles", "run.cycles"]),
        ("run: {cycles: true}", ["run.cycles", "true"]),
        ("run: {name: 7}", ["run.name = 7", "quotes"]),
        ("diffusion: {sigmas: 1.0}", ["diffusion.sigmas = 1.0", "write a list"]),
        ("pretrain: {steps: 3}", ["advdmd pretrain", "pretrain/digits"]),
        ("twinflow: {batch_size: 64}", ["twinflow stands under `settings:` of a comparison's rival; remove it here"]),
        ("weights: {keep: 4}", ["weights has no settings any more; remove it"]),
        ("rollout", ["sections", "str"]),
        ("3", ["sections", "int"]),
        ("[run]", ["sections", "list"]),
        ("base: 3", ["base = 3", "a path relative to this file"]),
        ("base:", ["base = None"]),
        ("base: digit", ["base = 'digit'", "did you mean digits?", "advdmd configs lists them"]),
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


@pytest.mark.parametrize("override", ["rollout.actors", "=3", "rollout..actors=3", "run.name=[", "run.name.first=x"])
def test_a_malformed_override_is_quoted(tmp_path: Path, override: str) -> None:
    with pytest.raises(UserError, match="override"):
        read_config(write(tmp_path, "run: {name: a}"), [override])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("run.cycles=abc", "run.cycles = 'abc'"),
        ("run.cycles=", "no value after ="),
        ("run.cycles=null", "run.cycles = None"),
        ("run.cycles=1.5", "run.cycles = 1.5"),
        ("dmd.learning_rate=nan", "finite"),
        ("dmd.learning_rate=.inf", "finite"),
        ("policy_gradient.enabled=maybe", "'maybe'"),
        ("run.cycle=3", "did you mean run.cycles?"),
        ("runn.cycles=3", "did you mean run.cycles?"),
        ("cycles=3", "did you mean run.cycles or validation.cycles?"),
        ("rollout=3", "rollout is a section"),
        ("rollout={actors: 3}", "rollout is a section"),
        ("diffusion.sigmas=1.0,0.5", "write a list"),
        ("base=digits", "--config"),
        ("pretrain.steps=3", "advdmd pretrain"),
        ("learner.ranks=3", "learner.ranks must divide rollout.groups_per_cycle, got 3 and 8"),
        ("rollout.groups_per_cycle=3", "learner.ranks must divide rollout.groups_per_cycle, got 2 and 3"),
        ("diffusion.sigmas=[1.0]", "at least 2 diffusion.sigmas"),
        ("dmd.t_min=0.99", "t_min must be below t_max"),
        ("model.height=64", "give height and width or neither"),
    ],
)
def test_a_wrong_override_is_blamed_and_not_the_file(tmp_path: Path, override: str, says: str) -> None:
    path = write(tmp_path, "learner: {ranks: 2}\ndmd: {t_max: 0.9}\nrun: {cycles: 3}")
    with pytest.raises(UserError) as caught:
        read_config(path, ["run.name=before", override, "run.name=after", "rollout.actors=3"])
    assert str(caught.value).startswith(f"{override} on the command line: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_file_is_blamed_and_not_the_sound_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, "learner: {ranks: 3}")
    with pytest.raises(UserError, match=r"learner\.ranks must divide") as caught:
        read_config(path, ["run.name=after", "rollout.actors=3"])
    assert str(caught.value).startswith(f"{path}: ")


def test_the_configuration_of_an_old_run_is_told_all_that_it_must_lose_at_once(tmp_path: Path) -> None:
    gone = "weights: {keep: 4}\npretrain: {steps: 3000}\ntwinflow: {batch_size: 64}\n"
    path = write(tmp_path, dump_config(Config()) + gone)
    with pytest.raises(UserError) as raised:
        read_config(path, ["run.cycles=3"])
    assert str(raised.value).startswith(f"{path}: weights has no settings any more; remove it; pretrain is read by")
    assert str(raised.value).endswith("of a comparison's rival; remove it here")
    path.write_text(dump_config(Config()))
    assert read_config(path) == Config()


def test_a_model_without_settings_takes_none() -> None:
    with pytest.raises(UserError, match="rival a: unknown key rate; no settings are taken here, remove it"):
        resolve(Section, [Layer("rival a", {"rate": 1})])


def test_an_override_mends_a_wrong_value_of_the_file(tmp_path: Path) -> None:
    assert read_config(write(tmp_path, "run: {cycles: many}"), ["run.cycles=3"]).run.cycles == 3


def test_a_section_of_the_file_may_be_empty(tmp_path: Path) -> None:
    path = write(tmp_path, "rollout:\nrun: {}")
    assert read_config(path) == Config()
    assert read_config(path, ["rollout.actors=3"]).rollout.actors == 3


@pytest.mark.parametrize(
    ("value", "cycles"), [("1e3", 1000), ("1_000", 1000), ("010", 10), ("0x10", 16), ("1.0e+2", 100), (" 7 ", 7)]
)
def test_numbers_are_those_that_a_person_writes(tmp_path: Path, value: str, cycles: int) -> None:
    assert read_config(write(tmp_path, ""), [f"run.cycles={value}"]).run.cycles == cycles


@pytest.mark.parametrize("name", ["no", "on", "2026-11-29", "a1e3", "'1e3'", "'007'", "'true'", "'null'"])
def test_what_is_text_to_a_person_is_text_and_is_dumped_as_text(tmp_path: Path, name: str) -> None:
    config = read_config(write(tmp_path, f"run: {{name: {name}}}"))
    assert config.run.name == name.strip("'")
    assert read_config(write(tmp_path, dump_config(config))) == config


@pytest.mark.parametrize("word", ["yes", "on", "true", "1"])
def test_yes_is_true(tmp_path: Path, word: str) -> None:
    assert read_config(write(tmp_path, ""), [f"learner.gradient_checkpointing={word}"]).learner.gradient_checkpointing


def test_a_base_is_under_its_file_and_may_have_one_itself(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "lowest.yaml").write_text("run: {name: lowest, seed: 1, cycles: 1}\nrollout: {actors: 5}")
    (tmp_path / "deep" / "middle.yaml").write_text("base: ../lowest.yaml\nrun: {name: middle, seed: 2}")
    config = read_config(write(tmp_path, "base: deep/middle.yaml\nrun: {name: top}"), ["rollout.actors=6"])
    assert (config.run.name, config.run.seed, config.run.cycles, config.rollout.actors) == ("top", 2, 1, 6)


def test_a_base_may_be_a_shipped_name(tmp_path: Path) -> None:
    assert read_config(write(tmp_path, "base: digits")) == read_config(CONFIGS / "digits.yaml")


def test_the_file_that_holds_the_wrong_value_is_blamed(tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    top = write(tmp_path, "base: base.yaml\nrollout: {groups_per_cycle: 8}")
    for wrong in ("run: {cycles: many}", "run: {cycle: 3}", "learner: {ranks: 2}\ndmd: {t_min: 1.0}", "run: ["):
        base.write_text(wrong)
        with pytest.raises(UserError) as caught:
            read_config(top)
        assert str(caught.value).startswith(f"{base}: ")
    base.write_text("learner: {ranks: 3}")
    with pytest.raises(UserError, match="got 3 and 8") as caught:
        read_config(top)
    assert str(caught.value).startswith(f"{top}: ")


def test_a_loop_of_bases_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("base: ./config.yaml")
    path = write(tmp_path, "base: other.yaml")
    with pytest.raises(
        UserError, match=r"other\.yaml: base: a loop: .*config\.yaml -> .*other\.yaml -> .*config\.yaml"
    ):
        read_config(path)


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "", ".hidden", "a b"])
def test_a_run_name_cannot_leave_the_output_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"run\.name"):
        read_config(write(tmp_path, f"run: {{name: '{name}'}}"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"\xff\xfe\x00run", "UTF-8"),
        (b"run: {cycles: 1}\nrun: {seed: 2}", "line 2, column 1: key run stands twice, in lines 1 and 2"),
        (b"run:\n  name: a\n  seed: 1\n  name: b", "key name stands twice, in lines 2 and 4"),
        (b"run:\n\tname: a", "line 2, column 1: .*indent with spaces"),
        (b"run: &a {cycles: *a}", "line 1"),
        (b"run: *a", "undefined alias"),
        (b"1: {}", "a key is not text"),
        (b"{[a]: {}}", "a key is not text"),
        (b"run: !!python/object:os.system x", "python/object"),
        (b"run: {cycles: !!int x}", "int"),
        (b"run: {}\n---\nrun: {}", "single document"),
        (b"run: \x07", "special characters"),
        (b"[" * 5000, "nested too deeply"),
    ],
)
def test_text_that_is_no_configuration_is_one_line(tmp_path: Path, text: bytes, says: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(text)
    with pytest.raises(UserError, match=says) as caught:
        read_config(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_anchors_are_shared_text(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, "rollout: &r {threads: 3}\nreward: {<<: *r, workers: 2}\nlearner: *r"))
    assert (config.rollout.threads, config.reward.threads, config.learner.threads) == (3, 3, 3)
    assert config.reward.workers == 2


def test_a_path_without_a_file_is_one_line(tmp_path: Path) -> None:
    for path, says in (
        (tmp_path, "is a folder"),
        (tmp_path / "digit.yaml", "no such config file.*did you mean digits?"),
    ):
        with pytest.raises(UserError, match=says):
            read_config(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_config("x" * 300)
