"""Where networks run: one answer to `--device` for every command."""

import torch

from vidssl.errors import VidsslError

DEVICES = ("auto", "cpu", "cuda")


def choose_device(name: str) -> str:
    """`"cpu"` or `"cuda"`; `"auto"` takes the GPU where torch sees one.

    Raises:
        VidsslError: another name, or `"cuda"` where torch sees no GPU.
    """
    if name not in DEVICES:
        raise VidsslError(f"device: got {name!r}; choose from {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise VidsslError("device: got 'cuda', but torch sees no CUDA GPU; use --device cpu")
    return name if name != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
