"""`advdmd evaluate` by many workers: the figures of one process, whoever draws what, and none is asked for in vain."""

import json
import logging
import random
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray import cli
from advdmd_ray.config import Config
from advdmd_ray.config.sections import RaySection
from advdmd_ray.data.source import Encoded
from advdmd_ray.errors import UserError, WorkerLostError
from advdmd_ray.runs import judgement, verdict
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.judgement import Drawn, Piece
from advdmd_ray.runs.lasting import Mark
from advdmd_ray.runs.needs.node_roles import LABEL, ROLES, naming, of_any_role
from advdmd_ray.runs.parts import networks
from advdmd_ray.runs.verdict import draw_here, facts_of, verdict_of
from advdmd_ray.runtime import dealing, evaluating, judging, team
from advdmd_ray.runtime.evaluating import drawn_on_ray
from advdmd_ray.runtime.places import Places
from advdmd_ray.runtime.team import Team, team_that_fits
from advdmd_ray.runtime.waiting import Node

pytestmark = pytest.mark.usefixtures("encoders_once")

REMOTE: Any = judging.JudgeActor
ACTOR = REMOTE.__ray_metadata__.modified_class
"""The class that Ray has made remote."""


class Ref:
    """A value, or the error that came instead."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Call:
    """A remote function that is done at once."""

    def __init__(self, function: Callable[..., Any], returns: int = 1) -> None:
        self._function, self._returns = function, returns

    def options(self, *, num_returns: int = 1, **_: Any) -> "Call":
        return Call(self._function, num_returns)

    def remote(self, *args: Any) -> Any:
        try:
            value = self._function(*(arg.value if isinstance(arg, Ref) else arg for arg in args))
        except (UserError, WorkerLostError) as error:
            if self._returns == 1:
                return Ref(error)
            return [Ref(error) for _ in range(self._returns)]
        return [Ref(part) for part in value] if self._returns > 1 else Ref(value)


class DoneHere:
    """Work that is done at once, and written down where Ray was to have it done."""

    def __init__(self, where: list[Any], options: Callable[[], dict[str, Any]] = dict) -> None:
        self._where, self._options = where, options

    def do(self, work: Callable[..., Any], *given: Any, what: str, limit_s: float, returns: int = 1) -> Any:
        self._where.append(self._options().get("label_selector"))
        assert what.startswith("the ")
        assert limit_s > 0
        value = work(*(each.value if isinstance(each, Ref) else each for each in given))
        if returns == 1:
            return value, []
        first, *others = value
        return first, [Ref(other) for other in others]

    def close(self) -> None:
        self._where.append("closed")


class FakeRay:
    """As many GPUs and nodes as it is told, and actors of which the first may be lost at its second piece."""

    ObjectRef = Ref

    def __init__(self, seed: int, *, gpus: float = 0.0, one_dies: bool = False) -> None:
        self._random, self._gpus = random.Random(seed), gpus  # noqa: S311 - only an order
        self.actors: list[SimpleNamespace] = []
        self._one_dies, self.drawn, self.where = one_dies, list[int](), list[Any]()

    def hire(self, *parts: Any) -> SimpleNamespace:
        actor, number = ACTOR(*parts), len(self.actors)

        def draw(piece: Piece) -> tuple[int, Drawn]:
            if self._one_dies and number == 0 and 0 in self.drawn:
                raise WorkerLostError(f"{piece.name}: ActorDiedError")
            self.drawn.append(number)
            return actor.draw(piece)

        self.actors.append(SimpleNamespace(ready=Call(actor.ready), draw=Call(draw)))
        return self.actors[-1]

    def wait(self, tickets: list[Ref], **_: Any) -> tuple[list[Ref], list[Ref]]:
        first = self._random.choice(tickets)
        return [first], [ticket for ticket in tickets if ticket is not first]

    def answer(self, asked: Ref | list[Ref], *_: Any) -> Any:
        if isinstance(asked, list):
            return [self.answer(one) for one in asked]
        if isinstance(asked.value, Exception):
            raise asked.value
        return asked.value

    def kill(self, actor: SimpleNamespace) -> None:
        assert actor in self.actors

    def get_gpu_ids(self) -> list[int]:
        return []

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False, "Resources": {}}]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0, "GPU": self._gpus}

    def takes_over(self, patch: pytest.MonkeyPatch) -> "FakeRay":
        for module in (judging, dealing, team):
            patch.setattr(module, "ray", self)
        for module in (dealing, evaluating):
            patch.setattr(module, "answer", self.answer)
        patch.setattr(judging, "Aside", partial(DoneHere, self.where))
        patch.setattr(judging, "JudgeActor", HiredBy(self))
        patch.setattr(evaluating, "met", lambda *_: nullcontext(False))
        return self


class HiredBy(Call):
    """The actors' class."""

    def __init__(self, ray: FakeRay) -> None:
        self._ray = ray

    def options(self, *, label_selector: Any = None, **_: Any) -> "HiredBy":
        self._ray.where.append(label_selector)
        return self

    def remote(self, *args: Any) -> SimpleNamespace:
        return self._ray.hire(*(arg.value if isinstance(arg, Ref) else arg for arg in args))


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A teacher of few steps and one thread, and afterwards as many as there were."""
    monkeypatch.setattr(judgement, "TEACHER_STEPS", (4, 2))
    monkeypatch.setattr(verdict, "usable_cores", lambda: 1)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def config_of(pipeline: Path, output: Path) -> Config:
    return Config.model_validate(
        {
            "run": {"seed": 5, "output": str(output)},
            "model": {"path": str(pipeline), "max_sequence_length": 5},
            "diffusion": {"sigmas": (1.0, 0.6)},
            "evaluation": {"samples": 20},
            "rollout": {"micro_batch": 4},
        }
    )


def told(config: Config, drawn: Any) -> str:
    return json.dumps(facts_of(verdict_of(config, drawn)))


def test_the_figures_are_those_of_one_process_whoever_draws_what(
    tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(tiny_pipeline, tmp_path)
    alone = told(config, draw_here(config, tiny_pipeline))
    for workers in (1, 3):
        with monkeypatch.context() as patch:
            ray = FakeRay(workers).takes_over(patch)
            assert told(config, drawn_on_ray(config, tiny_pipeline, actors=workers)) == alone
            assert len(ray.actors) == workers
            assert len(set(ray.drawn)) >= min(workers, 2), "they share the work"
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


class Images:
    """Real images in shards, of which some are not encoded."""

    def __init__(self, missing: Sequence[str], order: list[str]) -> None:
        self._missing, self._order = missing, order

    def to_encode(self) -> Sequence[str]:
        return self._missing

    def encoded(self, results: Iterable[Encoded]) -> str:
        self._order.append(f"counted {sum(each.images for each in results)}")
        return "the table\nin two lines"


@pytest.mark.parametrize(("missing", "actors"), [(["a", "b", "c"], 2), (["a"], 1), ([], 0)])
def test_images_that_are_not_encoded_are_by_as_many_workers_before_anything_is_drawn(
    missing: list[str], actors: int, tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeRay(0).takes_over(monkeypatch)
    order = list[str]()

    def encoded_by(team: Team, config: Config, tasks: Sequence[str]) -> Generator[Encoded]:
        assert (team.actors, config.latents) == (actors, tmp_path / "latents")
        for task in tasks:
            order.append(task)
            yield Encoded(9)

    def drawn_by(_: Team, __: Config, ___: Path, pieces: list[Piece], limit: float) -> Ref:
        assert limit > 0
        order.append("drawn")
        return Ref([None] * len(pieces))

    monkeypatch.setattr(evaluating, "source_of", lambda _: Images(missing, order))
    monkeypatch.setattr(evaluating, "encoded_by", encoded_by)
    monkeypatch.setattr(evaluating, "drawn_by", drawn_by)
    monkeypatch.setattr(evaluating, "say", order.append)
    drawn_on_ray(config_of(tiny_pipeline, tmp_path), tiny_pipeline, actors=2)
    made = [*missing, f"counted {9 * len(missing)}", "the table", "in two lines"] if missing else []
    assert order == [*made, "judging: 2 workers of 0 GPUs draw the images", "drawn"]


@pytest.mark.parametrize(("gpus", "cores", "threads"), [([], 3, 3), ([0], 3, 3), ([0], 99, 8)])
def test_a_workers_threads_hang_on_its_machine_and_not_on_how_many_workers_there_are(
    gpus: list[int], cores: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray, counts = FakeRay(0).takes_over(monkeypatch), []
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: gpus)
    monkeypatch.setattr(verdict, "usable_cores", lambda: cores)
    monkeypatch.setattr(torch, "set_num_threads", counts.append)
    ACTOR(Config(), None, None, None)
    assert counts == [threads] == [verdict.drawing_threads("cuda" if gpus else "cpu")]


def test_what_a_lost_worker_drew_at_is_drawn_by_another_and_a_line_says_so(
    tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(tiny_pipeline, tmp_path)
    FakeRay(3, one_dies=True).takes_over(monkeypatch)
    drawn = drawn_on_ray(config, None, actors=2)
    assert told(config, drawn) == told(config, draw_here(config, None))
    (record,) = [record for record in caplog.records if record.levelno > logging.INFO]
    assert record.message.startswith("the judge's images ")
    assert record.message.endswith("ActorDiedError; another worker takes its place")
    FakeRay(3, one_dies=True).takes_over(monkeypatch)
    assert told(config, drawn_on_ray(config, None, actors=1)) == told(config, drawn)


def test_a_worker_that_does_not_see_the_run_folder_is_left_out_before_it_draws(
    tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(tiny_pipeline, tmp_path)
    ray, asked = FakeRay(1).takes_over(monkeypatch), list[str]()

    def sees(mark: Mark, who: str) -> None:
        assert mark.file == RunFolder(config.folder).lock
        asked.append(who)
        if len(asked) == 1:
            raise UserError(f"{who} on node b does not see {mark.file.parent}")

    monkeypatch.setattr(Mark, "check_seen", sees)
    monkeypatch.setattr(judging, "team_of", lambda *_: Team(2, 0.25, 0.0))
    monkeypatch.setattr(judging, "scored", lambda _, pieces, *drawn: dict(zip(pieces, drawn, strict=True)))
    config.folder.mkdir(parents=True)
    RunFolder(config.folder).lock.write_text("a mark")
    nodes = [Node({}, {LABEL: "learner-rollout"}), Node({}, {LABEL: "rollout-reward"})]
    places = Places(config.model_copy(update={"ray": RaySection(placement="labelled")}), look=lambda: nodes)
    drawn = judging.judged_on_ray(config, tiny_pipeline, DoneHere(ray.where), places)  # type: ignore[arg-type]
    assert told(config, drawn) == told(config, draw_here(config, tiny_pipeline))
    assert asked == ["a worker that judges"] * 2
    both = {role: naming(role) for role in ROLES}
    here = [naming("rollout").selector, "closed", of_any_role(both).selector, None]
    assert ray.where == here, "one encodes and leaves, they draw, and it counts beside the driver"
    assert len(set(ray.drawn)) == 1
    assert f"does not see {config.folder}; the others go on" in caplog.text


def test_as_many_draw_as_there_are_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = {"gpus": 4.0, "nodes": 2}
    assert team_that_fits(99, **fits, actors=None, gpus_each=None) == Team(4, 0.25, 1.0)
    assert team_that_fits(3, **fits, actors=None, gpus_each=None).actors == 3
    assert team_that_fits(99, **fits, actors=None, gpus_each=0.5).actors == 8
    assert team_that_fits(99, **fits, actors=3, gpus_each=None) == Team(3, 0.25, 1.0)
    assert team_that_fits(99, **fits, actors=None, gpus_each=0.0) == Team(2, 0.25, 0.0)
    assert team_that_fits(99, gpus=0.0, nodes=2, actors=None, gpus_each=None) == Team(2, 0.25, 0.0)
    for actors, each, there in ((5, None, 4.0), (3, 2.0, 4.0), (None, 1.0, 0.0)):
        with pytest.raises(UserError, match=f"Ray has {there:g} GPUs; lower --actors or --gpus-each"):
            team_that_fits(99, gpus=there, nodes=2, actors=actors, gpus_each=each)
    FakeRay(0, gpus=3.0).takes_over(monkeypatch)
    assert team.team_here(99, None, None) == Team(3, 0.25, 1.0)
    FakeRay(0).takes_over(monkeypatch)
    assert team.team_here(99, None, None) == Team(1, 0.25, 0.0)


@given(
    st.integers(1, 50),
    st.floats(0, 16),
    st.integers(1, 8),
    st.none() | st.integers(1, 20),
    st.none() | st.sampled_from([0.0, 0.25, 0.3, 1.0, 2.0]),
)
def test_a_team_fits_the_gpus_or_is_refused(
    pieces: int, gpus: float, nodes: int, actors: int | None, gpus_each: float | None
) -> None:
    try:
        fits = team_that_fits(pieces, gpus=gpus, nodes=nodes, actors=actors, gpus_each=gpus_each)
    except UserError:
        assert (actors or 1) * (1.0 if gpus_each is None else gpus_each) > gpus - 1e-3
        return
    assert 1 <= fits.actors <= pieces
    assert fits.actors * fits.num_gpus <= gpus + 1e-3
    assert actors is None or fits.actors == min(actors, pieces)


DRAWN: dict[Piece, Drawn] = {}


def draw_here_once(config: Config) -> dict[Piece, Drawn]:
    """What is drawn does not matter where it is told who draws."""
    if not DRAWN:
        DRAWN.update(draw_here(config, None))
    return DRAWN


@pytest.mark.parametrize(
    ("asked", "gpus", "address", "spread"),
    [
        ("", 0, None, False),
        ("", 1, None, False),
        ("", 2, None, True),
        ("", 0, "head:6379", True),
        ("--actors 1", 8, "head:6379", False),
        ("--actors 2", 0, None, True),
        ("--gpus-each 0.5", 1, None, True),
    ],
)
def test_one_process_draws_where_it_is_all_there_is(
    asked: str,
    gpus: int,
    address: str | None,
    spread: bool,
    tmp_path: Path,
    tiny_pipeline: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = config_of(tiny_pipeline, tmp_path)
    drawn, seen = draw_here_once(config), []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(networks, "gpus_here", lambda: gpus)
    monkeypatch.setattr(verdict, "draw_here", lambda *_: seen.append(False) or drawn)
    monkeypatch.setattr(evaluating, "drawn_on_ray", lambda *_, **__: seen.append(True) or drawn)
    file = tmp_path / "config.yaml"
    file.write_text(config.model_dump_json(exclude_unset=True))
    assert cli.main(["evaluate", "--config", str(file), *asked.split()]) == cli.DONE
    assert seen == [spread]
    assert capsys.readouterr().out.endswith("judge.json\n")
