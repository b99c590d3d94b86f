"""Future frames, predicted in pixels.

    f0 f1 f2 f3 ──encoder──> a map each ──translator──> maps of f4 f5 f6 f7 ──decoder──> their pixels
             └────────────────── the last frame, past the map ───────────────────┘

Two translators: SimVP's, which turns all times at once (Gao, Tan, Wu, Li 2022, "SimVP: Simpler yet Better Video
Prediction", arXiv 2206.05099), and a recurrent one (Shi et al. 2015, "Convolutional LSTM Network", arXiv 1506.04214).

B clips, P past and K future frames, P' times of the encoder (P, or fewer), D' channels of its map, h x w cells, E width
of the translator.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidssl.core.monitor import health, measured
from vidssl.core.random import uniform
from vidssl.errors import VidsslError
from vidssl.evaluate.image_quality import psnr, ssim
from vidssl.methods.ablation import Ablation
from vidssl.methods.decoders import PixelDecoder
from vidssl.methods.maps import map_shape
from vidssl.views import Views

FORMS = ("simvp", "recurrent")
DILATIONS, GROUPS = (1, 2, 4), 8  # of the blocks of SimVP's translator, in turn; of their group norms
_STREAM = 0x6675747572  # keeps the draws of windows apart from others made with the same keys
MEASURED = 8  # clips of a batch whose frames are measured for the metrics, at most: SSIM isn't free


class Predict(nn.Module):
    """Mean squared error of the K frames that follow P frames (SimVP, eq. 2).

    A motion encoder has not seen what the scene looks like; the last frame then brings all of it.

    Args:
        encoder: `maps` `[B,P,3,H,W] -> [B,P',D',h,w]`.
        views: augmentation, the same for all frames of a clip.
        form: `"simvp"` or `"recurrent"`.
        past, future: P and K. A longer clip gives a window of P + K frames, drawn by its key.
        width: E (Shi et al. have layers of 128, 64 and 64 on Moving MNIST, section 4.1).
        depth: blocks or recurrent layers of the translator.
        skip: last frames of the past that the decoder sees at full size; 0 draws all from the map.
    """

    default_encoder: ClassVar[str] = "small-motion"
    ablations: ClassVar[tuple[Ablation, ...]] = ()
    output = "encoder"
    context = None

    def __init__(
        self,
        encoder: Any,
        views: Views,
        *,
        form: Literal["simvp", "recurrent"] = "simvp",
        past: int = 4,
        future: int = 4,
        width: int = 128,
        depth: int = 2,
        skip: int = 1,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise VidsslError(f"form: got {form!r}; choose from {', '.join(FORMS)}")
        if min(past, future, width, depth) < 1 or width % GROUPS or not 0 <= skip <= past:
            raise VidsslError(
                f"predict: got past={past}, future={future}, width={width}, depth={depth}, skip={skip}; give 1 or more "
                f"of each, a width that is a multiple of {GROUPS}, and a skip of 0 to past"
            )
        self.encoder, self.views = encoder, views
        self.past, self.future, self.skip = past, future, skip
        times, channels, *cells = map_shape("predict", encoder, past, views.size)
        self.translator: nn.Module
        if form == "simvp":
            self.translator = StackedTranslator(times, future, channels, width, depth)
        else:
            self.translator = RecurrentTranslator(future, channels, width, depth)
        self.decoder = PixelDecoder(channels, (cells[0], cells[1]), views.size, 3, 3 * skip)

    @staticmethod
    def default_views(size: tuple[int, int]) -> Views:
        """Crop and flip, mild: colours are what is predicted."""
        return Views(size, crop=(0.6, 1.0), flip=0.5)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error; PSNR and SSIM of the prediction beside those of the last frame repeated.

        Raises:
            VidsslError: clips shorter than P + K frames.
        """
        clips = self.views(self.window(batch["clips"], batch["key"]), batch["key"])
        past, true = clips.split((self.past, self.future), dim=1)
        maps = self.encoder.maps(past)
        predicted = self.paint(maps, past).to(true.dtype)
        loss = F.mse_loss(predicted, true)
        if not measured():
            return loss, {}
        seen = quality(predicted.detach()[:MEASURED], past[:MEASURED], true[:MEASURED])
        return loss, health(maps.mean((-2, -1))) | seen

    def predict(self, past: Tensor) -> Tensor:
        """The K frames to come: `[B,P,3,H,W]` in [0, 1] -> `[B,K,3,H,W]`, not clamped."""
        return self.paint(self.encoder.maps(past), past)

    def paint(self, maps: Tensor, past: Tensor) -> Tensor:
        """Maps of the past `[B,P',D',h,w]` and its frames `[B,P,3,H,W]` -> `[B,K,3,H,W]`."""
        last = past[:, self.past - self.skip :].flatten(1, 2) if self.skip else None
        return self.decoder(self.translator(maps), last)

    def window(self, clips: Tensor, keys: Tensor) -> Tensor:
        """P + K frames of every clip, `[B,T,C,H,W] -> [B,P+K,C,H,W]`; where they begin is drawn by the clip's key."""
        length, needed = clips.shape[1], self.past + self.future
        if length < needed:
            raise VidsslError(
                f"clips of {length} frames are too short to predict {self.future} frames from {self.past}: "
                f"raise --frames to {needed} or more, or lower the method's past or future"
            )
        room = length - needed + 1
        start = (uniform(keys.to(clips.device), 1, _STREAM) * room).long().clamp_max(room - 1)  # a draw may round up
        frames = start + torch.arange(needed, device=clips.device)
        return clips[torch.arange(len(clips), device=clips.device)[:, None], frames]


def quality(predicted: Tensor, past: Tensor, true: Tensor) -> dict[str, Tensor]:
    """PSNR (dB) and SSIM of `[B,K,3,H,W]` predicted frames, and of the last frame of the past in their place."""
    still = past[:, -1:].expand_as(true).flatten(0, 1)
    moved, truth = predicted.clamp(0, 1).flatten(0, 1), true.flatten(0, 1)
    return {
        "psnr": psnr(moved, truth).clamp_max(100).mean(),
        "ssim": ssim(moved, truth).mean(),
        "psnr_copy": psnr(still, truth).clamp_max(100).mean(),
        "ssim_copy": ssim(still, truth).mean(),
    }


class StackedTranslator(nn.Module):
    """All times at once, as channels: maps `[B,P',D',h,w]` -> the maps to come `[B,K,D',h,w]`."""

    def __init__(self, times: int, future: int, channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.future = future
        self.enter = nn.Conv2d(times * channels, width, 1)
        self.blocks = nn.Sequential(*(DilatedBlock(width, DILATIONS[i % len(DILATIONS)]) for i in range(depth)))
        self.leave = nn.Conv2d(width, future * channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """`[B,P',D',h,w]` -> `[B,K,D',h,w]`."""
        x = self.leave(self.blocks(self.enter(maps.flatten(1, 2))))
        return x.unflatten(1, (self.future, -1))


class DilatedBlock(nn.Module):
    """Two 3x3 convolutions, the first dilated, beside a way around: `[B,E,h,w]` to the same.

    In the place of SimVP's inception blocks, whose windows of 3 to 11 cells have the same purpose. Its gated successor
    (arXiv 2211.12509) was tried: after 90 s of one core on Moving MNIST it stood at an MSE of 150, this at 132, and its
    depth-wise convolutions saw a quarter fewer sequences.
    """

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)),
            *(nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class RecurrentTranslator(nn.Module):
    """One time after another: layers of ConvLSTM read the past, then go on with what they predict.

    Maps `[B,P',D',h,w]` -> the maps to come `[B,K,D',h,w]`.
    """

    def __init__(self, future: int, channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.future, self.width = future, width
        self.cells = nn.ModuleList(ConvLSTMCell(width if layer else channels, width) for layer in range(depth))
        self.leave = nn.Conv2d(depth * width, channels, 1)  # sees all layers: Shi et al., figure 3

    def forward(self, maps: Tensor) -> Tensor:
        """`[B,P',D',h,w]` -> `[B,K,D',h,w]`."""
        batch, _, _, h, w = maps.shape
        state = [maps.new_zeros(2, batch, self.width, h, w) for _ in self.cells]
        predicted: list[Tensor] = []
        for seen in maps[:, :-1].unbind(1):
            self._advance(seen, state)
        now = maps[:, -1]
        for _ in range(self.future):
            self._advance(now, state)
            now = self.leave(torch.cat([hidden for hidden, _ in state], dim=1))
            predicted.append(now)
        return torch.stack(predicted, dim=1)

    def _advance(self, x: Tensor, state: list[Any]) -> None:
        for layer, cell in enumerate(self.cells):
            state[layer] = cell(x, *state[layer])
            x = state[layer][0]


class ConvLSTMCell(nn.Module):
    """Shi et al. 2015, eq. 3, without the peepholes, which tie it to one size of map, as later work has it."""

    def __init__(self, channels: int, width: int, kernel: int = 3) -> None:
        super().__init__()
        self.gates = nn.Conv2d(channels + width, 4 * width, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Input `[B,C,h,w]`, hidden and cell state `[B,E,h,w]` -> the next hidden and cell state."""
        enter, forget, leave, new = self.gates(torch.cat([x, hidden], dim=1)).chunk(4, dim=1)
        cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
        return leave.sigmoid() * cell.tanh(), cell
