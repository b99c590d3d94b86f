"""Which of a pair's final alignments is right, how surely, and how large the error will be.

n pairs, k alignments of a pair, F numbers about each.

    numbers [k,F] -> perceptron -> logits [k] --softmax with "none of them"--> chances [k] --summed over--> chances of
                                                                                             neighbours      rotations
    chance and angle of the best rotation -> expected error in degrees, by a table for each range of angles that falls
    as the chance grows: what looks like a small turn is seldom half a turn off

Fitted after the networks, on objects that they did not learn from, so that it knows how far they can be trusted there.
"""

from dataclasses import dataclass
from math import radians

import torch
from torch import Tensor, nn

from vidssl.rotation.so3 import geodesic

RIGHT = 5.0  # degrees
SAME = 5.0  # degrees: alignments so near to each other speak for one rotation
HIDDEN = 16  # a perceptron of 48 and 48 overfits to some 500 pairs: picks 2 to 5% less of what is there
KNOTS = 21  # of a table of expected errors, evenly over chances 0…1
TURNS = (30.0, 60.0)  # degrees: where the range of angles of one table ends and that of the next begins
FOLDS = 8
SURE = 0.98  # more is out of reach: of a symmetric object, several answers fit and one counts
FEW = 30  # pairs: a table of fewer means nothing


class Choice(nn.Module):
    """Numbers about alignments to chances and an expected error."""

    mean: Tensor
    deviation: Tensor
    expected: Tensor
    sure: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("deviation", torch.ones(count))
        self.register_buffer("expected", torch.full((len(TURNS) + 1, KNOTS), 90.0))
        self.register_buffer("sure", torch.tensor(2.0))  # the chance from which on nearly all are right; 2: no such
        self.net = nn.Sequential(nn.Linear(count, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
        self.none = nn.Parameter(torch.zeros(()))

    def forward(self, numbers: Tensor) -> Tensor:
        """[...,k,F] -> log-probabilities [...,k+1]: of each alignment to be the right one, and of none to be."""
        logits = self.net((numbers - self.mean) / self.deviation)[..., 0]
        return torch.cat((logits, self.none.expand_as(logits[..., :1])), dim=-1).log_softmax(dim=-1)

    def expected_error(self, chance: Tensor, angle: Tensor) -> Tensor:
        """Degrees, of estimates whose chance to be right is [...] and which turn by [...] degrees."""
        place = chance.clamp(0, 1) * (KNOTS - 1)
        low = place.floor().long().clamp(max=KNOTS - 2)
        which = _range_of(angle)
        return torch.lerp(self.expected[which, low], self.expected[which, low + 1], place - low)


def best_of(chances: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each of n pairs with chances [n,k] of rotations [n,k,3,3]: the place [n] of the one that is chosen, its chance
    [n] with that of its neighbours, and the angle [n] that it turns by, degrees."""
    joint = together(chances, rotations)
    place = (joint + chances).argmax(dim=1)
    rows = torch.arange(len(place))
    chosen = rotations[rows, place]
    return place, joint[rows, place], torch.rad2deg(geodesic(chosen, torch.eye(3).expand_as(chosen)))


def together(chances: Tensor, rotations: Tensor) -> Tensor:
    """Chances [...,k] of rotations [...,k,3,3], each with those of its neighbours (within SAME) added."""
    near = geodesic(rotations[..., :, None, :, :], rotations[..., None, :, :, :]) < radians(SAME)
    return (near.float() @ chances[..., None])[..., 0].clamp(max=1)


@dataclass(frozen=True)
class Judged:
    """What a choice says of n pairs that it was not fitted on."""

    chance: Tensor
    """[n], of the rotation chosen"""
    angle: Tensor
    """[n], that it turns by, degrees"""
    error: Tensor
    """[n], its own, degrees"""


def fit_choice(
    numbers: Tensor,
    rotations: Tensor,
    errors: Tensor,
    groups: Tensor,
    seed: int = 0,
    asked: Tensor | None = None,
) -> tuple[Choice, Judged]:
    """Fit on n pairs: numbers [n,k,F], rotations [n,k,3,3], errors [n,k] degrees, the objects they are of int64 [n].

    An alignment is right within RIGHT degrees; of several right ones each is a right answer. The objects are cut into
    FOLDS parts, and the pairs of each part are judged by what those of the others teach; from those judgements come
    the tables of expected errors and what is sure. The perceptron is then fitted on all.

    Args:
        asked: bool [n], the pairs in which this choice would be asked at all, of which the tables are made; all when
            not given, and in a range of angles with too few.
    """
    judged = _judged(numbers, rotations, errors, groups, seed)
    choice = _fitted(numbers, errors, seed)
    everywhere = torch.ones(len(numbers), dtype=torch.bool)
    for which, row in enumerate(choice.expected):
        near = _range_of(judged.angle) == which
        nested = [near & (everywhere if asked is None else asked), near, everywhere]
        counted = next((rows for rows in nested if rows.sum() >= FEW), everywhere)
        row.copy_(_table(judged.chance[counted], judged.error[counted]))
    choice.sure.copy_(_sure(judged.chance, judged.error))
    return choice, judged


def _judged(numbers: Tensor, rotations: Tensor, errors: Tensor, groups: Tensor, seed: int) -> Judged:
    chance, angle, error = (torch.zeros(len(numbers)) for _ in range(3))
    objects = groups.unique()
    for part in objects[torch.randperm(len(objects), generator=torch.Generator().manual_seed(seed))].chunk(FOLDS):
        ours = torch.isin(groups, part)
        judge = _fitted(numbers[~ours], errors[~ours], seed)
        with torch.no_grad():
            own = judge(numbers[ours])[:, :-1].exp()
        place, chance[ours], angle[ours] = best_of(own, rotations[ours])
        error[ours] = errors[ours].gather(1, place[:, None])[:, 0]
    return Judged(chance, angle, error)


def _fitted(numbers: Tensor, errors: Tensor, seed: int, steps: int = 600) -> Choice:
    right = errors < RIGHT
    allowed = torch.cat((right, ~right.any(dim=1, keepdim=True)), dim=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        choice = Choice(numbers.shape[-1])
        choice.mean.copy_(numbers.flatten(0, 1).mean(dim=0))
        choice.deviation.copy_(numbers.flatten(0, 1).std(dim=0).clamp(min=1e-6))
        optimizer = torch.optim.AdamW(choice.parameters(), 5e-3, weight_decay=0.1)
        cooling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            batch = torch.randint(len(numbers), (min(256, len(numbers)),))
            blurred = numbers[batch] + 0.05 * choice.deviation * torch.randn_like(numbers[batch])
            loss = -choice(blurred).masked_fill(~allowed[batch], -torch.inf).logsumexp(dim=1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cooling.step()
    return choice.eval()


def _range_of(angle: Tensor) -> Tensor:
    """Which of the ranges that TURNS cut angles [...] lie in."""
    return torch.bucketize(angle, torch.tensor(TURNS), right=True)


def _sure(chance: Tensor, error: Tensor) -> Tensor:
    """The least chance from which on SURE of the estimates are right."""
    order = chance.argsort(descending=True)
    share = (error[order] < RIGHT).double().cumsum(0) / torch.arange(1, len(order) + 1)
    enough = (share >= SURE).nonzero()
    return chance[order[enough[-1, 0]]] if len(enough) else torch.tensor(2.0)


def _table(chance: Tensor, error: Tensor) -> Tensor:
    """Mean error [KNOTS] by chance, by isotonic regression: the surer, the smaller."""
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(increasing=False, out_of_bounds="clip").fit(
        chance.double().numpy(), error.double().numpy()
    )
    return torch.from_numpy(fitted.predict(torch.linspace(0, 1, KNOTS, dtype=torch.float64).numpy())).float()
