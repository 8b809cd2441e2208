"""Every model against every way of running it: they are one map.

A row of ``CASES`` is a model and its ways, functions ``way(model, x, h0) -> y``. The first is the
reference: the slowest and plainest. Each other way must agree with it at each length, from a zero
and from a non-zero initial state, to rounding. A new model is a new row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch
from scipy.special import expit

from ssmlab import DiscreteStateSpace, diagonal, family, lti, nn, ops, s4, selective_scan
from ssmlab.nn import attention, rwkv
from ssmlab.nn.layer import Layer
from ssmlab.nn.mamba import BlockState
from ssmlab.nn.state_space import StateSpaceLayer

torch.set_num_threads(1)
LENGTHS = (1, 2, 7, 64, 1001)

Way = Callable[[Any, np.ndarray, np.ndarray | None], np.ndarray]


@dataclass(frozen=True, eq=False)
class Case:
    """A model, the shapes that it takes, and the ways in which it can be run."""

    name: str
    make: Callable[[Callable], Any]  # from the fixture random_system
    ways: dict[str, Way]
    ports: tuple[int, ...]  # shape of x at one time
    state: tuple[int, ...]
    dtype: str
    state_dtype: str | None = None  # that of x, if not given


# --- linear time-invariant systems ---------------------------------------------------------------


def written_out_sum(system: DiscreteStateSpace, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    """y_k = C A^{k+1} h_{-1} + sum_j C A^{k-j} (B x_j + B_prev x_{j-1}) + D x_k, in complex128."""
    A = np.diag(system.A_bar) if system.A_bar.ndim == 1 else system.A_bar
    B, B_prev = (M.reshape(len(A), -1) for M in (system.B_bar, system.B_prev))
    C, D = system.C.reshape(-1, len(A)), system.D.reshape(system.outputs, -1)
    A, x_k = A.astype(complex), x.reshape(len(x), -1).astype(complex)
    CA = np.array([C @ np.linalg.matrix_power(A, j) for j in range(len(x) + 1)])
    forces = x_k @ B.T + np.vstack([0 * x_k[:1], x_k[:-1]]) @ B_prev.T
    y = x_k @ D.T
    for k in range(len(x)):
        y[k] += np.einsum("jos,js->o", CA[k::-1], forces[: k + 1])
    if h0 is not None:
        y += CA[1:] @ h0
    return y if system.C.ndim == 2 else y[:, 0]


def recurrence(system: DiscreteStateSpace, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    return lti.recurrence(system, x, h0=h0)[0]


def convolution(system: DiscreteStateSpace, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    return lti.convolution(system, x, h0=h0)


def scipy_dlsim(system: DiscreteStateSpace, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    """scipy's simulation, which is real: a complex number becomes two real ones."""

    def real(M: np.ndarray) -> np.ndarray:
        return np.block([[M.real, -M.imag], [M.imag, M.real]])

    theirs = system.to_scipy()
    state = np.zeros(system.state) if h0 is None else h0
    start = theirs.A @ state
    x = x.reshape(len(x), -1)
    _, y, _ = scipy.signal.dlsim(
        (*map(real, (theirs.A, theirs.B, theirs.C, theirs.D)), system.dt),
        np.hstack([x.real, x.imag]),
        x0=np.hstack([start.real, start.imag]),
    )
    y = y[:, : system.outputs] + 1j * y[:, system.outputs :]
    return y if system.C.ndim == 2 else y[:, 0]


def time_invariant(
    inputs: int | None, outputs: int | None, form: str, dtype: str, method: str
) -> Case:
    def make(random_system: Callable) -> DiscreteStateSpace:
        system = random_system(
            0, state=4, inputs=inputs, outputs=outputs, diagonal=form == "diagonal", dtype=dtype
        )
        return system.discretize(0.1, method)

    return Case(
        name=f"{inputs or 1} to {outputs or 1}, {form}, {dtype}, {method}",
        make=make,
        ways={
            "written-out sum": written_out_sum,
            "recurrence": recurrence,
            "convolution": convolution,
            "scipy": scipy_dlsim,
        },
        ports=() if inputs is None else (inputs,),
        state=(4,),
        dtype=dtype,
    )


# --- S4 and S4D ----------------------------------------------------------------------------------


def modes_written_out(layer: StateSpaceLayer, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    """2 Re C z_k + D x_k for each channel, by powers of its dense real A_bar in long double."""
    A, B, C, dt, D = parameters(layer)
    P = as_complex(layer.P) if isinstance(layer, nn.S4) else 0 * A
    y = D * x.astype(np.longdouble)
    for c in range(layer.channels):
        system = s4.system(A[c], P[c], B, C[c])
        if getattr(layer, "method", "bilinear") == "bilinear":
            A_bar, B_bar = bilinear_in_long_double(system.A, system.B, dt[c])
        else:
            growth = np.exp((dt[c] * A[c]).astype(np.clongdouble))
            b = (growth - 1) / A[c] * B
            re, im = np.diag(growth.real), np.diag(growth.imag)
            A_bar, B_bar = np.block([[re, -im], [im, re]]), np.concatenate([b.real, b.imag])
        CA = [system.C.astype(np.longdouble)]
        for _ in range(len(x)):
            CA.append(CA[-1] @ A_bar)
        y[:, c] += np.convolve(x[:, c], CA[:-1] @ B_bar)[: len(x)]
        if h0 is not None:
            y[:, c] += CA[1:] @ np.concatenate([h0[c].real, h0[c].imag])
    return y


def bilinear_in_long_double(A: np.ndarray, B: np.ndarray, dt: float) -> tuple[np.ndarray, ...]:
    I = np.eye(len(A), dtype=np.longdouble)
    M = I - np.longdouble(dt) / 2 * A
    inverse = np.linalg.inv(M.astype(float)).astype(np.longdouble)
    for _ in range(2):  # Newton
        inverse = inverse @ (2 * I - M @ inverse)
    return 2 * inverse - I, dt * inverse @ B


def s4_in_numpy(layer: nn.S4, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    A, B, C, dt, D = parameters(layer)
    P = as_complex(layer.P)
    start = [None] * layer.channels if h0 is None else h0
    return D * x + np.stack(
        [
            s4.recurrence(A[c], P[c], B, C[c], dt[c], x[:, c], h0=start[c])[0]
            for c in range(layer.channels)
        ],
        axis=1,
    )


def s4_generating_function(layer: nn.S4, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    """The convolution with S4's kernel, and the free response of the dense system."""
    A, B, C, dt, D = parameters(layer)
    P, y = as_complex(layer.P), D * x
    for c in range(layer.channels):
        y[:, c] += lti.convolve(x[:, c], s4.kernel(A[c], P[c], B, C[c], dt[c], len(x)))
        if h0 is not None:
            start = np.concatenate([h0[c].real, h0[c].imag])
            dense = s4.system(A[c], P[c], B, C[c]).discretize(dt[c], "bilinear")
            y[:, c] += lti.free_response(dense, len(x), start)
    return y


def s4d_in_numpy(layer: nn.S4D, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    A, B, C, dt, D = parameters(layer)
    K_bar = diagonal.kernel(A, np.broadcast_to(B, A.shape), C, dt, len(x), layer.method)
    y = D * x + np.stack([lti.convolve(*pair) for pair in zip(x.T, K_bar.T, strict=True)], 1)
    if h0 is not None:
        z = dt[:, None] * A
        A_bar = np.exp(z) if layer.method == "zoh" else (1 + z / 2) / (1 - z / 2)
        y += diagonal.vandermonde(2 * C * A_bar * h0, A_bar, len(x))
    return y


def forward(layer: StateSpaceLayer, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    state = None if h0 is None else torch.tensor(h0)[None]
    return layer(torch.tensor(x)[None], state)[0].detach().numpy()


@torch.no_grad()
def step_by_step(layer: StateSpaceLayer, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    state = layer.initial_state(1) if h0 is None else torch.tensor(h0)[None]
    outputs = []
    for x_t in torch.tensor(x):
        y_t, state = layer.step(x_t[None], state)
        outputs.append(y_t[0])
    return torch.stack(outputs).numpy()


def as_complex(pairs: torch.Tensor) -> np.ndarray:
    return pairs.detach().double().numpy() @ [1, 1j]


def parameters(layer: StateSpaceLayer) -> tuple[np.ndarray, ...]:
    """Return A, B, C, dt and D in double precision."""
    log_decay, frequency, log_dt, D = (
        p.detach().double().numpy()
        for p in (layer.log_decay, layer.frequency, layer.log_dt, layer.D)
    )
    A = -np.exp(log_decay) + 1j * frequency
    return A, as_complex(layer.B), as_complex(layer.C), np.exp(log_dt), D


def s4_layer(name: str, make: Callable[[], StateSpaceLayer], dtype: str, **ways: Way) -> Case:
    def build(_: Callable) -> StateSpaceLayer:
        torch.manual_seed(0)
        return make().to(getattr(torch, dtype))

    both = {"forward": forward, "step by step": step_by_step}
    return Case(
        name=f"{name}, {dtype}",
        make=build,
        ways={"written-out sum": modes_written_out} | ways | both,
        ports=(3,),
        state=(3, 4),
        dtype=dtype,
        state_dtype="complex128",
    )


# --- the family ----------------------------------------------------------------------------------
#
# A model of tokens is a function of the length, since its coefficients come with the tokens.

Tokens = Callable[[int], family.Member]


def token_coefficients(name: str) -> Tokens:
    """Make a member of random tokens, the first of which do not depend on the length."""

    def make(length: int) -> family.Member:
        rng = np.random.default_rng(3)
        q, k = rng.normal(size=(length, 2, 4)).swapaxes(0, 1)
        rng = np.random.default_rng(4)
        decay, (beta, alpha) = rng.uniform(0.5, 1, (length, 4)), rng.uniform(0.2, 1, (2, length))
        unit = k / np.linalg.norm(k, axis=1, keepdims=True)
        members = {
            "linear attention": lambda: family.linear_attention(q, k),
            "retention": lambda: family.retention(q, k, 0.96875),
            "GLA": lambda: family.gla(q, k, decay),
            "RWKV-6": lambda: family.rwkv6(q, k, decay, [0.5, -1.0, 2.0, 1.0]),
            "DeltaNet": lambda: family.deltanet(q, unit, beta),
            "gated DeltaNet": lambda: family.gated_deltanet(q, unit, beta, alpha),
            "RWKV-4": lambda: family.RWKV4(5 * k[:, :3], [0.0, 0.1, 2.0], [0.5, -1.0, 2.0]),
            "attention": lambda: family.Attention(q, k),
        }
        return members[name]()

    return make


def member_state(member: family.Member, h0: np.ndarray | None) -> Any:
    """Read the state of a member out of an array."""
    if h0 is None or isinstance(member, family.MatrixState):
        return h0
    if isinstance(member, family.RWKV4):
        return type(member.initial_state(3))(h0[0], np.abs(h0[1]) + 0.1, 3 * h0[2])
    return family.Cache(h0[:, :4], h0[:, 4:])


def member_way(form: str, **options: int) -> Way:
    def way(make: Tokens, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
        member = make(len(x))
        return getattr(member, form)(x, member_state(member, h0), **options)[0]

    return way


def mixing(make: Tokens, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    """M x, with what an initial state adds taken from the recurrence of a zero input."""
    member = make(len(x))
    M = member.mixing_matrix()
    y = np.einsum("cij,jc->ic", M, x) if M.ndim == 3 else M @ x
    return y if h0 is None else y + member.recurrence(0 * x, h0)[0]


def memory_written_out(make: Tokens, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    """y_i = sum_j q_i G_i ... G_{j+1} beta_j k_j x_j, by products of matrices, in long double."""
    member = make(len(x))
    q, k, x = (a.astype(np.longdouble) for a in (member.q, member.k, x))
    length = len(x)
    a = np.broadcast_to(member.decay, k.shape)
    beta = np.zeros(length) if member.beta is None else member.beta
    b = k if member.beta is None else beta[:, None] * k
    y, rows = 0 * x, np.zeros_like(q)
    for j in reversed(range(length)):
        if member.bonus is None:
            rows[j] = q[j]
            y[j:] += np.outer(rows[j:] @ b[j], x[j])
        else:
            y[j] += q[j] @ (member.bonus * k[j]) * x[j]
            y[j + 1 :] += np.outer(rows[j + 1 :] @ b[j], x[j])
        rows[j:] = (rows[j:] - np.outer(rows[j:] @ k[j], beta[j] * k[j])) * a[j]
        if member.bonus is not None:
            rows[j] = q[j]
    return y if h0 is None else y + rows @ h0


def rwkv4_written_out(make: Tokens, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    member = make(len(x))
    k, w, u = (a.astype(np.longdouble) for a in (member.k, member.w, member.u))
    y, t = 0 * x.astype(np.longdouble), np.arange(len(x))
    for i in t:
        weights = np.exp(np.vstack([k[:i] - (i - 1 - t[:i, None]) * w, u + k[i]]))
        above, below = (weights * x[: i + 1]).sum(0), weights.sum(0)
        if h0 is not None:
            state = member_state(member, h0)
            reach = np.exp(state.maximum - i * w)
            above, below = above + reach * state.numerator, below + reach * state.denominator
        y[i] = above / below
    return y


def attention_written_out(make: Tokens, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    member = make(len(x))
    past = np.zeros((0, 6)) if h0 is None else h0
    keys, values = np.vstack([past[:, :4], member.k]), np.vstack([past[:, 4:], x])
    y = 0 * x.astype(np.longdouble)
    for i, q in enumerate(member.q):
        seen = len(past) + i + 1
        weights = np.exp(keys[:seen].astype(np.longdouble) @ q / 2)
        y[i] = weights @ values[:seen] / weights.sum()
    return y


def member(name: str, written_out: Way, ports: int, state: tuple[int, ...]) -> Case:
    ways = {
        "written-out sum": written_out,
        "recurrence": member_way("recurrence"),
        "parallel": member_way("parallel"),
        "chunks of 1": member_way("chunked", chunk=1),
        "chunks of 16": member_way("chunked"),
    }
    if written_out is memory_written_out:
        ways["mixing matrix"] = mixing
    return Case(
        name=name,
        make=lambda _: token_coefficients(name),
        ways=ways,
        ports=(ports,),
        state=state,
        dtype="float64",
    )


def lru_written_out(model: family.LRU, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    """y_i = Re sum_j C lambda^{i-j} gamma B x_j + D x_i, in long double."""
    A, B, C, D = (getattr(model.system, name) for name in ("A_bar", "B_bar", "C", "D"))
    powers = A.astype(np.clongdouble) ** np.arange(len(x) + 1)[:, None]
    y = (D.real @ x.T).T.astype(np.longdouble)
    for o, i in np.ndindex(D.shape):
        y[:, o] += np.convolve((powers[:-1] @ (C[o] * B[:, i])).real, x[:, i])[: len(x)]
    return y if h0 is None else y + (powers[1:] @ (C * h0).T).real


def lru(form: str) -> Way:
    return lambda model, x, h0: getattr(model, form)(x, h0)[0]


def layer_forward(layer: Layer, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    state = None if h0 is None else layer_state(layer, h0)
    return layer(torch.tensor(x)[None], state)[0].detach().numpy()


@torch.no_grad()
def layer_steps(layer: Layer, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    state = layer.initial_state(1) if h0 is None else layer_state(layer, h0)
    outputs = []
    for x_t in torch.tensor(x):
        y_t, state = layer.step(x_t[None], state)
        outputs.append(y_t[0])
    return torch.stack(outputs).numpy()


def layer_state(layer: Layer, h0: np.ndarray) -> Any:
    """Read the state of a layer out of an array."""
    state = torch.tensor(h0)[None]
    if isinstance(layer, nn.RWKV):
        last, numerator, denominator, maximum = state.unbind(1)
        return rwkv.State(last, rwkv.Mean(numerator, denominator.abs() + 0.1, maximum))
    if isinstance(layer, nn.Attention):
        return attention.Cache(*state.chunk(2, -1))
    return state


def in_double(layer: Layer) -> dict[str, np.ndarray]:
    return {name: p.detach().double().numpy() for name, p in layer.named_parameters()}


def lru_by_steps(layer: nn.LRU, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    p = in_double(layer)
    B, C = p["B"] @ [1, 1j], p["C"] @ [1, 1j]
    model = family.LRU(p["nu"], p["theta"], B, C, p["D"])
    gain = np.exp(p["gamma_log"]) / model.gamma
    model = family.LRU(p["nu"], p["theta"], gain[:, None] * B, C, p["D"])
    return lru_written_out(model, x.astype(float), h0)


def retnet_in_numpy(layer: nn.RetNet, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    p, heads = in_double(layer), layer.heads
    q, k, v, g = (x @ p["in_proj.weight"].T).reshape(len(x), 4, heads, -1).transpose(1, 2, 0, 3)
    member = family.retention(q, k, family.retention_decays(heads))
    state = None if h0 is None else h0.astype(float)
    y, _ = member.recurrence(v, state)
    y = family.swish(g) * family.head_norm(y)
    return np.moveaxis(y, 0, 1).reshape(len(x), -1) @ p["out_proj.weight"].T


def rwkv_in_numpy(layer: nn.RWKV, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    p, x = in_double(layer), x.astype(float)
    before = np.vstack([0 * x[:1] if h0 is None else h0[:1], x[:-1]])
    k, v, r = (
        (mix * x + (1 - mix) * before) @ p[f"{name}.weight"].T
        for mix, name in zip(p["mix"], ("key", "value", "receptance"), strict=True)
    )
    model = family.RWKV4(k, np.exp(p["decay"]), p["bonus"])
    state = model.initial_state(k.shape[1])
    if h0 is not None:
        h0 = h0.astype(float)
        state = type(state)(h0[1], np.abs(h0[2]) + 0.1, h0[3])
    return model.recurrence(v, state)[0] / (1 + np.exp(-r)) @ p["out_proj.weight"].T


def attention_in_numpy(layer: nn.Attention, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    p, heads, size = in_double(layer), layer.heads, layer.size
    q, k, v = (x @ p["in_proj.weight"].T).reshape(len(x), 3, heads, size).transpose(1, 2, 0, 3)
    past = 0 if h0 is None else h0.shape[1]
    angle = np.outer(past + np.arange(len(x)), 10000.0 ** -(np.arange(0, size, 2) / size))
    q, k = (np.exp(1j * angle) * (z[..., ::2] + 1j * z[..., 1::2]) for z in (q, k))
    q, k = (np.stack([z.real, z.imag], -1).reshape(v.shape) for z in (q, k))
    cache = None if h0 is None else family.Cache(*np.split(h0.astype(float), 2, axis=-1))
    y, _ = family.Attention(q, k).parallel(v, cache)
    return np.moveaxis(y, 0, 1).reshape(len(x), -1) @ p["out_proj.weight"].T


def memory_in_numpy(layer: nn.LinearAttention, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    p, heads = in_double(layer), layer.heads
    q, k, v, g = (x @ p["in_proj.weight"].T).reshape(len(x), 4, heads, -1).transpose(1, 2, 0, 3)
    q, k = (z / np.linalg.norm(z, axis=-1, keepdims=True) for z in (q, k))
    a, beta = (
        1 / (1 + np.exp(-(x @ p[f"{name}.weight"].T + p[f"{name}.bias"]).T))
        for name in ("gate", "beta")
    )
    member = family.gated_deltanet(q, k, beta, a)
    y, _ = member.recurrence(v, None if h0 is None else h0.astype(float))
    y = family.swish(g) * y / np.sqrt(np.mean(y**2, -1, keepdims=True) + 1e-5)
    return np.moveaxis(y, 0, 1).reshape(len(x), -1) @ p["out_proj.weight"].T


def gated_delta_memory() -> nn.LinearAttention:
    return nn.LinearAttention(8, 2, decay="gated", delta=True, chunk=16)


def layer(name: str, make: Callable[[], Layer], dtype: str, reference: Way, *state: int) -> Case:
    def build(_: Callable) -> Layer:
        torch.manual_seed(0)
        return make().to(getattr(torch, dtype))

    return Case(
        name=f"layer {name}, {dtype}",
        make=build,
        ways={"numpy": reference, "forward": layer_forward, "step by step": layer_steps},
        ports=(8,),
        state=state,
        dtype=dtype,
        state_dtype="complex128" if name == "LRU" else None,
    )


# --- the selective scan, and Mamba's block -------------------------------------------------------


@dataclass(frozen=True)
class Selective:
    """A bare selective model: dt, B and C are projections of x."""

    A: np.ndarray
    W_dt: np.ndarray
    W_B: np.ndarray
    W_C: np.ndarray
    D: np.ndarray

    def arguments(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return x, dt, A, B, C and D for a batch of one, in the precision of x."""
        double = x.astype(float)
        dt = np.logaddexp(0, double @ self.W_dt)
        given = (
            double[None],
            dt[None],
            self.A,
            (double @ self.W_B)[None],
            (double @ self.W_C)[None],
        )
        real, state = x.dtype, np.result_type(x.dtype, np.complex64)
        kinds = [state if np.iscomplexobj(v) else real for v in (*given, self.D)]
        return tuple(v.astype(kind) for v, kind in zip((*given, self.D), kinds, strict=True))


def loop_in_long_double(model: Selective, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    u, dt, A, B, C, D = (
        v.astype(np.longdouble if v.dtype.kind == "f" else np.clongdouble)
        for v in model.arguments(x)
    )
    h = np.zeros(A.shape, A.dtype) if h0 is None else h0.astype(A.dtype)
    y = np.empty_like(u[0])
    for t in range(len(x)):
        h = np.exp(dt[0, t, :, None] * A) * h + (dt[0, t] * u[0, t])[:, None] * B[0, t]
        Ch = (h * C[0, t]).sum(1)
        y[t] = (2 * Ch.real if np.iscomplexobj(A) else Ch) + D * u[0, t]
    return y


def selective_in_numpy(model: Selective, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    return selective_scan(*model.arguments(x), h0=None if h0 is None else h0[None])[0][0]


def backend(name: str) -> Way:
    def way(model: Selective, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
        start = None if h0 is None else torch.tensor(h0)[None]
        arguments = map(torch.tensor, model.arguments(x))
        return ops.selective_scan(*arguments, h0=start, backend=name)[0].numpy()

    return way


def scan_by_steps(model: Selective, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    u, dt, A, B, C, D = map(torch.tensor, model.arguments(x))
    h, outputs = A.new_zeros(1, *A.shape) if h0 is None else torch.tensor(h0)[None], []
    for t in range(len(x)):
        now = B[:, t : t + 1], C[:, t : t + 1]
        y_t, h = ops.selective_scan_step(u[:, t], dt[:, t], A, *now, D, h0=h)
        outputs.append(y_t[0])
    return torch.stack(outputs).numpy()


def selective(dtype: str, state_dtype: str) -> Case:
    def make(_: Callable) -> Selective:
        A = -np.exp(noise(3, (3, 4), "float64"))
        A = A + 1j * noise(4, (3, 4), "float64") if "complex" in state_dtype else A
        W_dt, W_B, W_C = (noise(k, (3, n), "float64") for k, n in ((5, 3), (6, 4), (7, 4)))
        return Selective(A, W_dt, W_B, W_C, noise(8, (3,), "float64"))

    return Case(
        name=f"selective scan, {state_dtype}",
        make=make,
        ways={
            "loop": loop_in_long_double,
            "numpy": selective_in_numpy,
            "torch": backend("torch"),
            "cpu": backend("cpu"),
            "step by step": scan_by_steps,
        },
        ports=(3,),
        state=(3, 4),
        dtype=dtype,
        state_dtype=state_dtype,
    )


def block_written_out(layer: nn.Mamba, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    """Mamba's block in NumPy; its state is h and, behind it, the past of the convolution."""
    W = {name: p.detach().double().numpy() for name, p in layer.named_parameters()}
    u, z = np.split(x.astype(float) @ W["in_proj.weight"].T, 2, axis=1)
    h0 = np.zeros((layer.inner, 4 + 3)) if h0 is None else h0.astype(float)
    seen = np.vstack([h0[:, 4:].T, u])
    taps = W["conv1d.weight"][:, 0]
    u = sum(taps[:, j] * seen[j : j + len(x)] for j in range(4)) + W["conv1d.bias"]
    u = u * expit(u)
    r, B, C = np.split(u @ W["x_proj.weight"].T, [layer.dt_rank, layer.dt_rank + 4], axis=1)
    dt = np.logaddexp(0, r @ W["dt_proj.weight"].T + W["dt_proj.bias"])
    given = u[None], dt[None], -np.exp(W["A_log"]), B[None], C[None], W["D"]
    y, _ = selective_scan(*given, h0=h0[None, :, :4])
    return (y[0] * z * expit(z)) @ W["out_proj.weight"].T


def block_state(layer: nn.Mamba, h0: np.ndarray | None) -> Any:
    if h0 is None:
        return layer.initial_state(1)
    state = torch.tensor(h0)[None]
    return BlockState(state[..., 4:].mT.contiguous(), state[..., :4].contiguous())


def block_forward(layer: nn.Mamba, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    return layer(torch.tensor(x)[None], block_state(layer, h0))[0].detach().numpy()


@torch.no_grad()
def block_by_steps(layer: nn.Mamba, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    state, outputs = block_state(layer, h0), []
    for x_t in torch.tensor(x):
        y_t, state = layer.step(x_t[None], state)
        outputs.append(y_t[0])
    return torch.stack(outputs).numpy()


def mamba_block(dtype: str) -> Case:
    def make(_: Callable) -> nn.Mamba:
        torch.manual_seed(0)
        return nn.Mamba(3, 4).to(getattr(torch, dtype))

    return Case(
        name=f"Mamba, {dtype}",
        make=make,
        ways={
            "written out": block_written_out,
            "forward": block_forward,
            "step by step": block_by_steps,
        },
        ports=(3,),
        state=(6, 4 + 3),
        dtype=dtype,
    )


CASES = [
    time_invariant(None, None, "dense", "float64", "zoh"),
    time_invariant(None, None, "dense", "float32", "bilinear"),
    time_invariant(None, None, "diagonal", "complex128", "zoh"),
    time_invariant(None, 3, "dense", "complex128", "foh"),
    time_invariant(2, None, "diagonal", "float64", "exponential_euler"),
    time_invariant(2, 3, "dense", "float64", "foh"),
    time_invariant(2, 3, "diagonal", "complex64", "foh"),
    time_invariant(1, 1, "dense", "float64", "euler"),
    *(
        s4_layer("S4", lambda: nn.S4(3, 8), dtype, numpy=s4_in_numpy, fft=s4_generating_function)
        for dtype in ("float64", "float32")
    ),
    *(
        s4_layer(
            f"S4D {init} {method}",
            lambda init=init, method=method: nn.S4D(3, 8, init=init, method=method),
            dtype,
            numpy=s4d_in_numpy,
        )
        for init, method, dtype in (
            ("legs", "zoh", "float64"),
            ("lin", "bilinear", "float32"),
        )
    ),
    *(
        member(name, memory_written_out, 3, (4, 3))
        for name in (
            "linear attention",
            "retention",
            "GLA",
            "RWKV-6",
            "DeltaNet",
            "gated DeltaNet",
        )
    ),
    member("RWKV-4", rwkv4_written_out, 3, (3, 3)),
    member("attention", attention_written_out, 2, (5, 6)),
    Case(
        name="LRU",
        make=lambda _: family.LRU.ring(6, 3, r_min=0.5, seed=1),
        ways={
            "written-out sum": lru_written_out,
            "recurrence": lru("recurrence"),
            "parallel": lru("parallel"),
        },
        ports=(3,),
        state=(6,),
        dtype="float64",
        state_dtype="complex128",
    ),
    *(
        layer(*row[:2], dtype, *row[2:])
        for row in (
            ("LRU", lambda: nn.LRU(8, 6), lru_by_steps, 6),
            ("RetNet", lambda: nn.RetNet(8, 2, chunk=16), retnet_in_numpy, 2, 4, 4),
            ("memory", gated_delta_memory, memory_in_numpy, 2, 4, 4),
            ("RWKV", lambda: nn.RWKV(8), rwkv_in_numpy, 4, 8),
            ("attention", lambda: nn.Attention(8, 2), attention_in_numpy, 2, 5, 8),
        )
        for dtype in ("float64", "float32")
    ),
    selective("float64", "float64"),
    selective("float32", "float32"),
    selective("float64", "complex128"),
    mamba_block("float64"),
    mamba_block("float32"),
]


# --- the test ------------------------------------------------------------------------------------

ROWS = [(case, way) for case in CASES for way in list(case.ways)[1:]]


@cache
def problem(case: Case, length: int, start: str, random_system: Callable) -> tuple[Any, ...]:
    """Return the model, x, h0 and what the reference makes of them."""
    model = case.make(random_system)
    x = noise(1, (length, *case.ports), case.dtype)
    h0 = None if start == "zero" else noise(2, case.state, case.state_dtype or case.dtype)
    reference, *_ = case.ways.values()
    return model, x, h0, reference(model, x, h0)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("start", ["zero", "non-zero"])
@pytest.mark.parametrize(("case", "way"), ROWS, ids=[f"{case.name}: {way}" for case, way in ROWS])
def test_every_way_is_the_same_map(case, way, length, start, random_system, request):
    if length == max(LENGTHS):
        request.getfixturevalue("unchecked")  # for speed
    model, x, h0, expected = problem(case, length, start, random_system)
    y = case.ways[way](model, x, h0)
    assert y.shape == expected.shape
    tolerance = 50 * np.finfo(case.dtype).eps * np.abs(expected).max()
    assert np.abs(y - expected).max() <= tolerance


def noise(seed: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    rng = np.random.default_rng(seed)
    value = rng.normal(size=shape)
    if np.dtype(dtype).kind == "c":
        value = value + 1j * rng.normal(size=shape)
    return value.astype(dtype)
