"""Distributions over rotations that a network can give: mixtures of Laplace densities in the angle.

    p(R) = Σ_k w_k exp(−θ(R, R_k) / s_k) / Z(s_k)         against the uniform measure of SO(3), total 1

θ is the angle between two rotations and R_k the K components' centres. A uniform rotation's angle has the density
(1 − cos θ) / π, which gives Z in closed form. The logarithm is linear in the angle, so a pair that cannot be told
(a symmetric object) pulls at the centres no harder than one that is nearly right.

n items, K components.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vidssl.rotation.so3 import geodesic

NARROWEST, WIDEST = math.radians(0.2), 3.0  # of s, in radians


def log_normaliser(width: Tensor) -> Tensor:
    """log Z(s), Z = ∫ (1 − cos θ)/π exp(−θ/s) dθ over [0, π] = (1 − e^(−aπ) (2a² + 1)) / (π a (a² + 1)), a = 1/s."""
    a = 1 / width
    return torch.log1p(-(-a * math.pi).exp() * (2 * a.square() + 1)) - torch.log(math.pi * a * (a.square() + 1))


@dataclass(frozen=True)
class RotationMixture:
    """A distribution over SO(3) for each of n items.

    Attributes:
        centres: `[n,K,3,3]` rotations.
        log_weights: `[n,K]`, their exponentials sum to 1 over K.
        widths: `[n,K]` s in radians; the angle to the centre is 3 s in the mean where s is small.
    """

    centres: Tensor
    log_weights: Tensor
    widths: Tensor

    def log_density(self, rotations: Tensor) -> Tensor:
        """log p of one rotation `[n,3,3]` an item: `[n]`, in nats; 0 for the uniform distribution."""
        angles = geodesic(self.centres, rotations[:, None])
        return torch.logsumexp(self.log_weights - angles / self.widths - log_normaliser(self.widths), dim=1)

    def best(self) -> Tensor:
        """The number `[n]` of the component whose centre is the most probable rotation of all centres."""
        apart = geodesic(self.centres[:, :, None], self.centres[:, None])  # [n,K,K]
        peak = self.log_weights - log_normaliser(self.widths)
        return torch.logsumexp(peak[:, None] - apart / self.widths[:, None], dim=2).argmax(1)

    def expected_angle(self, rotations: Tensor) -> Tensor:
        """Root mean square in radians `[n]` of the angle to a rotation `[n,3,3]`, were the distribution the truth.

        Of a component alone it is √12 s where s is small (θ has the density θ² e^(−θ/s)); its centre's distance is
        added in quadrature, which holds for small angles, and no angle is above π.
        """
        square = geodesic(self.centres, rotations[:, None]).square() + 12 * self.widths.square()
        return (self.log_weights.exp() * square.clamp_max(math.pi**2)).sum(1).sqrt()
