"""Point encoders: order, place and size of a cloud change nothing; what they compute is what the papers write."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from vidssl.checkpoint import write_config, write_model
from vidssl.encoders.points import (
    DGCNN,
    POINT_ENCODERS,
    EdgeConv,
    PointNet,
    build_point_encoder,
    load_point_encoder,
    unit_clouds,
)
from vidssl.errors import VidsslError


def clouds(count: int = 3, points: int = 40) -> Tensor:
    return torch.randn(count, points, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture(params=sorted(POINT_ENCODERS))
def encoder(request: pytest.FixtureRequest) -> PointNet | DGCNN:
    torch.manual_seed(0)
    return build_point_encoder(request.param, 16).double()


@pytest.mark.parametrize("training", [True, False])
def test_the_order_of_points_changes_nothing(encoder: PointNet | DGCNN, training: bool) -> None:
    encoder.train(training)
    x = clouds()
    order = torch.argsort(torch.rand(3, 40, generator=torch.Generator().manual_seed(2)), dim=1)
    shuffled = x.gather(1, order[..., None].expand_as(x))
    assert encoder(x).shape == (3, 16)
    torch.testing.assert_close(encoder(shuffled), encoder(x), rtol=1e-9, atol=1e-9)


def test_place_and_size_change_nothing_and_shape_does(encoder: PointNet | DGCNN) -> None:
    encoder.eval()
    x = clouds()
    moved = 1000 * x + torch.tensor([5.0, -3.0, 800.0], dtype=torch.float64)
    torch.testing.assert_close(encoder(moved), encoder(x), rtol=1e-8, atol=1e-8)
    flat = x * torch.tensor([1.0, 1.0, 0.2], dtype=torch.float64)
    assert (encoder(flat) - encoder(x)).abs().max() > 1e-2


def test_a_cloud_does_not_depend_on_the_others_once_trained(encoder: PointNet | DGCNN) -> None:
    encoder.eval()
    x = clouds()
    torch.testing.assert_close(encoder(x[1:2]), encoder(x)[1:2], rtol=1e-9, atol=1e-9)


def test_every_parameter_learns_from_finite_gradients(encoder: PointNet | DGCNN) -> None:
    encoder(clouds()).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert float(parameter.grad.abs().sum()) > 0, name


def test_unit_clouds_by_hand() -> None:
    # mean (1, 0, 0); distances from it 1 and 1, so the scale is 1
    two = torch.tensor([[[0.0, 0, 0], [2, 0, 0]]])
    torch.testing.assert_close(unit_clouds(two), torch.tensor([[[-1.0, 0, 0], [1, 0, 0]]]))
    torch.testing.assert_close(unit_clouds(5 * two + 3), unit_clouds(two))


def test_edge_convolution_is_the_maximum_over_edges() -> None:
    """Equation 8 of the paper, an edge at a time; its norm at rest is the identity (to its epsilon)."""
    torch.manual_seed(0)
    layer = EdgeConv(3, 5, 4).double().eval()
    x = clouds(2, 9)
    expected = torch.empty(2, 9, 5, dtype=torch.float64)
    for b in range(2):
        for i in range(9):
            near = (x[b] - x[b, i]).norm(dim=1).argsort()[:4]
            edges = torch.stack([layer.edge.weight @ (x[b, j] - x[b, i]) + layer.own.weight @ x[b, i] for j in near])
            expected[b, i] = torch.nn.functional.leaky_relu(edges.amax(0) / (1 + 1e-5) ** 0.5, 0.2)
    torch.testing.assert_close(layer(x), expected)


def test_pointnet_is_a_maximum_over_points() -> None:
    """Equation 1 of the paper: one function of every point, then the maximum."""
    torch.manual_seed(0)
    net = PointNet(8, (4,)).double().eval()
    unit = unit_clouds(clouds(1))[0]
    by_point = net.points(unit)
    torch.testing.assert_close(net(clouds(1))[0], by_point.amax(0))


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.zeros(40, 3), r"expected float32 \[B,P,3\], got float32 \(40, 3\); give one cloud as points\[None\]"),
        (torch.zeros(2, 40, 4), r"got float32 \(2, 40, 4\)"),
        (torch.zeros(0, 40, 3), r"got float32 \(0, 40, 3\)"),
        (torch.zeros(2, 40, 3, dtype=torch.int32), r"got int32 \(2, 40, 3\)"),
        (torch.rand(2, 31, 3), "got 31 points a cloud, at least 32 are needed"),
        (torch.rand(2, 0, 3), "got 0 points a cloud"),
        (torch.ones(2, 40, 3), "all points of cloud 0 lie in one place"),
    ],
)
def test_what_is_no_cloud_is_named(encoder: PointNet | DGCNN, points: Tensor, message: str) -> None:
    with pytest.raises(VidsslError, match=message):
        encoder(points)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_points_that_are_not_finite_are_counted(encoder: PointNet | DGCNN, value: float) -> None:
    x = clouds()
    x[1, 5:7, 0] = value
    with pytest.raises(VidsslError, match="points: 2 of 40 points of cloud 1 are NaN or infinite; leave out pixels"):
        encoder(x)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(VidsslError, match="unknown point encoder 'pointnext'; the point encoders here are: dgcnn"):
        build_point_encoder("pointnext")
    with pytest.raises(VidsslError, match="dgcnn: got dim=7, neighbours=12; give an even dim"):
        DGCNN(7)
    with pytest.raises(VidsslError, match="got 40 points a cloud, at least 50"):
        DGCNN(8, (4,), neighbours=50)(torch.rand(1, 40, 3))


def test_an_encoder_comes_back_from_its_run(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = build_point_encoder("dgcnn", 8)
    write_config(tmp_path, {"kind": "points", "encoder": {"name": "dgcnn", "dim": 8}})
    write_model(tmp_path, {f"encoder.{name}": tensor for name, tensor in made.state_dict().items()})
    x = torch.rand(2, 40, 3)
    found = load_point_encoder(tmp_path)
    assert not found.training
    torch.testing.assert_close(found(x), made.eval()(x))
    write_config(tmp_path, {"encoder": {"name": "small", "dim": 8}})
    with pytest.raises(VidsslError, match="holds no point encoder; pass the --out folder of `vidssl pretrain-points`"):
        load_point_encoder(tmp_path)
