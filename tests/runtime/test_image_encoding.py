"""Images on disk are encoded by a team of workers, with a stand-in for Ray whose actors are objects in this process."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advdmd_ray.config import Config
from advdmd_ray.data import encoding
from advdmd_ray.data.files.encoding import ShardEncoding, encoded_file
from advdmd_ray.data.files.fitting import Fitting
from advdmd_ray.data.files.items import CaptionedImage, Shard
from advdmd_ray.data.files.ledger import ledger_file, read_ledger
from advdmd_ray.data.source import Encoded
from advdmd_ray.errors import UserError, WorkerLostError
from advdmd_ray.runs.lasting import Mark
from advdmd_ray.runs.needs.node_roles import LABEL, VALUES, Nodes
from advdmd_ray.runtime import dealing, image_encoding
from advdmd_ray.runtime.places import Places
from advdmd_ray.runtime.waiting import Node
from pictures import picture

SHAPE = (3, 2, 2)
NODES = [Node({}, {LABEL: "learner-rollout-reward"}), Node({}, {})]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Call:
    """A method of an actor that stands in this process."""

    def __init__(self, team: "Team", actor: "Actor", name: str) -> None:
        self._team, self._actor, self._name = team, actor, name

    def remote(self, *given: Any) -> Any:
        ticket = partial(self._team.called, self._actor, self._name, *given)
        self._team.asked.append(ticket)
        return ticket


class Actor:
    """Encodes by averaging 2 x 2 pixels."""

    def __init__(self, team: "Team") -> None:
        self.team, self.done, self.killed = team, list[str](), False
        self.ready, self.encode = Call(team, self, "ready"), Call(team, self, "encode")


class Team:
    """Stands for Ray and for `EncodingActor`: hands out answers in the order of asking, and loses who is to be lost.

    Args:
        lost: How many calls are answered before every actor is lost.
        dying: The first actor at this shard is lost in its midst, or once it is done and before it has said so.
    """

    def __init__(self, lost: int | None = None, dying: Sequence[tuple[str, str]] = ()) -> None:
        self.actors: list[Actor] = []
        self.asked: list[Any] = []
        self.given: dict[str, Any] = {}
        self._lost, self._dying = lost, dict(dying)

    def options(self, **given: Any) -> "Team":
        self.given = given
        return self

    def remote(self, config: Config, threads: int, mark: Mark) -> Actor:
        assert threads >= 1
        assert mark.file.parent == config.latents.absolute()
        self.mark = mark
        self.actors.append(Actor(self))
        return self.actors[-1]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 16.0}

    def wait(self, tickets: Sequence[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        first = min(tickets, key=self.asked.index)
        return [first], [ticket for ticket in tickets if ticket is not first]

    def kill(self, actor: Actor) -> None:
        actor.killed = True

    def called(self, actor: Actor, name: str, *given: ShardEncoding) -> Encoded | None:
        assert not actor.killed
        if name == "ready":
            self.mark.check_seen("a worker", within_s=0)
            return None
        if self._lost is not None and sum(len(each.done) for each in self.actors) >= self._lost:
            raise WorkerLostError("killed")
        (task,) = given
        when = self._dying.pop(task.name, "")
        if when == "in its midst":  # a killed process takes no draft away
            task.file.parent.mkdir(parents=True, exist_ok=True)
            task.file.with_name(f".{task.file.name}.{len(self.actors)}.part").write_bytes(b"half")
        elif when:
            task.encode(averaged, threads=2)
        if when:
            raise WorkerLostError("killed")
        actor.done.append(task.name)
        return task.encode(averaged, threads=2)


def averaged(images: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(images, 2)


def tasks(folder: Path, shards: int, most_skipped: int = 0) -> list[ShardEncoding]:
    """Of nine images each, and of a broken one where some may be skipped."""
    made = []
    for number in range(shards):
        items = [CaptionedImage(f"{number}-{k}", "grey", picture(9 * number + k, (8, 8))) for k in range(9)]
        if most_skipped:
            items.insert(4, CaptionedImage(f"{number}-broken", "grey", b"broken"))
        shard = Shard(f"shard-{number}", f"{number}".ljust(64, "0"), lambda items=items: iter(items))
        made.append(ShardEncoding(shard, encoded_file(folder, shard), Fitting(4, 4, 1.5), SHAPE, most_skipped))
    return made


def on(team: Team, monkeypatch: pytest.MonkeyPatch, gpus: int, work: list[ShardEncoding]) -> list[Encoded]:
    monkeypatch.setattr(image_encoding, "ray", team)
    monkeypatch.setattr(image_encoding, "EncodingActor", team)
    monkeypatch.setattr(dealing, "ray", team)
    monkeypatch.setattr(dealing, "answer", lambda ticket, _: ticket())
    roles = {"rollout": {"actors": 1, "num_gpus": gpus}, "reward": {"workers": 1, "num_gpus": 0}}
    labelled = {"ray": {"placement": "labelled"}}
    config = Config.model_validate({**roles, **labelled, "learner": {"ranks": 1, "num_gpus": 0}})
    return list(image_encoding.encoded_on_ray(config, work, Places(config, look=lambda: NODES)))


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def encoded_here(work: list[ShardEncoding], monkeypatch: pytest.MonkeyPatch) -> list[Encoded]:
    """As `--local` does."""

    def codec_of(pipeline: nn.Module) -> Callable[[Tensor], Tensor]:
        assert isinstance(pipeline, nn.Identity)
        return averaged

    monkeypatch.setattr(encoding, "load_pipeline", lambda _, parts: {"codec": nn.Identity()}[parts])
    monkeypatch.setattr(encoding, "image_encoder", codec_of)
    return list(encoding.encode_here(Config(), work))


def test_shards_are_dealt_to_a_worker_for_each_gpu_and_leave_the_bytes_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [result.images for result in encoded_here(tasks(tmp_path / "0", 7), monkeypatch)] == [9] * 7
    found = [bytes_in(tmp_path / "0")]
    for gpus in (1, 2, 3):
        team = Team()
        results = on(team, monkeypatch, gpus, tasks(tmp_path / str(gpus), 7))
        assert [result.images for result in results] == [9] * 7
        assert len(team.actors) == gpus
        assert team.given["num_gpus"] == 1
        assert team.given["label_selector"] == Nodes(VALUES).selector
        assert all(actor.done and actor.killed for actor in team.actors)
        assert sorted(name for actor in team.actors for name in actor.done) == [f"shard-{k}" for k in range(7)]
        found.append(bytes_in(tmp_path / str(gpus)))
    assert all(each == found[0] for each in found)
    assert len(found[0]) == 2 * 7  # with a ledger each


@pytest.mark.parametrize("when", ["in its midst", "when it is done"])
def test_the_shard_of_a_lost_worker_is_made_once_by_another_and_its_images_are_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    work = tasks(tmp_path / "lost", 5, most_skipped=1)
    team = Team(dying=[("shard-1", when), ("shard-3", when)])
    results = on(team, monkeypatch, 2, work)
    assert len(team.actors) == 2 + 2
    dealt = sorted(name for actor in team.actors for name in actor.done)
    assert dealt == sorted(task.name for task in work)
    ledgers = [read_ledger(ledger_file(task.file)) for task in work]
    assert [(each.used, each.read, [lost.name for lost in each.lost]) for each in ledgers] == [
        (9, 10, [f"{number}-broken"]) for number in range(5)
    ]
    told = [name for result in results for name, _ in result.skipped]
    assert len(told) == len(set(told)) == (5 if when == "in its midst" else 3)
    encoded_here(tasks(tmp_path / "here", 5, most_skipped=1), monkeypatch)
    drafts = {name for name in bytes_in(tmp_path / "lost") if name.endswith(".part")}
    assert len(drafts) == (2 if when == "in its midst" else 0)
    whole = bytes_in(tmp_path / "lost")
    assert {name: whole[name] for name in whole.keys() - drafts} == bytes_in(tmp_path / "here")


def test_a_team_that_is_lost_in_the_middle_leaves_whole_shards_from_which_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tasks(tmp_path / "broken", 7)
    lost = Team(lost=3)
    with pytest.raises(WorkerLostError):
        on(lost, monkeypatch, 2, work)
    assert all(actor.killed for actor in lost.actors)
    missing = [task for task in work if not task.file.exists()]
    assert len(missing) == 4
    on(team := Team(), monkeypatch, 2, missing)
    assert sum(len(actor.done) for actor in team.actors) == 4
    on(Team(), monkeypatch, 2, tasks(tmp_path / "whole", 7))
    assert bytes_in(tmp_path / "broken") == bytes_in(tmp_path / "whole")


def test_nothing_is_started_where_nothing_is_to_be_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on(team := Team(), monkeypatch, 2, []) == []
    assert team.actors == []


def test_a_worker_that_does_not_see_the_folder_of_latents_ends_the_encoding_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, team = tasks(tmp_path / "made", 1), Team()
    # Its node has another folder of that name.
    monkeypatch.setattr(image_encoding, "marked", lambda *_: nullcontext(Mark(Path.cwd() / "runs/latents/m", "n", "s")))
    with pytest.raises(UserError, match=r"a worker on node .* does not see .*runs/latents of node n"):
        on(team, monkeypatch, 0, work)
    assert [actor.done for actor in team.actors] == [[]]
    assert not (tmp_path / "made").exists()
