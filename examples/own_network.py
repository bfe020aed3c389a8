"""Distils a small network of one's own, here of points in the plane, into a student of two steps.

`distil` is all that the library has to do with; what it asks of a network is its call. Ten seconds on one core:
`python examples/own_network.py`.
"""

import copy
import math

import torch
from torch import Tensor, nn

import advdmd_ray as adv

BATCH, SHAPE = 128, (2, 1, 1)
KERNEL, SIGMAS = adv.Kernel.renoise(), adv.student_sigmas((1.0, 0.6), shift=1.0)


class Network(nn.Module):
    """Somebody's own: a perceptron that sees a point and its noise level, and no prompt."""

    def __init__(self) -> None:
        super().__init__()
        hidden = [layer for _ in range(2) for layer in (nn.Linear(128, 128), nn.SiLU())]
        self.layers = nn.Sequential(nn.Linear(3, 128), nn.SiLU(), *hidden, nn.Linear(128, 2))

    def forward(self, x: Tensor, t: Tensor, _prompts: adv.Conditioning) -> Tensor:
        """The velocity `eps - x0` at states x of [b, 2, 1, 1] and noise levels t of [b]."""
        return self.layers(torch.cat([x.flatten(1), t.unsqueeze(1)], dim=1)).view_as(x)


def data(count: int) -> Tensor:
    """Points around eight places on a circle."""
    angle = torch.randint(8, (count,)) * math.pi / 4
    return (1.5 * torch.stack([angle.cos(), angle.sin()], dim=1) + 0.1 * torch.randn(count, 2)).view(count, *SHAPE)


def no_prompts(count: int) -> adv.Conditioning:
    """What stands for the prompts of a network that takes none."""
    return adv.Conditioning(embeds=torch.zeros(count, 1, 1), pooled=torch.zeros(count, 0))


def follow(network: Network, optimizer: torch.optim.Optimizer, x0: Tensor) -> None:
    """One flow-matching update on clean points."""
    t, eps = torch.rand(len(x0)), torch.randn_like(x0)
    optimizer.zero_grad()
    adv.flow_matching_loss(network(adv.noised(x0, eps, t), t, no_prompts(len(x0))), x0, eps).backward()
    optimizer.step()


def pretrain(updates: int = 1000) -> Network:
    """The teacher, which needs many steps."""
    teacher = Network()
    optimizer = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    for _ in range(updates):
        follow(teacher, optimizer, data(512))
    return teacher


def distil(teacher: Network, updates: int = 200) -> Network:
    """The student of as many steps as SIGMAS has levels, by DMD on its own trajectories."""
    student, fake_score, prompts = copy.deepcopy(teacher), copy.deepcopy(teacher), no_prompts(BATCH)
    student_optimizer = torch.optim.Adam(student.parameters(), lr=5e-4, betas=(0.5, 0.99))
    fake_optimizer = torch.optim.Adam(fake_score.parameters(), lr=1e-3, betas=(0.5, 0.99))
    for update in range(updates):
        seeds = range(update * BATCH, (update + 1) * BATCH)
        states = adv.rollout(student, prompts, KERNEL, SIGMAS, shape=SHAPE, seeds=seeds).latents
        for _ in range(4):  # or it would not keep up with the student
            follow(fake_score, fake_optimizer, states[:, -1])
        step = torch.randint(len(SIGMAS) - 1, (BATCH,))
        x, level = states[torch.arange(BATCH), step], SIGMAS[step]
        x0 = adv.clean_from_velocity(x, student(x, level, prompts), level)
        t = 0.02 + 0.96 * torch.rand(BATCH)
        x_t = adv.noised(x0.detach(), torch.randn_like(x0), t)
        with torch.no_grad():
            fake, real = (adv.clean_from_velocity(x_t, net(x_t, t, prompts), t) for net in (fake_score, teacher))
        student_optimizer.zero_grad()
        adv.dmd_loss(x0, adv.dmd_gradient(x0, fake, real)).backward()
        student_optimizer.step()
    return student


def distance(network: Network, count: int = 1000) -> float:
    """Energy distance of what a network draws in the student's steps to the data; 0 for the same distribution."""
    noise = torch.randn(count, *SHAPE)
    drawn = adv.sample(network, no_prompts(count), KERNEL, SIGMAS, noise, seeds=range(count)).flatten(1)
    real = data(count).flatten(1)
    apart, within = torch.cdist(drawn, real).mean(), torch.cdist(drawn, drawn).mean() + torch.cdist(real, real).mean()
    return float(2 * apart - within)


def main() -> tuple[float, float]:
    """The distance of the teacher and of its student."""
    torch.manual_seed(0)
    teacher = pretrain()
    return distance(teacher), distance(distil(teacher))


if __name__ == "__main__":
    torch.set_num_threads(1)  # the layers are too small to be shared out
    print("energy distance to the data in two steps: teacher {:.3f}, student {:.3f}".format(*main()))
