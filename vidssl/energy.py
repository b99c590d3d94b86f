"""How well two clips go together, by the energy that a run of the method `ebm` exports.

B pairs of clips, T frames, H x W pixels, D feature dim, E embedding dim.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidssl.checkpoint import read_config, read_model
from vidssl.errors import VidsslError
from vidssl.methods.heads import EnergyHead

PREFIX = "energy."  # of the energy's weights in model.safetensors


class Energy:
    """`energy(a, b)`: how little clip b goes with clip a (its future, or another view of it), 0 to 2.

    >>> energy = vidssl.load_energy("runs/mine")
    >>> energy(past, future)   # uint8 [T,H,W,3] each -> a number; [B,T,H,W,3] -> float32 [B]

    Low: as in training. High: another scene, another motion, or something never seen. It is a score, not a probability;
    set a threshold on energies of your own usual footage.

    Attributes:
        extractor: the `FeatureExtractor` of the same run.
    """

    def __init__(self, extractor: Any, head: EnergyHead) -> None:
        self.extractor = extractor
        self.head = head.to(extractor.device).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, a: np.ndarray | Tensor, b: np.ndarray | Tensor) -> Tensor:
        """Energies of clips uint8 `[B,T,H,W,3]` -> float32 `[B]`; of single clips `[T,H,W,3]` -> a scalar.

        Raises:
            VidsslError: frames that are not uint8 RGB, or not as many clips in a as in b.
        """
        h_a, h_b = (self.extractor(clips).mean(-2) for clips in (a, b))
        if h_a.shape != h_b.shape:
            raise VidsslError(f"energy: got {tuple(a.shape)} and {tuple(b.shape)}; pass as many clips in a as in b")
        energies = self.head(h_a.reshape(-1, h_a.shape[-1]), h_b.reshape(-1, h_b.shape[-1]))
        return energies.reshape(h_a.shape[:-1])


def load_energy(run: str | Path, device: str | torch.device = "cpu") -> Energy:
    """The energy of a run folder of method `ebm`.

    Raises:
        VidsslError: not a run folder, or a run that exports no energy; and as `load_encoder`.
    """
    from vidssl.features import load_encoder

    config = read_config(run)
    if not config.get("energy"):
        name = config.get("method", {}).get("name", "?")
        raise VidsslError(f"{run}: a run of method {name} exports no energy; train one with --method ebm")
    head = EnergyHead(**config["energy"])
    weights = read_model(run)
    try:
        head.load_state_dict({key.removeprefix(PREFIX): w for key, w in weights.items() if key.startswith(PREFIX)})
    except RuntimeError as error:
        raise VidsslError(
            f"{run}: model.safetensors does not fit config.json ({error}); restore both or train again"
        ) from error
    return Energy(load_encoder(run, device), head)
