"""Signals turn with the object: exactly where both views see the same."""

import torch
from torch import nn

from vidssl.rotation.crops import Crops
from vidssl.rotation.harmonics import wigner
from vidssl.rotation.network import NetworkConfig, SphereNet
from vidssl.rotation.posterior import by_degree

SMALL = NetworkConfig(degree=5, signals=6, widths=(8, 8, 16, 16), hidden=32)
QUARTER = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])  # what torch.rot90 of an image does: (x, y) -> (y, -x)


def bumps(n: int = 2) -> Crops:
    """A bumpy, lopsided surface in the middle of each crop."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(*2 * ((torch.arange(96) - 47.5) / 37.5,), indexing="ij")
    waves = torch.randn(n, 4, 1, 1, generator=generator)
    z = 0.3 * torch.sin(3 * x + waves[:, 0]) + 0.2 * torch.cos(4 * y * waves[:, 1]) + 0.3 * x * y + waves[:, 2] * 0.1
    mask = (((x - 0.1).square() + 1.7 * y.square()) < 0.8).float().expand(n, 96, 96)[:, None]
    points = torch.stack((x.expand_as(z), y.expand_as(z), z), dim=1) * mask
    return Crops(points, mask, torch.tensor([[0.0, 0, 0.8]]).expand(n, 3), torch.full((n,), 0.1))


def quarter_turned(crops: Crops) -> Crops:
    points = torch.einsum("ij,njhw->nihw", QUARTER, torch.rot90(crops.points, 1, (2, 3)))
    return Crops(points, torch.rot90(crops.mask, 1, (2, 3)), crops.origin @ QUARTER.T, crops.radius)


def network() -> SphereNet:
    torch.manual_seed(0)
    net = SphereNet(SMALL)
    with torch.no_grad():
        net.weight.copy_(torch.randn(6) * 0.3)
    return net


def silence(*layers: nn.Linear) -> None:
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def test_signals_have_unit_norm_and_shapes() -> None:
    with torch.no_grad():
        signals, middle = network()(bumps(3))
    assert signals.shape == (3, 6, 36)
    assert middle.shape == (3, 3)
    torch.testing.assert_close(signals.flatten(1).norm(dim=1), torch.ones(3))


def test_an_empty_crop_has_finite_signals() -> None:
    nothing = Crops(torch.zeros(1, 3, 96, 96), torch.zeros(1, 1, 96, 96), torch.zeros(1, 3), torch.ones(1))
    signals, middle = network()(nothing)
    assert signals.isfinite().all()
    assert middle.isfinite().all()


def test_what_is_seen_turns_by_the_wigner_matrix() -> None:
    """A quarter turn about the optical axis shows the same surface. Every cell says the same here, and nothing is
    added for what isn't seen: what is left is the lifting, and Z(turned) = D(turn) Z."""
    net = network()
    silence(net.unseen, net.middle)
    nn.init.zeros_(net.says.weight)
    assert net.says.bias is not None
    nn.init.normal_(net.says.bias)
    crops = bumps()
    with torch.no_grad():
        before, after = (by_degree(net(view)[0]) for view in (crops, quarter_turned(crops)))
    for ell, (first, second) in enumerate(zip(before, after, strict=True)):
        D = wigner(QUARTER[None], 5)[ell][0]
        torch.testing.assert_close(second, first @ D.T, atol=1e-5, rtol=0)
        assert first.abs().max() > 1e-3
    assert (before[1] - after[1]).abs().max() > 1e-2  # they did turn


def test_what_cells_say_stands_where_they_lie() -> None:
    """The same with every cell saying something of its own, lifted about a middle that turns along."""
    net, crops = network(), bumps()
    says, middle = torch.randn(2, 12, 24, 24), 0.2 * torch.randn(2, 3)
    with torch.no_grad():
        before = net._lift(crops, says.flatten(2), middle)
        after = net._lift(quarter_turned(crops), torch.rot90(says, 1, (2, 3)).flatten(2), middle @ QUARTER.T)
    for first, second, D in zip(by_degree(before), by_degree(after), wigner(QUARTER[None], 5), strict=True):
        torch.testing.assert_close(second, first @ D[0].T, atol=1e-5, rtol=0)


def test_the_middle_is_not_moved_by_the_signals() -> None:
    """Only what is known of the middle teaches where it is: the lifting passes no gradient to it."""
    net = network()
    signals, _ = net(bumps())
    signals.square().mul(torch.randn_like(signals)).sum().backward()
    assert net.middle.weight.grad is None
    assert net.says.weight.grad is not None
    assert net.says.weight.grad.abs().sum() > 0
