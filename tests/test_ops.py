"""The torch kernels against their slow twins in NumPy, and their gradients against differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad
from torch.testing import assert_close

from ssmlab import diagonal, lti, ops, s4

torch.set_num_threads(1)
LENGTHS = [1, 2, 3, 64, 100, 1001]
DOUBLE, SINGLE = torch.complex128, torch.complex64


def complex_normal(seed: int, *shape: int, dtype: torch.dtype = DOUBLE) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def dplr(
    channels: int = 2, modes: int = 3
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return Lambda, P, B, C and dt of random channels."""
    Lambda, P, B, C = complex_normal(0, 4, channels, modes)
    Lambda = torch.complex(-Lambda.real.abs(), 5 * Lambda.imag)
    return Lambda, P, B, C, torch.linspace(0.1, 0.3, channels, dtype=torch.float64)


def input_vector(Lambda: torch.Tensor, P: torch.Tensor, B: torch.Tensor, dt: torch.Tensor):
    """Return B_bar."""
    return ops.dplr_step(Lambda, P, B, dt, 0 * B, torch.ones_like(dt))


def largest_error(K: torch.Tensor, truth: np.ndarray) -> float:
    assert tuple(K.shape) == truth.shape
    return np.abs(K.numpy() - truth).max() / np.abs(truth).max()


# --- convolution ---------------------------------------------------------------------------------


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("taps", [1, 50, 2000])
def test_convolution_of_each_channel(length, taps):
    x, K_bar = complex_normal(1, 2, length, 3).real, complex_normal(2, taps, 3).real
    y = ops.fft_convolution(x, K_bar)
    for b in range(2):
        for c in range(3):
            truth = np.convolve(x[b, :, c], K_bar[:, c])[:length]
            assert largest_error(y[b, :, c], truth) < 1e-13


@pytest.mark.parametrize("batch", [(), (2,), (2, 2)])
@pytest.mark.parametrize("taps", [1, 4, 9])
def test_convolution_has_gradients(batch, taps):
    x, K_bar = complex_normal(1, *batch, 5, 3).real, complex_normal(2, taps, 3).real
    assert torch.autograd.gradcheck(
        ops.fft_convolution, (x.clone().requires_grad_(), K_bar.clone().requires_grad_())
    )


def test_convolution_has_second_derivatives():
    x = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    K_bar = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(ops.fft_convolution, (x, K_bar))


@pytest.mark.filterwarnings("ignore:.torch.jit.script")  # torch's own, in make_dual
def test_convolution_in_forward_mode():
    x, K_bar = torch.randn(2, 5, 3).double(), torch.randn(5, 3).double()
    with forward_ad.dual_level():
        y = ops.fft_convolution(forward_ad.make_dual(x, x), forward_ad.make_dual(K_bar, K_bar))
        tangent = forward_ad.unpack_dual(y).tangent
    assert_close(tangent, 2 * ops.fft_convolution(x, K_bar))  # bilinear


def test_convolution_in_torch_func():
    """The Hessian of a cubic function of the kernel, a sequence at a time: against differences."""
    x = torch.randn(2, 6, 1, dtype=torch.float64)
    K_bar = torch.randn(3, 1, dtype=torch.float64)

    def cubic(K_bar: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return (ops.fft_convolution(x, K_bar) ** 3).sum()

    gradient = torch.vmap(torch.func.grad(cubic), in_dims=(None, 0))
    hessian = torch.func.jacrev(gradient)(K_bar, x).flatten(1)
    steps = 1e-6 * torch.eye(3, dtype=torch.float64)[..., None]
    differences = [(gradient(K_bar + d, x) - gradient(K_bar - d, x)) / 2e-6 for d in steps]
    assert_close(hessian, torch.stack(differences, -1).flatten(1), rtol=1e-6, atol=1e-6)


# --- Vandermonde ---------------------------------------------------------------------------------


@pytest.mark.parametrize("length", LENGTHS)
def test_vandermonde_is_its_slow_twin(length):
    weights, A_bar = complex_normal(0, 2, 3, 4), torch.exp(0.1 * dplr(3, 4)[0])
    K_bar = ops.vandermonde(weights, A_bar, length)
    for b in range(2):
        truth = diagonal.vandermonde(weights[b].numpy(), A_bar.numpy(), length)
        assert largest_error(K_bar[b], truth) < 1e-13
    single = ops.vandermonde(weights.to(SINGLE), A_bar, length)
    assert single.dtype == torch.float32
    assert largest_error(single, K_bar.numpy()) < 1e-6


@pytest.mark.parametrize("length", [1, 3, 10])
def test_vandermonde_has_gradients(length):
    weights, A_bar = complex_normal(0, 2, 3), torch.exp(0.1 * dplr()[0])
    assert torch.autograd.gradcheck(
        lambda w, a: ops.vandermonde(w, a, length),
        (weights.requires_grad_(), A_bar.requires_grad_()),
    )


# --- diagonal plus low rank ----------------------------------------------------------------------


@pytest.mark.parametrize("length", LENGTHS)
def test_dplr_kernel_is_its_slow_twin(length):
    Lambda, P, B, C, dt = dplr()
    K_bar = ops.dplr_kernel(Lambda, P, input_vector(Lambda, P, B, dt), C, dt, length)
    for c in range(2):
        modes = (M[c].numpy() for M in (Lambda, P, B, C))
        assert largest_error(K_bar[:, c], s4.kernel(*modes, float(dt[c]), length)) < 1e-12


@pytest.mark.parametrize("dt", [0.001, 0.1])
def test_dplr_kernel_of_legs_in_single_precision(dt):
    Lambda, P, B, V = s4.dplr(64)
    C = np.random.default_rng(0).normal(size=64) @ V
    truth = s4.kernel(Lambda, P, B, C, dt, 4096)
    Lambda, P, B, C = (torch.tensor(M)[None] for M in (Lambda, P, B, C))
    step = torch.tensor([dt], dtype=torch.float64)
    B_bar = input_vector(Lambda, P, B, step)
    K_bar = ops.dplr_kernel(Lambda, P, B_bar, C.to(SINGLE), step, 4096)
    assert K_bar.dtype == torch.float32
    assert largest_error(K_bar[:, 0], truth) < 1e-6


def test_dplr_step_is_that_of_the_dense_system():
    Lambda, P, B, C, dt = dplr()
    z, x = complex_normal(3, 5, 2, 3), complex_normal(4, 5, 2).real
    after = ops.dplr_step(Lambda, P, B, dt, z, x)
    for c in range(2):
        modes = (M[c].numpy() for M in (Lambda, P, B, C))
        dense = s4.system(*modes).discretize(float(dt[c]), "bilinear")
        for b in range(5):
            _, h = lti.recurrence(
                dense, x[b, c : c + 1], h0=torch.cat([z[b, c].real, z[b, c].imag]).numpy()
            )
            assert_close(torch.cat([after[b, c].real, after[b, c].imag]), torch.tensor(h[0]))


def test_without_the_low_rank_part_it_is_vandermonde():
    Lambda, P, B, C, dt = dplr()
    A_bar = (1 + dt[:, None] / 2 * Lambda) / (1 - dt[:, None] / 2 * Lambda)
    assert_close(
        ops.dplr_kernel(Lambda, 0 * P, B, C, dt, 100), ops.vandermonde(2 * C * B, A_bar, 100)
    )


@pytest.mark.parametrize("length", [1, 7])
def test_dplr_has_gradients(length):
    def kernel(Lambda, P, B, C, dt):
        return ops.dplr_kernel(Lambda, P, input_vector(Lambda, P, B, dt), C, dt, length)

    assert torch.autograd.gradcheck(kernel, [M.clone().requires_grad_() for M in dplr()])


# --- wrong arguments -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "K_bar", "error", "message"),
    [
        (torch.ones(4), torch.ones(4), ValueError, r"x must have shape \(..., length, channels\)"),
        (torch.ones(4, 2), torch.ones(4, 3), ValueError, r"got \(4, 2\) and \(4, 3\)"),
        (torch.ones(4, 2), torch.ones(0, 2), ValueError, "with at least one tap"),
        (torch.ones(0, 2), torch.ones(4, 2), ValueError, "x must not be empty"),
        (torch.ones(4, 2), torch.ones(4, 2).double(), TypeError, "must both be float32 or both"),
        (torch.ones(4, 2).int(), torch.ones(4, 2).int(), TypeError, "got torch.int32"),
        (np.ones((4, 2)), torch.ones(4, 2), TypeError, r"NumPy array: pass torch.from_numpy\(x\)"),
        (torch.ones(4, 2), None, TypeError, "K_bar must be a torch tensor; got a NoneType: pass a"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_of_the_convolution(x, K_bar, error, message):
    with pytest.raises(error, match=message):
        ops.fft_convolution(x, K_bar)


@pytest.mark.parametrize(
    ("weights", "A_bar", "length", "error", "message"),
    [
        ([1j], torch.ones(2, 3), 4, TypeError, r"got a list: pass torch.tensor\(weights\)"),
        (torch.ones(2, 3), torch.ones(2, 3), 4, TypeError, "weights must be complex; got torch.f"),
        (complex_normal(0, 3), complex_normal(0, 3), 4, ValueError, r"\(..., channels, modes\)"),
        (complex_normal(0, 2, 3), complex_normal(0, 2, 4), 4, ValueError, "A_bar must have the mo"),
        (complex_normal(0, 2, 3), complex_normal(0, 2, 3), 0, ValueError, "length must be at leas"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_of_vandermonde(weights, A_bar, length, error, message):
    with pytest.raises(error, match=message):
        ops.vandermonde(weights, A_bar, length)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"P": torch.ones(2, 3)}, TypeError, "P must be complex; got torch.float32"),
        ({"C": complex_normal(0, 2, 4)}, ValueError, "C must have the modes on its last axis, 3"),
        ({"dt": torch.tensor([0.1, 0.0])}, ValueError, "dt must be real and positive.*smallest 0"),
        ({"dt": torch.tensor([0.1, -1.0])}, ValueError, "dt must be real and positive.*smallest"),
        ({"dt": 0.1}, TypeError, "dt must be a torch tensor; got a float: pass a tensor"),
        ({"dt": torch.tensor(0.1)}, ValueError, r"dt must be .* one number for each of the 2 ch"),
        ({"length": -1}, ValueError, "length must be at least 1"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_of_dplr(change, error, message):
    good = dict(zip(("Lambda", "P", "B_bar", "C", "dt"), dplr(), strict=True)) | {"length": 4}
    with pytest.raises(error, match=message):
        ops.dplr_kernel(**good | change)
