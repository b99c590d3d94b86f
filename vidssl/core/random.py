"""Random numbers as a function of a key: no state, the same on CPU and CUDA, for one sample or a batch.

A clip and its views depend on (seed, epoch, index) alone, so a run can be resumed, re-sharded or re-batched without
changing a single draw. The hash is splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014); its arithmetic modulo 2^64 is done in int64, whose products wrap.

    key(seed, epoch, index) ──mix(stream)──> base ──splitmix64 counter 1, 2, …──> 24 bits each ──> float32 in [0, 1)
"""

import torch
from torch import Tensor

from vidssl.errors import VidsslError

_WORD = 1 << 64
_STEP = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd: the counter's stride
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _signed(value: int) -> int:
    """The int64 with the same 64 bits as `value` modulo 2^64."""
    value %= _WORD
    return value - _WORD if value >= _WORD >> 1 else value


def _scramble_int(value: int) -> int:
    value %= _WORD
    value = (value ^ (value >> 30)) * _FIRST % _WORD
    value = (value ^ (value >> 27)) * _SECOND % _WORD
    return value ^ (value >> 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    """Logical right shift; int64's own is arithmetic and would drag the sign in."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _scramble(value: Tensor) -> Tensor:
    value = (value ^ _shift(value, 30)) * _signed(_FIRST)
    value = (value ^ _shift(value, 27)) * _signed(_SECOND)
    return value ^ _shift(value, 31)


def mix_ints(*parts: int) -> int:
    """Hash plain integers, in order, into one int64; equals `mix` of the same parts. No tensor is made.

    Args:
        parts: integers of any size, taken modulo 2^64.
    """
    state = 0
    for part in parts:
        state = _scramble_int((state ^ (part % _WORD)) + _STEP)
    return _signed(state)


def mix(*parts: int | Tensor) -> Tensor:
    """Hash integers, in order, into int64. Tensors broadcast against each other; the result has their shape.

    Args:
        parts: ints (taken modulo 2^64) and int64 tensors on one device.

    Returns:
        int64 tensor; 0-dimensional when every part is an int.

    Raises:
        VidsslError: a tensor part is not int64.
    """
    device = next((part.device for part in parts if isinstance(part, Tensor)), None)
    state = torch.zeros((), dtype=torch.int64, device=device)
    for part in parts:
        if isinstance(part, Tensor) and part.dtype != torch.int64:
            raise VidsslError(f"mix: expected int or int64 tensors, got {part.dtype}; convert keys with .long()")
        state = _scramble((state ^ (part if isinstance(part, Tensor) else _signed(part))) + _signed(_STEP))
    return state


def sample_key(seed: int, epoch: int, index: int) -> int:
    """The int64 key of one sample of a run; `mix(seed, epoch, indices)` gives a batch of them."""
    return mix_ints(seed, epoch, index)


def uniform(keys: Tensor, count: int, stream: int = 0) -> Tensor:
    """Independent uniform numbers for every key.

    Args:
        keys: int64 [B], e.g. from `sample_key`.
        count: numbers a key. The first n of a larger count are the same n.
        stream: another stream gives other numbers for the same keys (a second view, another module).

    Returns:
        float32 [B, count] in [0, 1), multiples of 2^-24, on the keys' device; row b depends on keys[b] alone.

    Raises:
        VidsslError: keys are not int64 [B].
    """
    if keys.dtype != torch.int64 or keys.ndim != 1:
        raise VidsslError(f"uniform: expected keys int64 [B], got {keys.dtype} {tuple(keys.shape)}; see sample_key")
    counter = torch.arange(1, count + 1, device=keys.device) * _signed(_STEP)
    bits = _scramble(mix(keys, stream)[:, None] + counter)
    return _shift(bits, 40).to(torch.float32) * 2.0**-24
