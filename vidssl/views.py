"""Views of clips, made on the training device for the whole batch at once; no loop over samples.

B clips, T frames, C channels, H × W pixels in, H' × W' out.

Everything here is linear but the last clamp, so a view is three small matrices a sample:

    out[c] = clamp( Σ_c' colour[c, c'] · rows @ clip[c'] @ columnsᵀ + offset )     rows [H', H], columns [W', W]

`rows` and `columns` crop, flip, resample with the antialiased triangle filter and blur; `colour` holds brightness,
contrast, saturation, hue and greyscale. A sample's draws depend on its key alone, and all its frames share them.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from vidssl.core.random import mix_ints, uniform
from vidssl.errors import VidsslError

# Columns of a sample's draws. Append only: the order is part of what a seed means.
AREA, RATIO, TOP, LEFT, FLIP, JITTER, BRIGHTNESS, CONTRAST, SATURATION, HUE, GREY, BLUR, SIGMA, COUNT = range(14)
_STREAM = 0x7669657773  # keeps these draws apart from others made with the same keys

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, of R, G, B

_PAIRS = ("size", "crop", "ratio", "sigma")
_RANGES = {
    "size": (1, 16_384),
    "crop": (1e-3, 1),
    "ratio": (0.01, 100),
    "sigma": (0, 1000),
    "brightness": (0, 100),
    "contrast": (0, 100),
    "saturation": (0, 100),
    "hue": (0, 0.5),
    "flip": (0, 1),
    "jitter": (0, 1),
    "grey": (0, 1),
    "blur": (0, 1),
}


@dataclass(frozen=True)
class Views:
    """Random views: `views(clips, keys)` is one, `views(clips, keys, stream=1)` another of the same clips.

    Every setting but `size` is off by default. `dataclasses.asdict` gives JSON, `Views(**json)` the views again.

    Args:
        size: (H', W') in pixels.
        crop: least and greatest area of the crop, as a share of the frame's. (1, 1) is the whole frame.
        ratio: least and greatest width / height of the crop in pixels; drawn log-uniformly from what fits the frame at
            the drawn area, so that no draw is rejected. Boxes are whole pixels.
        flip: probability of a horizontal flip.
        jitter: probability that brightness to hue are changed at all (0.8 in SimCLR).
        brightness, contrast, saturation: strength s; the factor is uniform in [max(0, 1 − s), 1 + s]. Contrast is about
            the mean luma of the whole clip. The order is brightness, contrast, hue, saturation; values are clamped to
            [0, 1] once, at the end.
        hue: strength in turns, 0 to 0.5; the shift is uniform in ±hue. A rotation of RGB about the grey axis, which
            keeps R + G + B, where HSV's shift keeps the largest channel; equal to it at thirds of a turn.
        grey: probability of luma alone.
        blur: probability of a Gaussian blur.
        sigma: its least and greatest standard deviation, in pixels of the output.
        aligned: all views of a clip share its crop and flip, and differ in colour and blur alone. Then a thing is where
            it was in every view, and moves the same way.

    Raises:
        VidsslError: a setting out of its range.
    """

    size: tuple[int, int]
    crop: tuple[float, float] = (1.0, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    jitter: float = 0.8
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    aligned: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, tuple) or field.name == "size":
                value = tuple(value)  # JSON has lists
                object.__setattr__(self, field.name, value)
            _check_setting(field.name, value)

    @classmethod
    def none(cls, size: tuple[int, int]) -> "Views":
        """No augmentation: the whole frame at `size`, scaled to [0, 1]."""
        return cls(size)

    def __call__(self, clips: Tensor, keys: Tensor, stream: int = 0) -> Tensor:
        """One view of every clip.

        Args:
            clips: uint8 [B,T,C,H,W], any strides; C = 3 (RGB) when a colour setting is on.
            keys: int64 [B], from `sample_key`.
            stream: which view.

        Returns:
            float32 [B,T,C,H',W'] in [0, 1], on the clips' device.

        Raises:
            VidsslError: clips or keys of another type or shape.
        """
        _check_clips(clips)
        if keys.shape != clips.shape[:1] or keys.dtype != torch.int64:
            raise VidsslError(
                f"keys: expected int64 [{len(clips)}], a key a clip, got {keys.dtype} {tuple(keys.shape)}"
            )
        if self._coloured and clips.shape[2] != 3:
            raise VidsslError(f"clips: colour settings need 3 channels, got {clips.shape[2]}; set them to 0")
        keys = keys.to(clips.device)
        draws = uniform(keys, COUNT, mix_ints(_STREAM, stream)).unbind(1)
        if self.aligned and stream:
            draws = (*uniform(keys, COUNT, mix_ints(_STREAM, 0)).unbind(1)[:JITTER], *draws[JITTER:])
        with torch.autocast(clips.device.type, enabled=False):
            x = self._resample(clips, draws) if self._moved(clips) else plain(clips)
            return self._recolour(x, draws) if self._coloured else x

    @property
    def _coloured(self) -> bool:
        return any((self.brightness, self.contrast, self.saturation, self.hue, self.grey))

    def _moved(self, clips: Tensor) -> bool:
        return bool(tuple(clips.shape[-2:]) != self.size or self.crop != (1, 1) or self.flip or self.blur)

    def _resample(self, clips: Tensor, draws: tuple[Tensor, ...]) -> Tensor:
        b, t, c, h, w = clips.shape
        top, left, height, width = boxes(draws, h, w, self.crop, self.ratio)
        rows = resampling(top, height, h, self.size[0])
        columns = resampling(left, width, w, self.size[1])
        columns = torch.where((draws[FLIP] < self.flip)[:, None, None], columns.flip(1), columns)
        if self.blur:
            sigma = torch.where(draws[BLUR] < self.blur, _between(draws[SIGMA], *self.sigma), 0)
            down = blurring(sigma, self.size[0])
            along = down if self.size[0] == self.size[1] else blurring(sigma, self.size[1])
            rows, columns = down @ rows, along @ columns
        # Height first and width last: two batched products without copies between them.
        x = clips.permute(0, 3, 1, 2, 4).to(torch.float32, memory_format=torch.contiguous_format)
        x = torch.bmm(rows, x.view(b, h, t * c * w))
        x = torch.bmm(x.view(b, -1, w), columns.mT).view(b, self.size[0], t, c, self.size[1])
        return x.permute(0, 2, 3, 1, 4).contiguous().div_(255).clamp_(0, 1)

    def _recolour(self, x: Tensor, draws: tuple[Tensor, ...]) -> Tensor:
        changed = draws[JITTER] < self.jitter

        def factor(draw: Tensor, strength: float) -> Tensor:
            return torch.where(changed, _between(draw, max(0.0, 1 - strength), 1 + strength), 1)

        brightness, contrast = factor(draws[BRIGHTNESS], self.brightness), factor(draws[CONTRAST], self.contrast)
        saturation = factor(draws[SATURATION], self.saturation)
        saturation = torch.where(draws[GREY] < self.grey, 0, saturation)
        turns = torch.where(changed, _between(draws[HUE], -self.hue, self.hue), 0)
        matrix = (brightness * contrast)[:, None, None] * colour(turns, saturation)
        luma = x.mean((1, 3, 4)) @ x.new_tensor(LUMA)
        offset = (1 - contrast) * brightness * luma  # a grey, so hue and saturation leave it as it is
        b, t, c, h, w = x.shape
        frames = torch.baddbmm(
            offset.repeat_interleave(t)[:, None, None], matrix.repeat_interleave(t, 0), x.view(b * t, c, h * w)
        )
        return frames.clamp_(0, 1).view(b, t, c, h, w)


def plain(clips: Tensor) -> Tensor:
    """uint8 [B,T,C,H,W] -> float32 [B,T,C,H,W], divided by 255; nothing else.

    Raises:
        VidsslError: clips of another type or shape.
    """
    _check_clips(clips)
    return clips.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def boxes(
    draws: tuple[Tensor, ...], h: int, w: int, crop: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Crops: top, left, height and width, whole numbers as float32 [B] within an h × w frame."""
    area = _between(draws[AREA], *crop)
    # At this area, width √(area h w r) ≤ w and height √(area h w / r) ≤ h hold for r in [area w / h, w / (area h)].
    tallest, widest = area * (w / h), (w / h) / area
    low = torch.clamp(torch.full_like(area, ratio[0]), tallest, widest)
    high = torch.clamp(torch.full_like(area, ratio[1]), tallest, widest)
    aspect = _between(draws[RATIO], low.log(), high.log()).exp()
    height = (area * (h * w) / aspect).sqrt().round().clamp(1, h)
    width = (area * (h * w) * aspect).sqrt().round().clamp(1, w)
    top, left = (draws[TOP] * (h - height + 1)).floor(), (draws[LEFT] * (w - width + 1)).floor()
    return top.minimum(h - height), left.minimum(w - width), height, width


def resampling(start: Tensor, extent: Tensor, source: int, target: int) -> Tensor:
    """Weights [B, target, source] that take pixels [start, start + extent) of a line to `target` pixels.

    The triangle filter, as wide as an output pixel when shrinking (antialiased) and as an input pixel when not; pixels
    outside the crop do not count. What PIL and torchvision's `resized_crop(antialias=True)` compute.
    """
    pixel = torch.arange(source, device=start.device) + 0.5
    scale = (extent / target)[:, None]
    centre = start[:, None] + (torch.arange(target, device=start.device) + 0.5) * scale
    weight = 1 - (pixel - centre[..., None]).abs() / scale[..., None].clamp(min=1)
    inside = (pixel > start[:, None]) & (pixel < (start + extent)[:, None])
    weight = weight.clamp_(min=0) * inside[:, None]
    return weight / weight.sum(-1, keepdim=True)


def blurring(sigma: Tensor, size: int) -> Tensor:
    """Weights [B, size, size] of a Gaussian of `sigma` [B] pixels along a line, 0 for none; cut off at the ends."""
    pixel = torch.arange(size, device=sigma.device)
    falloff = (-pixel.square() / (2 * sigma.clamp(min=1e-3).square())[:, None]).exp()  # at 1e-3 exactly 1, 0, 0, …
    mirrored = torch.cat([falloff.flip(1), falloff[:, 1:]], dim=1)  # the weights at distances size - 1 … 0 … size - 1
    weight = mirrored.unfold(1, size, 1).flip(1)
    return weight / weight.sum(-1, keepdim=True)


def colour(turns: Tensor, saturation: Tensor) -> Tensor:
    """Matrices [B, 3, 3] on RGB: turn the hue by `turns` [B], then scale the distance from luma by `saturation` [B].

    The turn is Rodrigues' rotation about (1, 1, 1) / √3; a third of a turn takes red to green and green to blue.
    """
    angle = (2 * math.pi * turns)[:, None, None]
    one = torch.eye(3, device=turns.device)
    cross = turns.new_tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turn = angle.cos() * one + (1 - angle.cos()) / 3 + angle.sin() * cross
    luma = turns.new_tensor(LUMA).expand(3, 3)
    scale = saturation[:, None, None]
    return (scale * one + (1 - scale) * luma) @ turn


def _between(draw: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    return low + (high - low) * draw


def _check_clips(clips: Tensor) -> None:
    if clips.dtype != torch.uint8 or clips.ndim != 5:
        raise VidsslError(
            f"clips: expected uint8 [B,T,C,H,W], got {str(clips.dtype).removeprefix('torch.')} {tuple(clips.shape)}; "
            "pass raw frames, scaling happens inside"
        )


def _check_setting(name: str, value: float | tuple[float, ...]) -> None:
    if name == "aligned":
        if not isinstance(value, bool):
            raise VidsslError(f"views: aligned must be True or False, got {value!r}")
        return
    low, high = _RANGES[name]
    values = value if isinstance(value, tuple) else (value,)
    right_count = len(values) == (2 if name in _PAIRS else 1)
    if not right_count or not all(low <= number <= high for number in values):
        raise VidsslError(
            f"views: {name} must be {'two numbers' if name in _PAIRS else 'a number'} in [{low}, {high}], got {value}"
        )
    if name == "size" and not all(isinstance(number, int) for number in values):
        raise VidsslError(f"views: size must be whole pixels, got {value}")
    if name in _PAIRS and name != "size" and values[0] > values[1]:
        raise VidsslError(f"views: {name} must be (least, greatest), got {value}")
