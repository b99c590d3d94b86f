"""Weights that a training begins with: those of an earlier run (`vidssl pretrain --init RUN`)."""

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import nn

from vidssl.checkpoint import read_config, read_model, read_state
from vidssl.errors import VidsslError


def load_encoder_weights(run: Path, name: str, encoder: nn.Module) -> dict[str, Any]:
    """Give an encoder that was just built the weights of a run's; call it before the method copies the encoder.

    Args:
        run: an earlier run.
        name: of the encoder, which must be the run's.

    Returns:
        What config.json keeps of it: `run` and the `sha256` of its model.safetensors.

    Raises:
        VidsslError: no run, or one of another encoder.
    """
    theirs = read_config(run).get("encoder", {}).get("name")
    if theirs != name:
        raise VidsslError(
            f"--init {run}: its encoder is {theirs!r}, this one would be {name!r}; give --encoder {theirs}"
        )
    tensors = read_model(run)
    weights = {key.removeprefix("encoder."): value for key, value in tensors.items() if key.startswith("encoder.")}
    _load(run, encoder, weights)
    return {"run": str(run), "sha256": hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()}


def load_method_weights(run: Path, settings: dict[str, Any], method: nn.Module) -> bool:
    """Give a method all weights of the run's last checkpoint (heads, context, target networks), if it is the same one.

    Args:
        run: an earlier run.
        settings: name and options of the method, which decide whether it is the same.
        method: to be loaded; left alone when the run learned otherwise, or has no checkpoint.

    Returns:
        Whether it was loaded.
    """
    theirs, ours = read_config(run).get("method", {}), json.loads(json.dumps(settings))  # tuples are lists there
    if any(theirs.get(key) != ours[key] for key in ("name", "options")) or (state := read_state(run)) is None:
        return False
    _load(run, method, state["method"])
    return True


def _load(run: Path, module: nn.Module, weights: dict[str, Any]) -> None:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise VidsslError(f"--init {run}: its weights do not fit ({reason}); give its --size and --frames") from error
