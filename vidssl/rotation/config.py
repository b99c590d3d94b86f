"""Architectures of the learned estimator's two networks; nothing here imports torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class NetworkConfig:
    """Architecture of `SphereNet`."""

    degree: int = 8
    """L of the harmonics: details of about 180°/L are told apart"""
    signals: int = 32
    """C, signals on the sphere that a view becomes"""
    widths: tuple[int, int, int, int] = (32, 64, 96, 128)
    """channels at 1/2, 1/4, 1/8 and 1/16 of the crop's side"""
    hidden: int = 256
    """width of the description of the whole view"""


@dataclass(frozen=True)
class EnergyConfig:
    """Architecture of `AlignmentNet`."""

    widths: tuple[int, int, int] = (48, 48, 72)
    """channels at 1/2, 1/4 and 1/8 of the pictures' side"""
    hidden: int = 128
    """width of the perceptron"""
