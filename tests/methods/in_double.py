"""A method's embeddings and losses in float64, on one process or as one of several ranks."""

from typing import Any
from unittest import mock

import torch
from test_methods import batch, build
from torch import Tensor

from vidssl.core import world
from vidssl.views import Views


def loss_of(method: Any, data: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and metrics with views in float64."""
    views = Views.__call__
    with mock.patch.object(Views, "__call__", lambda *given, **named: views(*given, **named).double()):
        return method.loss(data)


def features_of(method: Any, data: dict[str, Tensor]) -> Tensor:
    """The encoder's features of all views `[V, B, D]` in float64."""
    views = torch.cat(method.clip_views(data["clips"], data["key"])).double()
    return method.encoder(views).mean(1).unflatten(0, (method.clip_views.count, -1))


def embeddings_of(method: Any, data: dict[str, Tensor]) -> Tensor:
    """The projector's output for all views `[V, B, E]` in float64."""
    features = features_of(method, data)
    return method.projector(features.flatten(0, 1)).unflatten(0, features.shape[:2])


def third_gradient(name: str, options: dict[str, Any]) -> dict[str, Tensor]:
    """Gradients of this rank's third loss, after two steps of the state that is not trained (queue, centre, target)."""
    rank, size = world()
    method = build(name, **options).double()
    data = batch(clips=6, videos=4)
    share = slice(rank * 6 // size, (rank + 1) * 6 // size)
    mine = {key: value[share] if value.ndim else value for key, value in data.items()}
    for step in range(2):
        loss_of(method, mine | {"step": torch.tensor(step)})
        method.after_step()
    loss_of(method, mine)[0].backward()
    return {key: parameter.grad for key, parameter in method.named_parameters() if parameter.grad is not None}
