"""Encoders of the timm library, by a stand-in with the layouts that its models have."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vidssl.core.batch_norm import BatchNorm
from vidssl.encoders import build_encoder
from vidssl.errors import VidsslError

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)


class NormActivation(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: a norm that drops and activates as well."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


class Maps(nn.Module):
    """A map of 8x8 patches, channels first or last, as convolutional networks and Swin give it."""

    def __init__(self, output_fmt: str) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 8, stride=8), NormActivation(6)
        self.plain = nn.BatchNorm2d(6)
        self.output_fmt = output_fmt

    def forward(self, x: Tensor) -> Tensor:
        x = self.plain(self.norm(self.conv(x)))
        return x if self.output_fmt == "NCHW" else x.movedim(1, -1)


class Tokens(Maps):
    """The same map as a row of tokens after two others, as a ViT with a class and a register token."""

    num_prefix_tokens = 2

    def forward(self, x: Tensor) -> Tensor:
        tokens = super().forward(x).flatten(2).mT
        return torch.cat([torch.full_like(tokens[:, :2], 1e6), tokens], dim=1)


class Vector(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


MODELS = {
    "maps": lambda: Maps("NCHW"),
    "maps_last": lambda: Maps("NHWC"),
    "tokens": lambda: Tokens("NCHW"),
    "vector": Vector,
    "broken": lambda: nn.Conv2d(4, 1, 1),  # of four channels
}


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Puts the stand-in in place of timm; the list fills with the settings of the models that are made."""
    made: list[dict[str, Any]] = []

    def create_model(name: str, **settings: Any) -> nn.Module:
        made.append(settings)
        model: Any = MODELS[name]()
        model.pretrained_cfg = {"mean": MEAN, "std": STD}
        return model

    module: Any = ModuleType("timm")
    module.create_model, module.is_model = create_model, MODELS.__contains__
    module.get_pretrained_cfg = lambda name: SimpleNamespace(fixed_input_size=name == "tokens")
    monkeypatch.setitem(sys.modules, "timm", module)
    return made


@pytest.mark.parametrize("name", ["maps", "maps_last", "tokens"])
def test_layouts_give_one_map(timm: list[dict[str, Any]], name: str) -> None:
    """Whichever way a model lays its map out: [B,T,D,h,w], of frames normalised by the model's mean and deviation."""
    torch.manual_seed(0)
    encoder = build_encoder(f"timm:{name}", (32, 48)).eval()
    sized = {"img_size": (32, 48)} if name == "tokens" else {}
    assert timm == [{"pretrained": False, "num_classes": 0, "in_chans": 3, "global_pool": "", **sized}]
    model = encoder.trunk.model
    clips = torch.rand(2, 3, 3, 32, 48)
    with torch.inference_mode():
        normal = (clips - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        expected = model.plain(model.norm(model.conv(normal.flatten(0, 1)))).unflatten(0, (2, 3))
        torch.testing.assert_close(encoder.maps(clips), expected)
        torch.testing.assert_close(encoder(clips), expected.mean((-2, -1)))
        assert expected.min() > -1e-3  # activated
        torch.testing.assert_close(encoder.step(clips[:, 1], clips[:, 0]), encoder(clips)[:, 1])
    assert (encoder.dim, encoder.past) == (6, 0)


def test_batch_norms_see_all_ranks_and_keep_their_names(timm: list[dict[str, Any]]) -> None:
    encoder = build_encoder("timm:maps", (32, 32))
    norms = [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 2
    assert all(isinstance(norm, BatchNorm) for norm in norms)
    assert {key.removeprefix("trunk.model.") for key in encoder.state_dict()} == set(Maps("NCHW").state_dict())


def test_models_that_cannot_be_had(timm: list[dict[str, Any]]) -> None:
    with pytest.raises(VidsslError, match="timm has no model 'resnt18'"):
        build_encoder("timm:resnt18", (32, 32))
    with pytest.raises(VidsslError, match=r"timm:vector gives no map of the frame \(got \(1, 3\)\)"):
        build_encoder("timm:vector", (32, 32))
    with pytest.raises(VidsslError, match=r"can't be built for frames of 32x32 .*change --size"):
        build_encoder("timm:broken", (32, 32))


def test_timm_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(VidsslError, match=r"timm:resnet18 needs timm .*pip install 'vidssl\[timm\]'"):
        build_encoder("timm:resnet18", (64, 64))
