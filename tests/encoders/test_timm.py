"""Encoders of the timm library, by a stand-in with the layouts that its models have."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vidssl.core.batch_norm import BatchNorm
from vidssl.encoders import build_encoder
from vidssl.encoders.timm import timm_encoder, timm_size
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
        self.pooled = True

    def reset_classifier(self, classes: int, pool: str) -> None:
        assert (classes, pool) == (0, "")
        self.pooled = False

    def forward(self, x: Tensor) -> Tensor:
        assert not self.pooled
        x = self.plain(self.norm(self.conv(x)))
        return x if self.output_fmt == "NCHW" else x.movedim(1, -1)


class Tokens(Maps):
    """The same map as a row of tokens after two others, as a ViT with a class and a register token."""

    num_prefix_tokens = 2

    def forward(self, x: Tensor) -> Tensor:
        tokens = super().forward(x).flatten(2).mT
        return torch.cat([torch.full_like(tokens[:, :2], 1e6), tokens], dim=1)


class Vector(nn.Module):
    def reset_classifier(self, classes: int, pool: str) -> None: ...

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


MODELS = {
    "maps": lambda: Maps("NCHW"),
    "maps_last": lambda: Maps("NHWC"),
    "tokens": lambda: Tokens("NCHW"),
    "vector": Vector,
    "unpublished": lambda: Maps("NCHW"),
}


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Puts the stand-in in place of timm; the list fills with the settings of the models that are made."""
    made: list[dict[str, Any]] = []

    def create_model(name: str, pretrained: bool, pretrained_cfg_overlay: Any = None, **settings: Any) -> nn.Module:
        made.append(settings)
        if name == "maps_last" and settings["img_size"] == (32, 40):
            raise AssertionError("Input width should be divisible")
        model: Any = MODELS[name]()
        model.pretrained_cfg = {"mean": MEAN, "std": STD, "architecture": name}
        if name != "unpublished":
            model.pretrained_cfg["tag"] = "in1k"
        if pretrained and pretrained_cfg_overlay is None:
            raise OSError("[Errno 101] Network is unreachable")
        if pretrained:
            model.load_state_dict(torch.load(pretrained_cfg_overlay["file"], weights_only=True))
        return model

    module: Any = ModuleType("timm")
    module.create_model, module.is_model = create_model, MODELS.__contains__
    module.get_pretrained_cfg = lambda name: SimpleNamespace(
        fixed_input_size=name in ("tokens", "maps_last"), has_weights=name != "unpublished", input_size=(3, 48, 48)
    )
    monkeypatch.setitem(sys.modules, "timm", module)
    return made


@pytest.mark.parametrize("name", ["maps", "maps_last", "tokens"])
def test_layouts_give_one_map(timm: list[dict[str, Any]], name: str) -> None:
    """Whichever way a model lays its map out: [B,T,D,h,w], of frames normalised by the model's mean and deviation."""
    torch.manual_seed(0)
    encoder = build_encoder(f"timm:{name}", (32, 48)).eval()
    sized = {"img_size": (32, 48)} if name in ("tokens", "maps_last") else {}
    assert timm == [{"in_chans": 3, **sized}]
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
    with pytest.raises(VidsslError, match=r"can't be built for frames of 32x40 .*divisible.*change --size"):
        build_encoder("timm:maps_last", (32, 40))
    for cells in ("", "0", "two", "-1"):
        with pytest.raises(VidsslError, match="after the @ expected a number of cells along a side, such as @2"):
            build_encoder(f"timm:maps@{cells}", (32, 32))


def test_cells_keep_where_things_are(timm: list[dict[str, Any]]) -> None:
    torch.manual_seed(0)
    encoder = build_encoder("timm:maps@2", (32, 48)).eval()
    clips = torch.rand(2, 3, 3, 32, 48)
    with torch.inference_mode():
        maps = encoder.maps(clips)  # 4x6 cells
        assert encoder(clips).shape == (2, 3, encoder.dim) == (2, 3, 24)
        torch.testing.assert_close(encoder(clips).view(2, 3, 6, 2, 2)[..., 1, 0], maps[..., 2:, :3].mean((-2, -1)))


def test_weights_of_a_file(timm: list[dict[str, Any]], tmp_path: Path) -> None:
    torch.manual_seed(1)
    file, model = tmp_path / "maps.pth", Maps("NCHW")
    torch.save(model.state_dict(), file)
    encoder = timm_encoder("maps", (32, 32), file)
    assert encoder.tag == "maps.in1k"
    assert timm_size("maps@2") == (48, 48)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(encoder.state_dict()[f"trunk.model.{name}"], value)
    torch.save({"conv.weight": torch.zeros(1)}, file)
    with pytest.raises(VidsslError, match=r"timm:maps: its weights can't be read from .*maps.pth \(Error.*Missing key"):
        timm_encoder("maps", (32, 32), file)
    with pytest.raises(VidsslError, match=r"--weights: .*gone.pth is no file"):
        timm_encoder("maps", (32, 32), tmp_path / "gone.pth")


def test_weights_that_are_published(timm: list[dict[str, Any]]) -> None:
    with pytest.raises(VidsslError, match=r"can't be fetched; give a file of them: --weights FILE .*unreachable"):
        timm_encoder("maps", (32, 32), "published")
    assert timm_encoder("unpublished", (32, 32)).tag == "unpublished"
    with pytest.raises(VidsslError, match="timm publishes no weights of it"):
        timm_encoder("unpublished", (32, 32), "published")


def test_timm_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(VidsslError, match=r"timm:resnet18 needs timm .*pip install 'vidssl\[timm\]'"):
        build_encoder("timm:resnet18", (64, 64))
