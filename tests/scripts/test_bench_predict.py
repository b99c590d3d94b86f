"""The figures of the Moving MNIST benchmark are the field's."""

from pathlib import Path

import pytest
import torch

from vidssl.scripts import bench_predict
from vidssl.scripts.bench_predict import Config, build, predictions, score, train


def test_score_by_hand() -> None:
    """One of ten frames is wrong by 0.5 in 8 of 64x64 pixels: 2 summed over its pixels, 0.2 as the mean over frames."""
    true = torch.zeros(1, 10, 1, 64, 64)
    predicted = true.clone()
    predicted[0, 3, 0, 0, :8] = 0.5
    figures = score(predicted, true)
    assert figures.mse == pytest.approx(0.2)
    assert figures.psnr == pytest.approx((9 * 100 - 10 * torch.tensor(2 / 4096).log10().item()) / 10, abs=1e-3)
    assert 0.9 < figures.ssim < 1


def test_forms_train_and_predict_grey_frames(tmp_path: Path) -> None:
    config = Config(minutes=1e-6, batch_size=2)
    digits = torch.randint(0, 256, (5, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    past = torch.rand(3, 10, 1, 64, 64).expand(-1, -1, 3, -1, -1)
    for form in bench_predict.FORMS:
        method = build(form, seed=0)
        assert train(method, digits, 0, config) == 2  # one step: the clock is looked at after it
        frames = predictions(method, past)
        assert frames.shape == (3, 10, 1, 64, 64)
        assert frames.min() >= 0
        assert frames.max() <= 1
    bench_predict.draw(tmp_path / "strip.png", past, past[:, :, :1], {"simvp": frames})
    assert (tmp_path / "strip.png").stat().st_size > 1000
