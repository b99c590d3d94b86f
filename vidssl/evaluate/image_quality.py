"""How close a predicted picture is to the true one: PSNR and SSIM.

N pictures, C channels, H x W pixels, all values in [0, 1].
"""

import torch
from torch import Tensor

from vidssl.errors import VidsslError

WINDOW, SIGMA = 11, 1.5  # pixels: Wang et al. 2004, section III-B
C1, C2 = 0.01**2, 0.03**2  # of a data range of 1


def psnr(predicted: Tensor, true: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture: `[N,C,H,W]` twice -> `[N]`; infinite for equal pictures."""
    _check(predicted, true)
    return -10 * (predicted - true).square().mean((1, 2, 3)).log10()


def ssim(predicted: Tensor, true: Tensor) -> Tensor:
    """Structural similarity of each picture, its mean over places and channels: `[N,C,H,W]` twice -> `[N]`, 1 if equal.

    Wang, Bovik, Sheikh, Simoncelli 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity",
    eq. 13 to 17: means, variances and covariance under a Gaussian window of 11x11 pixels and sigma 1.5, at the places
    where the window fits. Benchmarks that use a uniform window report other numbers.

    Raises:
        VidsslError: different shapes, or pictures smaller than the window.
    """
    _check(predicted, true)
    if min(predicted.shape[-2:]) < WINDOW:
        raise VidsslError(
            f"ssim: pictures of {predicted.shape[-2]}x{predicted.shape[-1]} are smaller than its window of "
            f"{WINDOW}x{WINDOW}; raise --size"
        )
    with torch.autocast(predicted.device.type, enabled=False):  # variances are small differences of large numbers
        return _similarity(predicted, true).mean((1, 2, 3))


def _similarity(predicted: Tensor, true: Tensor) -> Tensor:
    """SSIM of every place, `[N,C,H-10,W-10]`."""
    rows, columns = (_windows(size, predicted) for size in predicted.shape[-2:])

    def local(x: Tensor) -> Tensor:
        return rows @ x @ columns.mT

    mean_p, mean_t = local(predicted), local(true)
    variance_p = local(predicted.square()) - mean_p.square()
    variance_t = local(true.square()) - mean_t.square()
    covariance = local(predicted * true) - mean_p * mean_t
    luminance = (2 * mean_p * mean_t + C1) / (mean_p.square() + mean_t.square() + C1)
    structure = (2 * covariance + C2) / (variance_p + variance_t + C2)
    return luminance * structure


def _windows(size: int, like: Tensor) -> Tensor:
    """The Gaussian windows along a line: `[size - 10, size]`, each row sums to 1."""
    offset = torch.arange(size, device=like.device) - torch.arange(size - WINDOW + 1, device=like.device)[:, None]
    weight = (-(offset - WINDOW // 2).to(like.dtype).square() / (2 * SIGMA**2)).exp()
    weight = weight * ((offset >= 0) & (offset < WINDOW))
    return weight / weight.sum(1, keepdim=True)


def _check(predicted: Tensor, true: Tensor) -> None:
    if predicted.ndim != 4 or predicted.shape != true.shape:
        raise VidsslError(
            f"image quality: expected two tensors [N,C,H,W] of one shape, got {tuple(predicted.shape)} and "
            f"{tuple(true.shape)}"
        )
