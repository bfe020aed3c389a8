"""`advdmd configs` lists, prints and copies what ships, overwrites nothing, and gives editors a schema."""

import json
from pathlib import Path

import jsonschema
import pytest

from advdmd_ray import cli
from advdmd_ray.config import Config, read_config
from advdmd_ray.config.comparison import read_comparison
from advdmd_ray.config.pretrain import read_pretrain
from advdmd_ray.config.shipped import shipped_names, shipped_path


def test_every_name_is_listed_with_its_files_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["configs"]) == cli.DONE
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert [name for name, _ in lines] == list(shipped_names())
    for name, text in lines:
        assert shipped_path(name).read_text().startswith(f"# {text}\n")
        assert text.endswith((".", "?"))


@pytest.mark.parametrize("name", shipped_names())
def test_a_printed_file_says_the_same_anywhere(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["configs", name, "--out", str(tmp_path / "deep" / "own.yaml")]) == cli.DONE
    copied = tmp_path / "deep" / "own.yaml"
    assert capsys.readouterr().out == f"{copied}\n"
    assert cli.main(["configs", name]) == cli.DONE
    assert capsys.readouterr().out == copied.read_text()
    kind = name.rpartition("/")[0]
    if kind == "compare":
        own, shipped = (read_comparison(path) for path in (copied, shipped_path(name)))
        assert read_config(own.base) == read_config(shipped.base)
        assert own.model_dump(exclude={"base"}) == shipped.model_dump(exclude={"base"})
    else:
        read = read_pretrain if kind == "pretrain" else read_config
        assert read(copied) == read(shipped_path(name))


def test_a_copy_of_all_stands_on_itself(tmp_path: Path) -> None:
    assert cli.main(["configs", "--copy", str(tmp_path)]) == cli.DONE
    copies = {name: tmp_path / f"{name}.yaml" for name in shipped_names()}
    assert all(path.read_bytes() == shipped_path(name).read_bytes() for name, path in copies.items())
    copies["digits"].write_text("run: {seed: 3}")
    assert read_config(copies["digits_2step"]).run.seed == 3


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "shapes.yaml"
    mine.write_text("mine")
    for arguments in (["digits", "--out", str(mine)], ["--copy", str(tmp_path)]):
        assert cli.main(["configs", *arguments]) == cli.BAD_INPUT
        assert f"{mine} exists; nothing was written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["shapes.yaml"]
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["digitz"], "did you mean digits?"),
        (["compare/shape"], "did you mean compare/shapes?"),
        (["--out", "x.yaml"], "--out needs the NAME"),
        (["digits", "--schema"], "one of NAME, --copy and --schema"),
        (["digits", "--out", "/proc/own.yaml"], "cannot be written"),
        (["digits", "--out", "x" * 300], "names of at most 200 bytes"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["configs", *arguments]) == cli.BAD_INPUT
    captured = capsys.readouterr()
    assert says in captured.err
    assert (captured.out, captured.err.count("\n")) == ("", 1)


def test_the_schema_holds_what_a_file_may_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["configs", "--schema"]) == cli.DONE
    schema = json.loads(capsys.readouterr().out)
    checker = jsonschema.Draft202012Validator(schema)
    checker.check_schema(schema)
    assert checker.is_valid(Config().model_dump(mode="json"))
    assert checker.is_valid({"base": "digits.yaml", "run": {"cycles": 3}})
    for name in shipped_names():
        if "/" not in name:
            assert checker.is_valid(read_config(name).model_dump(mode="json")), name
    for wrong in ({"rolout": {}}, {"run": {"cycles": 0}}, {"run": {"cycle": 1}}, {"diffusion": {"kernel": "sde"}}):
        assert not checker.is_valid(wrong), wrong
    cycles = schema["$defs"]["RunSection"]["properties"]["cycles"]
    assert (cycles["default"], cycles["minimum"]) == (100, 1)
    assert cycles["description"].endswith(".")
