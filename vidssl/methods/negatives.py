"""Which keys an anchor is told apart from, by the videos they come from."""

from typing import Literal

from torch import Tensor

from vidssl.core import Exclude
from vidssl.errors import VidsslError

Negatives = Literal["same-video", "other-videos", "both"]
NEGATIVES = ("same-video", "other-videos", "both")


def check_negatives(negatives: str) -> None:
    """Raises VidsslError where the word is none of `NEGATIVES`."""
    if negatives not in NEGATIVES:
        raise VidsslError(f"negatives: got {negatives!r}; choose from {', '.join(NEGATIVES)}")


def excluded(negatives: str, query_video: Tensor, key_video: Tensor) -> list[Exclude]:
    """The exclusion rules, of anchors [N] and keys [M] labelled by video (all ranks' keys; -1: of no video).

    Raises:
        VidsslError: negatives from other videos are wanted, and there is one video.
    """
    if negatives == "same-video":
        return [Exclude(query_video, key_video, "different")]
    if negatives == "other-videos":
        if bool((key_video == query_video[0]).all()):
            raise VidsslError(
                "negatives from other videos: every clip of the batch is of one video; "
                "use --options negatives=both, a larger batch or more videos"
            )
        return [Exclude(query_video, key_video, "equal")]
    return []
