"""The averages are kept by rank 0 alone, and every rank judges by them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from advdmd_ray.learner.averages import Averages
from advdmd_ray.learner.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from advdmd_ray.learner.ema import warm_decay
from advdmd_ray.learner.engine import Engine, build_engine
from advdmd_ray.learner.gang import SoloGang

CPU = torch.device("cpu")
DECAYS = {"student": 0.15, "discriminator": 0.05}


class Rank(SoloGang):
    """One of two ranks, without the other: hears what rank 0 sent."""

    size = 2

    def __init__(self, rank: int, sent: list[Tensor]) -> None:
        self.rank, self._sent = rank, sent

    def from_first(self, tensor: Tensor) -> Tensor:
        if self.rank == 0:
            self._sent.append(tensor.clone())
            return tensor
        return tensor.copy_(self._sent.pop(0))


class CopiedError(AssertionError):
    """A rank that keeps nothing copied weights."""


def engines(seed: int) -> dict[str, Engine]:
    torch.manual_seed(seed)
    return {
        name: build_engine(nn.Linear(3, 2), kind="torch", objectives={"a": 0.1})
        for name in ("student", "discriminator")
    }


def moved(networks: dict[str, Engine]) -> None:
    for engine in networks.values():
        engine.load_state_dict({name: tensor + 1.0 for name, tensor in engine.state_dict().items()})


def averages(rank: int, networks: dict[str, Engine], sent: list[Tensor]) -> Averages:
    return Averages(Rank(rank, sent), networks, DECAYS, CPU)


def test_rank_0_follows_each_network_at_its_own_decay() -> None:
    networks = engines(1)
    before = {name: engine.state_dict() for name, engine in networks.items()}
    kept = averages(0, networks, [])
    moved(networks)
    copies = kept.update(keep="student")
    now = networks["student"].state_dict()
    assert copies.keys() == now.keys()
    assert all(torch.equal(copies[name], weight) for name, weight in now.items())
    moved(networks)
    assert not any(torch.equal(copies[name], weight) for name, weight in networks["student"].state_dict().items())
    for name, decay in DECAYS.items():
        for weight, tensor in kept.of(name).items():
            torch.testing.assert_close(tensor, before[name][weight] + (1 - warm_decay(decay, 0)))


def test_another_rank_keeps_and_copies_nothing_but_wears_what_rank_0_has(monkeypatch: pytest.MonkeyPatch) -> None:
    networks, sent = engines(1), list[Tensor]()
    zero, one = averages(0, networks, sent), averages(1, networks, sent)
    moved(networks)
    zero.update(keep="student")
    assert dict(zero.everywhere("discriminator")).keys() == zero.of("discriminator").keys()

    def to(*_: object, **__: object) -> Tensor:
        raise CopiedError

    with monkeypatch.context() as patched:
        patched.setattr(Tensor, "to", to)
        patched.setattr(Tensor, "clone", to)
        assert one.update(keep="student") == {}
        assert [list(stream) for stream in one.streams().values()] == [[], []]
    with pytest.raises(ValueError, match="rank 1 keeps no averages"):
        one.of("student")
    with networks["discriminator"].wearing(one.everywhere("discriminator")) as judge:
        assert {name: tensor.tolist() for name, tensor in judge.named_parameters()} == {
            name: tensor.tolist() for name, tensor in zero.of("discriminator").items()
        }
    assert sent == []


def test_an_average_goes_on_from_a_checkpoint_and_another_rank_reads_none(tmp_path: Path) -> None:
    networks = engines(1)
    first = averages(0, networks, [])
    moved(networks)
    first.update(keep="student")
    saved: Checkpoint = open_checkpoint(save_checkpoint(tmp_path, 1, first.streams(), {}, 1))
    second = averages(0, engines(2), [])
    second.load(saved, 1)
    for name in DECAYS:
        assert all(torch.equal(tensor, first.of(name)[weight]) for weight, tensor in second.of(name).items())
    second.update(keep="student")
    moved_on = engines(2)["student"].state_dict()
    decay = warm_decay(DECAYS["student"], 1)
    for weight, tensor in second.of("student").items():
        torch.testing.assert_close(tensor, decay * first.of("student")[weight] + (1 - decay) * moved_on[weight])
    for file in saved.path.glob("*.safetensors"):
        file.unlink()
    averages(1, engines(2), []).load(saved, 1)
