"""Batch normalisation whose statistics are those of the whole batch, on any number of ranks and any device.

torch's SyncBatchNorm does it on GPUs only, and its plain batch norm normalises every rank by itself: a method that
leans on batch norm then learns something else on two processes than on one.

n rows of this rank, C channels, S the remaining axes (pixels, times) as one.
"""

from typing import Any

import torch
from torch import Tensor, nn

from vidssl.core.gather import all_reduce_sum, world
from vidssl.errors import VidsslError


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """`[n, C, …] -> [n, C, …]`: Ioffe & Szegedy 2015, algorithm 1, over the rows of all ranks.

    On one rank, and in eval mode, it is torch's batch norm, parameters and state-dict names included.

    Raises:
        VidsslError: in training, fewer than two values a channel: nothing to normalise by.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalised x, float32 statistics under autocast."""
        self._check_input_dim(x)
        if not self.training:
            return super().forward(x)
        values = x.numel() // x.shape[1] * world()[1]
        if values < 2:
            raise VidsslError(
                f"batch norm: got {values} value a channel {tuple(x.shape)}, it needs 2 or more; raise --batch-size"
            )
        return super().forward(x) if world()[1] == 1 else self._over_ranks(x)

    def _over_ranks(self, x: Tensor) -> Tensor:
        """Two passes, mean first: squares of uncentred values would lose digits."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        axes = [axis for axis in range(x.ndim) if axis != 1]
        channels = (1, -1, *(1 for _ in axes[1:]))
        with torch.autocast(x.device.type, enabled=False):
            wide = x if x.dtype == torch.float64 else x.float()
            count = all_reduce_sum(wide.new_tensor(float(wide.numel() // wide.shape[1])))
            mean = all_reduce_sum(wide.sum(axes)) / count
            centred = wide - mean.view(channels)
            variance = all_reduce_sum(centred.square().sum(axes)) / count
            self.num_batches_tracked.add_(1)
            with torch.no_grad():
                share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
                unbiased = variance * (count / (count - 1))
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)
            normal = centred * (variance + self.eps).rsqrt().view(channels)
            if self.affine:
                normal = normal * self.weight.view(channels) + self.bias.view(channels)
        return normal.to(x.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise VidsslError(f"batch norm: expected [n, C, …], got {tuple(input.shape)}")


def convert_batch_norm(module: nn.Module) -> nn.Module:
    """The module, every batch norm of torch itself in it replaced by `BatchNorm`, in place; keeps weights and names."""
    child: Any
    for name, child in module.named_children():
        if type(child) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):  # a subclass may do more than that
            ours = BatchNorm(child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats)
            ours.load_state_dict(child.state_dict())
            setattr(module, name, ours)
        else:
            convert_batch_norm(child)
    return module
