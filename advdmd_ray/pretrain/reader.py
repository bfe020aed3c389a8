"""A small text encoder learns, from captions alone, to say linearly what they state."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from advdmd_ray.data.recipe import Lessons
from advdmd_ray.learner.cadence import Every
from advdmd_ray.models.tiny import TextEncoder, Tokenizer

BATCH = 256
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-4
REPORT_EVERY = 50


def learn_to_say(
    encoder: TextEncoder,
    tokenizer: Tokenizer,
    lessons: Lessons,
    *,
    steps: int,
    seed: int,
    progress: Callable[[int, float], None] | None = None,
) -> None:
    """Train the encoder to say its lessons' facts, and make them its pooled output.

    A linear layer on the pooled output, `y = H p + b`, learns the standardised facts by least squares (AdamW, one cycle
    of the learning rate); encoder and layer learn together. Then H is folded into the projection: the first k channels
    of the pooled output say the k facts but for a constant, in their sizes, the others stay what they became.

    Args:
        encoder: As `models.tiny.build_text_encoder` makes it; frozen again in the end.
        tokenizer: Its own.
        lessons: What it learns.
        steps: Batches of 256.
        seed: Seeds the layer and the draws.
        progress: Told of the steps done and the loss, mean square of standardised facts.

    Raises:
        ValueError: There are more facts than channels.
    """
    width, stated = encoder.text_projection.weight.shape[0], lessons.facts.shape[1]
    if stated > width:
        raise ValueError(f"a pooled output of {width} channels cannot say {stated} facts")
    tokens = tokenizer(list(lessons.texts), padding="max_length", truncation=True, return_tensors="pt").input_ids
    targets = (lessons.facts - lessons.facts.mean(dim=0)) / lessons.facts.std(dim=0).clamp_min(1e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(width, stated)
    _train(encoder.requires_grad_(requires_grad=True), layer, tokens, targets, steps, seed, progress)
    encoder.requires_grad_(requires_grad=False)
    with torch.no_grad():
        projection = encoder.text_projection.weight
        projection[:stated] = lessons.sizes.unsqueeze(1) * (layer.weight @ projection)


def _train(
    encoder: TextEncoder,
    layer: nn.Linear,
    tokens: Int[Tensor, "n l"],
    targets: Float[Tensor, "n k"],
    steps: int,
    seed: int,
    progress: Callable[[int, float], None] | None,
) -> None:
    parameters = [*encoder.parameters(), *layer.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    generator, telling = torch.Generator().manual_seed(seed), Every(REPORT_EVERY)
    for step in range(1, steps + 1):
        rows = torch.randint(len(tokens), (BATCH,), generator=generator)
        loss = (layer(encoder(tokens[rows]).text_embeds) - targets[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None and (telling.due(step) or step == steps):
            progress(step, float(loss.detach()))
