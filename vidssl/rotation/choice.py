"""Which of a pair's final alignments is right, how surely, and how large the error will be.

k alignments of a pair, F numbers about each.

    numbers [k,F] -> perceptron -> logits [k] --softmax with "none of them"--> probabilities [k]
    probability of the best -> expected error in degrees, by a table that rises as the probability falls

Fitted after the networks, on objects that they did not learn from, so that it knows how far they can be trusted there.
"""

import torch
from torch import Tensor, nn

RIGHT = 5.0  # degrees
HIDDEN = 48
KNOTS = 21  # of the table of expected errors, evenly over probabilities 0…1


class Choice(nn.Module):
    """Numbers about alignments to probabilities and an expected error."""

    mean: Tensor
    deviation: Tensor
    expected: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("deviation", torch.ones(count))
        self.register_buffer("expected", torch.full((KNOTS,), 90.0))
        self.net = nn.Sequential(
            nn.Linear(count, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1)
        )
        self.none = nn.Parameter(torch.zeros(()))

    def forward(self, numbers: Tensor) -> Tensor:
        """[...,k,F] -> log-probabilities [...,k+1]: of each alignment to be the right one, and of none to be."""
        logits = self.net((numbers - self.mean) / self.deviation)[..., 0]
        return torch.cat((logits, self.none.expand_as(logits[..., :1])), dim=-1).log_softmax(dim=-1)

    def expected_error(self, probability: Tensor) -> Tensor:
        """Degrees, of estimates whose probability to be right is [...]."""
        place = probability.clamp(0, 1) * (KNOTS - 1)
        low = place.floor().long().clamp(max=KNOTS - 2)
        return torch.lerp(self.expected[low], self.expected[low + 1], place - low)


def fit_choice(numbers: Tensor, errors: Tensor, seed: int = 0, steps: int = 600) -> Choice:
    """Fit on n pairs: numbers [n,k,F], errors [n,k] degrees.

    An alignment is right within RIGHT degrees; of several right ones each is a right answer. Two halves of the pairs
    each are judged by what the other half teaches, and those judgements make the table of expected errors; the
    perceptron is then fitted on all.
    """
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed))
    halves = order.chunk(2)
    probability, error = torch.zeros(len(numbers)), torch.zeros(len(numbers))
    for ours, theirs in (halves, halves[::-1]):
        judge = _fitted(numbers[theirs], errors[theirs], seed, steps)
        with torch.no_grad():
            chances = judge(numbers[ours])[:, :-1].exp()
        best = chances.argmax(dim=1, keepdim=True)
        probability[ours], error[ours] = chances.gather(1, best)[:, 0], errors[ours].gather(1, best)[:, 0]
    choice = _fitted(numbers, errors, seed, steps)
    choice.expected.copy_(_table(probability, error))
    return choice


def _fitted(numbers: Tensor, errors: Tensor, seed: int, steps: int) -> Choice:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        choice = Choice(numbers.shape[-1])
        flat = numbers.flatten(0, 1)
        choice.mean.copy_(flat.mean(dim=0))
        choice.deviation.copy_(flat.std(dim=0).clamp(min=1e-6))
        right = errors < RIGHT
        allowed = torch.cat((right, ~right.any(dim=1, keepdim=True)), dim=1)
        optimizer = torch.optim.AdamW(choice.parameters(), 5e-3, weight_decay=0.1)
        cooling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            batch = torch.randint(len(numbers), (min(256, len(numbers)),))
            noisy = numbers[batch] + 0.05 * choice.deviation * torch.randn_like(numbers[batch])
            loss = -choice(noisy).masked_fill(~allowed[batch], -torch.inf).logsumexp(dim=1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cooling.step()
    return choice.eval()


def _table(probability: Tensor, error: Tensor) -> Tensor:
    """Mean error [KNOTS] by probability, by isotonic regression: the surer, the smaller."""
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(increasing=False, out_of_bounds="clip").fit(probability.numpy(), error.numpy())
    return torch.from_numpy(fitted.predict(torch.linspace(0, 1, KNOTS).numpy())).float()

