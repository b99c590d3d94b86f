"""The Triton kernels: in the interpreter (a process of its own), compiled for an H100 without one, and on a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from core.reference import naive_losses
from torch import Tensor

from vidssl.core import Exclude, info_nce, nt_xent, triton_tiles

HALF = [torch.bfloat16, torch.float16]


def test_kernels_in_the_interpreter() -> None:
    if pytest.importorskip("triton").__version__.startswith("3.6."):
        pytest.skip("the interpreter of Triton 3.6 fails with NumPy of 2026 (turns arrays of one element into numbers)")
    tests = Path(__file__).with_name("interpreted_kernels.py")
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", str(tests)]
    run = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert " passed" in run.stdout


def test_tiles_fit_an_h100() -> None:
    shared, registers = 227 * 1024, 65_536
    for dim in (8, 64, 100, 128, 200, 384, 512):
        for dtype in (torch.float32, *HALF):
            for tile in triton_tiles.tiles(dim, dtype.itemsize):
                wide = triton_tiles.block_dim(dim)
                assert (tile.rows + tile.stages * tile.columns) * wide * dtype.itemsize <= shared
                assert tile.rows * wide <= registers  # the sums, float32, beside the scores
                assert 128 % tile.rows == 128 % tile.columns == 0  # what EVEN rests on


def test_what_the_kernels_take() -> None:
    assert not triton_tiles.takes(torch.zeros(3, 8))  # the CPU has the sweep
    for dtype, dim, taken in ((torch.bfloat16, 512, True), (torch.float64, 8, False), (torch.float16, 513, False)):
        features = torch.zeros(3, dim, dtype=dtype, device="meta")
        assert triton_tiles.takes(OnCuda(features)) == taken


class OnCuda:
    """A tensor's type and shape, said to be on CUDA."""

    def __init__(self, tensor: Tensor) -> None:
        self.dtype, self.shape, self.device = tensor.dtype, tensor.shape, torch.device("cuda")


@pytest.mark.parametrize("kernel", ["contrast_forward", "key_gradient"])
def test_compiles_for_an_h100(kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16, D = 128, the first tiles: matrix units of Hopper, asynchronous copies, shared memory within bounds."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from vidssl.core import triton_contrast

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    tile = triton_tiles.tiles(128, 2)[0]
    constants = {
        "BLOCK_D": 128, "RULES": 0, "EQUAL": 0, "BIASED": False, "EVEN": True, "PRECISION": "tf32",
        "BLOCK_R": tile.rows, "BLOCK_C": tile.columns, "WANT_MEAN": True, "SYMMETRIC": False, "SELF": False,
    }  # fmt: skip
    types = {"Q": "*bf16", "K": "*bf16", "TAU": "*fp64", "Q_LABELS": "*i32", "K_LABELS": "*i32"}
    function = getattr(triton_contrast, kernel)
    names = function.arg_names
    plain = {name: types.get(name, "i32" if name.islower() else "*fp32") for name in names}
    signature = {name: "constexpr" if name in constants else kind for name, kind in plain.items()}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name] != "constexpr"}
    source = ASTSource(function, signature, {name: constants[name] for name in names if name in constants}, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=tile.options())
    assert "wgmma.mma_async" in compiled.asm["ptx"]
    assert "cp.async" in compiled.asm["ptx"]
    assert compiled.metadata.shared <= 227 * 1024


def unit(n: int, dim: int, seed: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, dim, generator=generator, dtype=torch.float64)).to("cuda", dtype)


def value_and_gradients(function, *inputs: Tensor) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    value = function(*leaves)
    return [value.detach(), *torch.autograd.grad((value * torch.linspace(-1, 2, value.numel()).cuda()).sum(), leaves)]


def assert_close(got: list[Tensor], exact: list[Tensor], dtype: torch.dtype) -> None:
    for place, (mine, plain) in enumerate(zip(got, exact, strict=True)):
        accuracy = {torch.float32: 3e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype] if place else 1e-5
        assert (mine.double() - plain).norm() <= accuracy * plain.norm()


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@gpu
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize(("n", "m", "dim"), [(256, 384, 128), (200, 333, 40), (130, 150, 300), (65, 70, 512)])
def test_compiled_kernels(n: int, m: int, dim: int, dtype: torch.dtype) -> None:
    query, key, tau = unit(n, dim, 0, dtype), unit(m, dim, 1, dtype), torch.tensor(0.1, device="cuda")
    positives = torch.randint(0, m, (n, 3), generator=torch.Generator().manual_seed(0)).cuda()
    positives[::2, 1] = -1
    rules = [Exclude(torch.arange(n).cuda() % 5, torch.arange(m).cuda() % 5, "equal")]
    for exclude in ([], rules):
        got = value_and_gradients(
            lambda q, k, t, e=exclude: info_nce(q, k, positives, t, exclude=e, reduction="none"), query, key, tau
        )
        exact = value_and_gradients(
            lambda q, k, t, e=exclude: naive_losses(q, k, positives, t, e), query.double(), key.double(), tau.double()
        )
        assert_close(got, exact, dtype)


@gpu
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize(("n", "dim"), [(512, 128), (300, 40), (200, 300)])
@pytest.mark.parametrize("deterministic", [False, True])
def test_compiled_symmetric_kernels(n: int, dim: int, dtype: torch.dtype, deterministic: bool) -> None:
    features, own = unit(n, dim, 0, dtype), torch.arange(n, device="cuda")
    rules = [Exclude(own, own, "equal")]
    got = value_and_gradients(lambda z: nt_xent(z, own.roll(1), 0.1, deterministic=deterministic), features)
    exact = value_and_gradients(lambda z: naive_losses(z, z, own.roll(1), 0.1, rules).mean(), features.double())
    assert_close(got, exact, dtype)
    if deterministic:
        again = value_and_gradients(lambda z: nt_xent(z, own.roll(1), 0.1, deterministic=True), features)
        assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True))


@gpu
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_compiled_repulsion_of_a_near_uniform_softmax(dtype: torch.dtype) -> None:
    query, key, own = unit(256, 64, 0, dtype), unit(16_384, 64, 1, dtype), torch.arange(256, device="cuda")
    got = value_and_gradients(lambda q, k: info_nce(q, k, own, 10.0), query, key)
    exact = value_and_gradients(lambda q, k: F.cross_entropy(q @ k.T / 10.0, own), query.double(), key.double())
    assert_close(got, exact, dtype)
    repelled, expected = got[2][256:].double(), exact[2][256:]
    assert (repelled - expected).norm() <= 0.01 * expected.norm()
