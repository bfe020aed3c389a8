"""A folder with a sound run and everything that is wrong with its neighbours, for tests of bad input.

Arguments name the files; what is wrong with each stands here once.
"""

import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline_folder import write_pipeline, write_safetensors

INDEX, SAMPLING = "model_index.json", "sampling.json"
SCHEDULER, NETWORK, CODEC = "scheduler/scheduler_config.json", "transformer/config.json", "vae/config.json"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
SHARDS = f"{WEIGHTS}.index.json"
FLOATS = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
"""What Git leaves of a large file that it has not fetched."""
DEEP = "[" * 100_000

Spoil = Callable[[Path], object]


def _write(file: Path, text: str | bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode() if isinstance(text, str) else text)


def put(name: str, text: str | bytes) -> Spoil:
    """Writes a file."""
    return lambda folder: _write(folder / name, text)


def edit(name: str, **values: Any) -> Spoil:
    """Changes values of a JSON file."""
    return lambda folder: _write(folder / name, json.dumps({**json.loads((folder / name).read_text()), **values}))


def without(name: str) -> Spoil:
    """Removes a file or folder."""

    def spoil(folder: Path) -> None:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()

    return spoil


def header(said: object, data: int = 16) -> Spoil:
    """Weights whose header says this, and so many bytes of them."""
    text = said if isinstance(said, bytes) else json.dumps(said).encode()
    return put(WEIGHTS, struct.pack("<Q", len(text)) + text + bytes(data))


def tensor(**said: object) -> Spoil:
    """Weights whose only tensor is described in this way."""
    return header({"w": {**FLOATS, **said}})


def cut(folder: Path) -> None:
    """The last bytes of the weights did not come along."""
    _write(folder / WEIGHTS, (folder / WEIGHTS).read_bytes()[:-3])


def padded(folder: Path) -> None:
    """The weights have bytes more."""
    _write(folder / WEIGHTS, (folder / WEIGHTS).read_bytes() + b"abc")


def a_folder(folder: Path) -> None:
    """The weights are a folder."""
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()


def pickled(folder: Path) -> None:
    """The weights are a pickle."""
    (folder / WEIGHTS).rename((folder / WEIGHTS).with_suffix(".bin"))


def circular(folder: Path) -> None:
    """The weights are a link to itself."""
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to((folder / WEIGHTS).name)


PIPELINES: Mapping[str, Spoil] = {
    "no-index": without(INDEX),
    "index-list": put(INDEX, "[]"),
    "index-bytes": put(INDEX, b"\xff\xfe{}"),
    "index-deep": put(INDEX, DEEP),
    "index-numbers": edit(INDEX, vae=[1, 2]),
    "index-half": edit(INDEX, vae=["diffusers"]),
    "index-other": edit(INDEX, _class_name="StableDiffusionPipeline"),
    "index-list-class": edit(INDEX, _class_name=["StableDiffusion3Pipeline"]),
    "no-codec": without("vae"),
    "no-network-config": without(NETWORK),
    "layers-text": edit(NETWORK, num_layers="4"),
    "layers-true": edit(NETWORK, num_layers=True),
    "layers-negative": edit(NETWORK, num_layers=-4),
    "size-huge": edit(NETWORK, sample_size=10**9),
    "size-large": edit(NETWORK, sample_size=10**5),
    "patch-zero": edit(NETWORK, patch_size=0),
    "network-twice": put(NETWORK, '{"num_layers": 4, "num_layers": 5}'),
    "codec-text": edit(CODEC, block_out_channels="x"),
    "codec-deep": edit(CODEC, block_out_channels=[1] * 5000),
    "scheduler-list": put(SCHEDULER, "[1]"),
    "shift-text": edit(SCHEDULER, shift="x"),
    "shift-zero": edit(SCHEDULER, shift=0),
    "shift-nan": put(SCHEDULER, '{"shift": NaN}'),
    "shift-negative": edit(SCHEDULER, shift=-3.0),
    "shift-base": edit(SCHEDULER, use_dynamic_shifting=True, base_shift="a"),
    "shift-lengths": edit(SCHEDULER, use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=4),
    "terminal-text": edit(SCHEDULER, shift_terminal="x"),
    "terminal-seven": edit(SCHEDULER, shift_terminal=7),
    "weights-cut": cut,
    "weights-padded": padded,
    "weights-empty": put(WEIGHTS, b""),
    "weights-folder": a_folder,
    "weights-circular": circular,
    "weights-pickled": pickled,
    "weights-none": without(WEIGHTS),
    "weights-pointer": put(WEIGHTS, POINTER),
    "weights-unnamed": lambda folder: (folder / WEIGHTS).rename(folder / WEIGHTS.replace(".", "-00001-of-00002.")),
    "header-huge": put(WEIGHTS, struct.pack("<Q", 2**63) + b"{}"),
    "header-list": header([]),
    "header-text": header(b"xx"),
    "header-deep": header(DEEP.encode()),
    "shape-negative": tensor(shape=[-4]),
    "shape-text": tensor(shape=["a"]),
    "shape-other": tensor(shape=[5]),
    "bytes-gap": header({"w": {**FLOATS, "data_offsets": [8, 24]}}, 24),
    "bytes-shared": header({"v": FLOATS, "w": FLOATS}),
    "bytes-text": tensor(data_offsets="ab"),
    "kind-quantised": lambda folder: write_safetensors(folder / WEIGHTS, {"w": (4,)}, "F8_E4M3"),
    "kind-unknown": tensor(dtype="XX"),
    "kind-list": tensor(dtype=[1]),
    "shards-absent": put(SHARDS, '{"weight_map": {"a": "absent.safetensors"}}'),
    "shards-number": put(SHARDS, '{"weight_map": {"a": 1}}'),
    "shards-list": put(SHARDS, '{"weight_map": [1]}'),
    "shards-outside": put(SHARDS, '{"weight_map": {"a": "../../config.yaml"}}'),
    "no-vocabulary": without("tokenizer/tokenizer.json"),
    "tokenizer-text": put("tokenizer/tokenizer_config.json", "x"),
    "sampling-keys": put(SAMPLING, '{"a": 1}'),
    "sampling-text": put(SAMPLING, '{"max_sequence_length": "8"}'),
    "sampling-nan": put(SAMPLING, '{"max_sequence_length": 8, "guidance": NaN}'),
    "sampling-infinite": put(SAMPLING, '{"max_sequence_length": 8, "guidance": Infinity}'),
    "sampling-sigmas": put(SAMPLING, '{"max_sequence_length": 8, "sigmas": [0.5, 1.0]}'),
    "sampling-half": put(SAMPLING, '{"max_sequence_length": 8, "height": 9}'),
    "sampling-twice": put(SAMPLING, '{"max_sequence_length": 8, "max_sequence_length": 9}'),
}
"""Pipeline folders `p-NAME`, each with one thing wrong."""

SETTINGS: Mapping[str, str | bytes] = {
    "list": "- a\n",
    "number": "5\n",
    "bytes": b"run: \xff\xfe\n",
    "nul": b"run: \0\n",
    "utf16": "run: {}".encode("utf-16"),
    "tab": "run:\n\tname: a\n",
    "section-twice": "run: {name: a}\nrun: {name: b}\n",
    "key-twice": "run: {name: a, name: b}\n",
    "unknown": "runn: {name: a}\n",
    "key-number": "1: {name: a}\n",
    "section-list": "run: [1]\n",
    "section-text": "run: hello\n",
    "circle": "run: &a {name: *a}\n",
    "alias": "run: *nope\n",
    "python": 'run: !!python/object/apply:os.system ["true"]\n',
    "tag": "run: !foo {name: a}\n",
    "two": "run: {name: a}\n---\nrun: {name: b}\n",
    "deep": "run: " + "{a: " * 5000 + "\n",
    "many": "a: &a [x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a]\nrun: [*b, *b, *b, *b]\n",
    "digits": "run: {cycles: " + "9" * 5000 + "}\n",
    "nan": "dmd: {learning_rate: .nan}\n",
    "unclosed": "run: {name: a\n",
    "base-absent": "base: absent\n",
    "base-circle": "base: y-base-circle.yaml\n",
    "base-list": "base: [a]\n",
    "base-bytes": "base: y-bytes.yaml\n",
    "control": 'run: {name: "a\\x07b"}\n',
    "control-key": '"a\\x1b[31mb": {}\n',
    "key-list": "? [a, b]\n: c\n",
    "merge": "run: {<<: 5}\n",
    "key-long": "k" * 5000 + ": 1\n",
}
"""Files of settings `y-NAME.yaml`."""

RIVAL = "name: c\nbase: config.yaml\nbudget: 9\nrivals: [{name: a}]\n"
COMPARISONS: Mapping[str, str | bytes] = {
    "sound": RIVAL,
    "no-rivals": "name: c\nbase: config.yaml\nbudget: 9\n",
    "twice": RIVAL.replace("[{name: a}]", "[{name: a}, {name: a}]"),
    "teacher": RIVAL.replace("{name: a}", "{name: teacher}"),
    "outside": RIVAL.replace("name: c", "name: ../c"),
    "long": RIVAL.replace("name: c", "name: " + "c" * 300),
    "long-rival": RIVAL.replace("{name: a}", "{name: " + "a" * 300 + "}"),
    "base-absent": RIVAL.replace("config.yaml", "absent"),
    "base-list": RIVAL.replace("config.yaml", "[a]"),
    "budget-negative": RIVAL.replace("9", "-9"),
    "budget-nan": RIVAL.replace("9", ".nan"),
    "trainer": RIVAL.replace("name: a", "name: a, trainer: nope"),
    "override": RIVAL.replace("name: a", "name: a, overrides: {dmd.gan_weigth: 1}"),
    "override-section": RIVAL + "overrides: {run: {name: x}}\n",
    "override-list": RIVAL + "overrides: [1]\n",
    "sigmas": RIVAL.replace("name: a", "name: a, overrides: {diffusion.sigmas: [1.0, 1.0e-30]}"),
    "settings": RIVAL.replace("name: a", "name: a, settings: {x: 1}"),
    "label": RIVAL.replace("name: a", 'name: a, label: ""'),
    "seeds": RIVAL + "seeds: [0, 0]\n",
    "points": RIVAL + "points: 1000000000\n",
    "samples": RIVAL + "judge_samples: 100000000\n",
    "steps": RIVAL + "teacher_steps: [1000000000]\n",
    "unknown": RIVAL + "foo: 1\n",
    "list": "- a\n",
    "bytes": b"\xff",
    "empty": "",
}
"""Files of comparisons `k-NAME.yaml`."""

GOOD_RESULT = {"tag": "colors", "prompt": "a", "correct": True, "metadata": "{}"}
FILES: Mapping[str, str | bytes] = {
    "config.yaml": "run: {output: runs, name: r}\nmodel: {path: teacher}\nmetrics: {port: 0}\n",
    "prompts/bytes.txt": b"a\n\xff\xfe\n",
    "prompts/empty.txt": "",
    "prompts/blank.txt": "\n\n \n",
    "prompts/control.txt": "a\n\x07\nb\n",
    "prompts/long.txt": "x" * 10**5 + "\n",
    "prompts/other.txt": "a cat\n",
    "prompts/one.txt": "a handwritten one\na handwritten one\n",
    "images/a.png": b"no image",
    "images/a.txt": "a",
    "parquet/p.parquet": b"PAR1xx",
    "tars/t.tar": b"no tar",
    "table-columns/metadata.csv": "image,text\na.png,a\n",
    "table-columns/a.png": b"no image",
    "table-cut/metadata.jsonl": '{"file_name": "a.png", "text": "a"}\n{"file',
    "table-cut/a.png": b"no image",
    "texts/a.txt": "a",
    "prompts/wide.txt": "a cat\na dog\n".encode("utf-16-le"),
    "results/twice.jsonl": 2 * '{"tag": "x", "prompt": "a", "correct": true, "filename": "a.png"}\n',
    "runs/used/metrics.jsonl": "{}\n",
    "runs/torn/metrics.jsonl": '{"time": 1, "values": [1]}\nxx\n',
    "runs/binary/metrics.jsonl": b"\xff\xfe\0\n",
    "runs/damaged/checkpoints/step-00000003/student.safetensors": "y",
    "runs/file": "x",
    "meta/good.jsonl": '{"tag": "colors", "prompt": "a"}\n',
    "meta/cut.jsonl": '{"tag"\n',
    "meta/list.jsonl": "[1]\n",
    "meta/empty.jsonl": "",
    "meta/bytes.jsonl": b"\xff\n",
    "meta/no-prompt.jsonl": '{"tag": "x"}\n',
    "meta/no-tag.jsonl": '{"prompt": "x"}\n',
    "prompts/pointer.txt": POINTER,
    "prompts/objects.txt": '{"prompt": "x"}\n',
    "meta/number.jsonl": '{"prompt": 5, "tag": "x"}\n',
    "meta/blank.jsonl": '{"prompt": " ", "tag": "x"}\n',
    "meta/deep.jsonl": DEEP + "\n",
    "dpg/a.txt": "a",
    "dpg-bytes/a.txt": b"\xff",
    "dpg-blank/a.txt": " \n",
    "drawn/00000/x": "x",
    "told.settings.json": "{",
    "results/good.jsonl": json.dumps(GOOD_RESULT) + "\n",
    "results/number.jsonl": json.dumps({**GOOD_RESULT, "tag": 5, "correct": "x"}) + "\n",
    "results/other.csv": "a,b\n",
    "copied/digits.yaml": "x",
    **{f"y-{name}.yaml": text for name, text in SETTINGS.items()},
    **{f"k-{name}.yaml": text for name, text in COMPARISONS.items()},
}
FOLDERS = ("empty", "folder.png", "runs/bare/checkpoints")


def write_world(folder: Path) -> Path:
    """Writes everything, and returns the folder."""
    write_pipeline(folder / "teacher")
    for name, spoil in PIPELINES.items():
        spoil(Path(shutil.copytree(folder / "teacher", folder / f"p-{name}")))
    for name, text in FILES.items():
        _write(folder / name, text)
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
    (folder / "circle").symlink_to("circle")
    (folder / "nowhere").symlink_to("absent")
    return folder


Tree = Mapping[str, tuple[int, int] | None]


def tree(folder: Path) -> Tree:
    """Size and time of change of all files below a folder, and its folders; links are not followed."""
    found: dict[str, tuple[int, int] | None] = {}
    for place, folders, files in os.walk(folder):
        found |= dict.fromkeys((f"{place}/{name}" for name in folders), None)
        for name in files:
            said = os.lstat(f"{place}/{name}")
            found[f"{place}/{name}"] = said.st_size, said.st_mtime_ns
    return found
