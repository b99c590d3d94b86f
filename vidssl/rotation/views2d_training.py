"""Training of the network on pairs of pictures.

    m views of an object, each some rotation off the first ── trunk, once a view ──> maps
    every two of the m, in random order ── head ──> mixture over rotations ──> −log p(known rotation), the mean

The group is turned and mirrored as a whole by one of the eight quarter turns, so a batch shows poses never rendered.

g groups, m views a group, S = 64 pixels.
"""

import itertools
import math
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from vidssl.errors import VidsslError
from vidssl.rotation.so3 import geodesic
from vidssl.rotation.views2d import PairNet, ViewsConfig, normalised, quarter_turned
from vidssl.train import schedule

GROUPS, LEARNING_RATE, WEIGHT_DECAY, CLIP_NORM, WARMUP = 8, 2e-3, 1e-4, 1.0, 0.03
NOISE = 0.05  # added to pictures of unit deviation


def fit_views(
    images: Tensor,
    rotations: Tensor,
    seconds: float,
    config: ViewsConfig | None = None,
    seed: int = 0,
    precision: Literal["32", "bf16"] = "bf16",
    report: Callable[[int, float, dict[str, float]], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> PairNet:
    """A `PairNet` trained for so many seconds of the clock, on the CPU or wherever `images` are.

    Args:
        images: uint8 `[g,m,64,64]` luma.
        rotations: float32 `[g,m,3,3]`, from the object's frame to the camera's axes.
        seconds: to train for; the learning rate follows the clock.
        config: of the network.
        seed: of the weights and of all draws.
        precision: bf16 mixed is about twice as fast on CPUs that have it.
        report: called every 100 steps with the step, the share of the time spent and the means of loss and angle.
        stop: asked before every step; training ends early where it says so.

    Raises:
        VidsslError: tensors of other shapes or types, fewer than 8 groups, no time, or a loss that is not finite.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or len(images) < 8 or images.shape[1] < 2:
        raise VidsslError(
            f"views: expected uint8 [g,m,64,64] of 8 groups of 2 views or more, got {images.dtype} {list(images.shape)}"
        )
    if rotations.shape != (*images.shape[:2], 3, 3):
        raise VidsslError(f"views: expected rotations {[*images.shape[:2], 3, 3]}, got {list(rotations.shape)}")
    if not seconds > 0:
        raise VidsslError(f"views: got {seconds} seconds to train for; give a number above 0")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = PairNet(config or ViewsConfig()).to(images.device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    sums = torch.zeros(2, device=images.device)
    began = time.perf_counter()
    for step in itertools.count(1):
        spent = (time.perf_counter() - began) / seconds
        if spent >= 1 or stop():
            break
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * schedule(spent, WARMUP)
        loss, angle = views_loss(net, *draw(images, rotations, generator), generator, precision)
        if not math.isfinite(loss.item()):
            raise VidsslError(f"views: the loss is {loss.item()} at step {step}; train again with precision 32")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP_NORM)
        optimizer.step()
        sums += torch.stack([loss.detach(), angle]) / 100
        if step % 100 == 0 and report is not None:
            report(step, spent, {"loss": float(sums[0]), "degrees": math.degrees(float(sums[1]))})
        if step % 100 == 0:
            sums.zero_()
    return net


def draw(images: Tensor, rotations: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`GROUPS` random groups: pictures `[GROUPS,m,64,64]` and poses, an eighth of them by each quarter turn."""
    chosen = torch.randint(len(images), (GROUPS,), generator=generator).to(images.device)
    parts = [
        quarter_turned(images[rows], rotations[rows], number)
        for number, rows in enumerate(chosen.chunk(min(8, GROUPS)))
    ]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def views_loss(
    net: PairNet, images: Tensor, rotations: Tensor, generator: torch.Generator, precision: str = "32"
) -> tuple[Tensor, Tensor]:
    """−log p in nats of the known rotations of all pairs of every group, and the mean angle to the best hypothesis."""
    b, m = images.shape[:2]
    i, j = torch.triu_indices(m, m, offset=1, device=images.device)
    swap = torch.rand(b, len(i), generator=generator).to(images.device) < 0.5
    first, second = torch.where(swap, j, i), torch.where(swap, i, j)  # [b, pairs]
    rows = torch.arange(b, device=images.device)[:, None]
    between = (rotations[rows, second] @ rotations[rows, first].mT).flatten(0, 1)
    x = normalised(images.flatten(0, 1)[:, None].float())
    x = x + NOISE * torch.randn(x.shape, generator=generator).to(x.device)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        of_views = (x.unflatten(0, (b, m)), net.descriptors(x).unflatten(0, (b, m)))
        ends = [of[rows, which].flatten(0, 1) for of in of_views for which in (first, second)]
        found = net.compare(*ends)
    with torch.no_grad():
        best = found.centres[torch.arange(len(between), device=x.device), found.best()]
        angle = geodesic(best, between).mean()
    return -found.log_density(between).mean(), angle
