"""A method whose metrics tell of a collapse from its third step on."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vidssl.methods.ablation import Ablation
from vidssl.views import Views


class Collapsing(nn.Module):
    """Learns nothing; `predictor=False` logs what a method without its predictor would."""

    default_encoder: ClassVar[str] = "control"
    ablations: ClassVar[tuple[Ablation, ...]] = (
        Ablation("no predictor", {"predictor": False}, "constant", "predictor"),
    )
    output, context = "encoder", None

    def __init__(self, encoder: Any, views: Views, *, predictor: bool = True) -> None:
        super().__init__()
        self.encoder, self.views, self.predictor = encoder, views, predictor

    @staticmethod
    def default_views(size: tuple[int, int]) -> Views:
        """None."""
        return Views.none(size)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The size of the features of one frame."""
        loss = self.encoder(self.views(batch["clips"][:1, :1], batch["key"][:1])).square().mean()
        fallen = not self.predictor and int(batch["step"]) > 2
        numbers = {"feature_spread": 0.5, "feature_rank": 9.0, "embedding_rank": 9.0}
        numbers["embedding_spread"] = 0.01 if fallen else 0.8
        return loss, {name: torch.tensor(number) for name, number in numbers.items()}

    forward = loss
