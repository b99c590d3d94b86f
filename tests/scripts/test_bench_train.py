"""The benchmark's step takes what a method needs of a batch, and moves on what follows it."""

import pytest
import torch

from vidssl.scripts.bench_train import Config, Trainer


@pytest.mark.parametrize(
    ("method", "parts"),
    [("byol", {"encoder", "target_encoder"}), ("lejepa", {"encoder"}), ("vjepa", {"target_encoder"})],
)
def test_a_step_of_methods_that_read_the_clock(method: str, parts: set[str]) -> None:
    trainer = Trainer(Config(method=method, size=32))
    before = {name: weight.clone() for name, weight in trainer.method.named_parameters()}
    clips = torch.randint(0, 256, (4, 4, 3, 32, 32), dtype=torch.uint8)
    trainer.step({"clips": clips, "video": torch.arange(4), "key": torch.arange(4), "step": 0, "names": ["a"] * 4})
    moved = {name for name, weight in trainer.method.named_parameters() if not torch.equal(weight, before[name])}
    assert parts <= {name.partition(".")[0] for name in moved}
    assert trainer.steps == 1
