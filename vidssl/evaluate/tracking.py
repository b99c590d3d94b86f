"""Does a feature know what goes where? The first frame's labels are carried through a video by likeness alone.

    frame 0   t-2  t-1        t
     [L0]    [..]  [..]  <── each cell of t takes the labels of the `top` most alike cells of frame 0 and the `context`
                             frames before, no farther than `radius` cells away from its own place

Nothing is trained. The protocol of Jabri, Owens, Efros 2020, "Space-Time Correspondence as a Contrastive Random Walk",
arXiv 2006.14613, section 4.1, after Vondrick et al. 2018, arXiv 1806.09594, section 3.4.

T frames, D feature dim, h x w cells of a map (n = h w), O labels (0 is the background), H x W pixels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from vidssl.errors import VidsslError


@torch.no_grad()
def propagate_labels(
    maps: Tensor,
    first: Tensor,
    *,
    top: int = 10,
    radius: float = 12,
    context: int = 7,
    temperature: float = 0.07,
) -> Tensor:
    """Soft labels of every frame, given those of frame 0.

    Args:
        maps: features `[T,D,h,w]` of any scale; cosines are compared.
        first: soft labels of frame 0, float `[O,h,w]`, see `cell_labels`.
        top: cells that a cell takes its label from.
        radius: in cells; `float("inf")` looks everywhere.
        context: frames before, apart from frame 0.
        temperature: of the softmax over the `top` cosines.

    Returns:
        `[T,O,h,w]`; those of frame 0 are `first`.

    Raises:
        VidsslError: shapes that don't fit, settings out of range.
    """
    if maps.ndim != 4 or first.ndim != 3 or first.shape[1:] != maps.shape[2:]:
        raise VidsslError(
            f"tracking: expected maps [T,D,h,w] and labels [O,h,w] of the same cells, got {tuple(maps.shape)} and "
            f"{tuple(first.shape)}"
        )
    if top < 1 or context < 1 or radius < 0 or temperature <= 0:
        raise VidsslError(
            f"tracking: got top={top}, radius={radius}, context={context}, temperature={temperature}; "
            "top and context are 1 or more, radius 0 or more, temperature above 0"
        )
    _, _, h, w = maps.shape
    cells = F.normalize(maps.flatten(2).mT, dim=-1)  # [T,n,D]
    far = _distances(h, w).to(maps.device) > radius
    labels = [first.flatten(1).mT.to(maps.dtype)]  # each [n,O]
    for t in range(1, len(maps)):
        seen = sorted({0, *range(max(0, t - context), t)})
        alike, carried = zip(*(_nearest(cells[t], cells[s], labels[s], far, top) for s in seen), strict=True)
        best, place = torch.cat(alike, dim=1).topk(min(top, sum(a.shape[1] for a in alike)), dim=1)  # [n,k]
        of_best = torch.cat(carried, dim=1).gather(1, place[..., None].expand(-1, -1, len(first)))  # [n,k,O]
        labels.append(((best / temperature).softmax(1)[..., None] * of_best).sum(1))
    return torch.stack(labels).mT.unflatten(-1, (h, w))


def _nearest(query: Tensor, key: Tensor, label: Tensor, far: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """The `top` most alike cells of one frame: cosines `[n,k]`, -inf beyond the radius, and their labels `[n,k,O]`."""
    best, place = (query @ key.mT).masked_fill_(far, float("-inf")).topk(min(top, len(key)), dim=1)
    return best, label[place]


def _distances(h: int, w: int) -> Tensor:
    """Between any two cells, in cells: `[n,n]`."""
    places = torch.cartesian_prod(torch.arange(h), torch.arange(w)).float()
    return torch.cdist(places, places)


def cell_labels(mask: Tensor, cells: tuple[int, int], labels: int) -> Tensor:
    """A mask, int64 `[H,W]` of values below `labels`, as shares of each cell: float32 `[O,h,w]`."""
    return F.adaptive_avg_pool2d(F.one_hot(mask, labels).movedim(-1, 0).float(), cells)


def masks_of(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Soft labels `[T,O,h,w]`, resampled to `size` pixels, as masks: int64 `[T,H,W]`."""
    return F.interpolate(labels, size, mode="bilinear", align_corners=False).argmax(1)


def jaccard(predicted: Tensor, true: Tensor) -> Tensor:
    """Region similarity J: mean over frames of intersection over union, of each label but the background.

    Perazzi et al. 2016, "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", section 5.1; 1
    in a frame where a label is neither there nor predicted. The caller leaves out the given first frame.

    Args:
        predicted, true: masks int64 `[T,H,W]`, 0 the background.

    Returns:
        float32 `[O-1]` for labels 1 to the largest of `true`.
    """
    if predicted.shape != true.shape:
        raise VidsslError(f"jaccard: got masks of {tuple(predicted.shape)} and {tuple(true.shape)}; give equal shapes")
    found = []
    for label in range(1, int(true.max()) + 1):
        p, t = (predicted == label).flatten(1), (true == label).flatten(1)
        both, either = (p & t).sum(1), (p | t).sum(1)
        found.append(torch.where(either > 0, both / either.clamp_min(1), 1.0).mean())
    return torch.stack(found) if found else torch.zeros(0)
