"""The family in NumPy, against transformers, torch, long double and its own laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from transformers.models.qwen3_next import modeling_qwen3_next
from transformers.models.rwkv import modeling_rwkv

from ssmlab import family
from ssmlab.family import member as tokens

torch.set_num_threads(1)


def gate(rng, *shape):
    return rng.uniform(0.5, 1, size=shape)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


#: name -> member of given tokens (..., length, 4) and a generator for the rest
MEMBERS = {
    "linear_attention": lambda q, k, rng: family.linear_attention(q, k),
    "retention": lambda q, k, rng: family.retention(q, k, gate(rng, *q.shape[:-2])),
    "gla": lambda q, k, rng: family.gla(q, k, gate(rng, *q.shape)),
    "rwkv6": lambda q, k, rng: family.rwkv6(q, k, gate(rng, *q.shape), rng.normal(size=4)),
    "deltanet": lambda q, k, rng: family.deltanet(q, unit(k), gate(rng, *q.shape[:-1])),
    "gated_deltanet": lambda q, k, rng: family.gated_deltanet(
        q, unit(k), gate(rng, *q.shape[:-1]), gate(rng, *q.shape[:-1])
    ),
    "gated delta rule with a decay for each key": lambda q, k, rng: family.MatrixState(
        q, unit(k), gate(rng, *q.shape), beta=gate(rng, *q.shape[:-1])
    ),
    "delta rule read before the write": lambda q, k, rng: family.MatrixState(
        q, unit(k), gate(rng, *q.shape), beta=gate(rng, *q.shape[:-1]), bonus=rng.normal(size=4)
    ),
    "RWKV4": lambda q, k, rng: family.RWKV4(k, gate(rng, 4), rng.normal(size=4)),
    "Attention": lambda q, k, rng: family.Attention(q, k),
}
each_member = pytest.mark.parametrize("name", MEMBERS)


def make(name, length, lead=(), seed=0):
    """Return a member of random tokens, and values for it."""
    rng = np.random.default_rng(seed)
    q, k, v = rng.normal(size=(3, *lead, length, 4))
    return MEMBERS[name](q, k, rng), v


# --- the forms -----------------------------------------------------------------------------------


@each_member
@pytest.mark.parametrize("lead", [(), (2,), (2, 3)], ids=str)
def test_all_forms_agree_with_a_state_over_batch_and_heads(name, lead):
    model, v = make(name, 9, lead)
    _, state = model[:4].recurrence(v[..., :4, :])
    y, end = model[4:].recurrence(v[..., 4:, :], state)
    forms = [model[4:].parallel(v[..., 4:, :], state)]
    forms += [model[4:].chunked(v[..., 4:, :], state, chunk=chunk) for chunk in (1, 2, 3, 5, 99)]
    for other, other_end in forms:
        assert_allclose(other, y, rtol=1e-12, atol=1e-13)
        for a, b in zip(other_end, end, strict=True):
            assert_allclose(a, b, rtol=1e-12, atol=1e-13)
    assert_allclose(np.concatenate([model[:4].parallel(v[..., :4, :])[0], y], -2), run(model, v))


def run(model, v):
    return model.recurrence(v)[0]


@each_member
def test_generation_makes_a_member_of_one_token_at_a_time(name):
    model, v = make(name, 5)
    state, outputs = model.initial_state(4), []
    for t in range(5):
        y_t, state = model[t : t + 1].step(v[t], state)
        outputs.append(y_t)
    assert_allclose(outputs, run(model, v), rtol=1e-13)


@each_member
def test_mixing_matrix_is_the_map_and_causal(name):
    model, v = make(name, 11, (2,))
    M = model.mixing_matrix()
    if name == "RWKV4":
        assert M.shape == (2, 4, 11, 11)
        y = np.einsum("bcij,bjc->bic", M, v)
    else:
        assert M.shape == (2, 11, 11)
        y = M @ v
    assert_allclose(y, run(model, v), rtol=1e-12, atol=1e-13)
    assert not np.triu(M, 1).any()


@each_member
def test_leading_axes_are_independent(name):
    model, v = make(name, 6, (2, 3))
    if isinstance(model, family.MatrixState):
        parts = [array[1, 2] for array in (model.q, model.k, model.decay)]
        beta = None if model.beta is None else model.beta[1, 2]
        bonus = None if model.bonus is None else model.bonus[1, 2]
        alone = family.MatrixState(*parts, beta=beta, bonus=bonus)
    elif name == "RWKV4":
        alone = family.RWKV4(model.k[1, 2], model.w, model.u)
    else:
        alone = family.Attention(model.q[1, 2], model.k[1, 2])
    assert_allclose(run(alone, v[1, 2]), run(model, v)[1, 2], rtol=1e-13)


def test_transition_is_the_matrix_of_the_recurrence():
    model, v = make("gated delta rule with a decay for each key", 5)
    S = np.zeros((4, 4))
    for t in range(5):
        S = model.transition(t) @ S + model.beta[t] * np.outer(model.k[t], v[t])
        assert_allclose(model.q[t] @ S, run(model, v)[t], rtol=1e-12, atol=1e-14)
    gated, _ = make("gla", 3)
    assert_allclose(gated.transition(1), np.diag(gated.decay[1]))
    assert_allclose(make("linear_attention", 3)[0].transition(1), np.eye(4))


# --- against what we did not write ---------------------------------------------------------------


def test_gated_deltanet_is_that_of_transformers():
    rng = np.random.default_rng(0)
    lead = (2, 3)
    q, k, v = rng.normal(size=(3, *lead, 7, 4))
    beta, decay = gate(rng, *lead, 7), gate(rng, *lead, 7)
    S = rng.normal(size=(*lead, 4, 4))
    y, end = family.gated_deltanet(q, unit(k), beta, decay).recurrence(v, S)

    def theirs(x):
        return torch.tensor(np.moveaxis(x, 1, 2), dtype=torch.float32)

    out, last = modeling_qwen3_next.torch_recurrent_gated_delta_rule(
        *(theirs(x) for x in (q * 2, unit(k), v, np.log(decay), beta)),  # it divides q by sqrt(4)
        initial_state=torch.tensor(S, dtype=torch.float32),
        output_final_state=True,
    )
    assert_allclose(np.moveaxis(y, 1, 2), out, rtol=1e-4, atol=1e-5)
    assert_allclose(end, last, rtol=1e-4, atol=1e-5)


def test_rwkv4_is_that_of_transformers():
    rng = np.random.default_rng(1)
    k, v = rng.normal(size=(2, 2, 9, 5))
    w, u = rng.normal(size=(2, 5))
    y, end = family.RWKV4(k, np.exp(w), u).recurrence(v)
    theirs = (torch.tensor(x, dtype=torch.float32) for x in (w, u, k, v))
    out, last = modeling_rwkv.rwkv_linear_attention_cpu(*theirs, return_state=True)
    assert_allclose(y, out, rtol=1e-5, atol=1e-6)
    for ours, state in zip(end, last, strict=True):
        assert_allclose(ours, state, rtol=1e-5, atol=1e-5)


def test_attention_is_that_of_torch():
    model, v = make("Attention", 9, (2, 3))
    q, k, v = map(torch.tensor, (model.q, model.k, v))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert_allclose(run(model, v.numpy()), expected, rtol=1e-12, atol=1e-14)


def test_linear_attention_normalised_by_a_channel_of_ones_is_a_mean():
    rng = np.random.default_rng(2)
    q, k, v = rng.normal(size=(3, 8, 3))
    q, k = family.elu_plus_one(q), family.elu_plus_one(k)
    y = run(family.linear_attention(q, k), np.column_stack([v, np.ones(8)]))
    weights = np.tril(q @ k.T)
    assert_allclose(y[:, :3] / y[:, 3:], weights / weights.sum(1, keepdims=True) @ v, rtol=1e-13)
    elu = torch.nn.functional.elu(torch.tensor(v)) + 1
    assert_allclose(family.elu_plus_one(v), elu, rtol=1e-14)


def test_group_norm_and_swish_are_those_of_torch():
    x = np.random.default_rng(3).normal(size=(5, 2, 4))
    normed = torch.nn.functional.group_norm(torch.tensor(x).flatten(1), 2).reshape(x.shape)
    assert_allclose(family.head_norm(x), normed, rtol=1e-12, atol=1e-14)
    swish = torch.nn.functional.silu(torch.tensor(x))
    assert_allclose(family.swish(x), swish, rtol=1e-13, atol=1e-16)


# --- RetNet --------------------------------------------------------------------------------------


def test_retention_is_a_diagonal_state_space_model_in_complex_pairs():
    """A = gamma e^{i theta}: the rotation of queries and keys is an oscillating state."""
    rng = np.random.default_rng(4)
    q, k, v = rng.normal(size=(3, 12, 6))
    A = 0.9 * np.exp(1j * 10000.0 ** -np.linspace(0, 1, 3))
    z, y = np.zeros((3, 6), complex), []
    for t in range(12):
        kc, qc = (M[t, ::2] + 1j * M[t, 1::2] for M in (k, q))
        z = A[:, None] * z + np.outer(kc.conj() / np.sqrt(6), v[t])
        y.append((qc @ z).real)
    assert_allclose(run(family.retention(q, k, 0.9), v), y, rtol=1e-12, atol=1e-14)


def test_retention_depends_on_distances_only():
    q, k, v = np.random.default_rng(5).normal(size=(3, 8, 4))
    here, there = (run(family.retention(q, k, 0.9, start=start), v) for start in (0, 1000))
    assert_allclose(there, here, rtol=1e-10, atol=1e-12)


# --- RWKV-4 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 60, 200, 5000])
def test_rwkv4_survives_large_keys(size):
    """Against the sum as it is written, in long double, whose exponents reach 11356."""
    rng = np.random.default_rng(6)
    k, v = size * rng.choice([-1, 1], size=(50, 4)), rng.normal(size=(50, 4))
    w, u = np.array([0.0, 0.1, 1.0, 5.0]), rng.normal(size=4)
    model = family.RWKV4(k, w, u)
    k, w, u = (array.astype(np.longdouble) for array in (k, w, u))
    atol = 50 * np.finfo(float).eps * max(size, 10)  # an exponent is rounded at each token
    expected = np.empty((50, 4), np.longdouble)
    for t in range(50):
        exponents = k[:t] - (t - 1 - np.arange(t))[:, None] * w
        weights = np.exp(np.vstack([exponents, u + k[t]]))
        expected[t] = (weights * v[: t + 1]).sum(0) / weights.sum(0)
    for form in (model.recurrence, model.parallel, model.chunked):
        assert_allclose(form(v)[0], expected, rtol=0, atol=atol)


def test_rwkv4_and_attention_take_means():
    """The output of a constant is the constant; the weights are positive."""
    for name in ("RWKV4", "Attention"):
        model, v = make(name, 20)
        assert_allclose(run(model, np.ones_like(v)), 1, rtol=1e-14)
        assert (model.mixing_matrix() >= 0).all()


# --- laws ----------------------------------------------------------------------------------------


@each_member
@settings(max_examples=10)
@given(cut=st.integers(1, 7), seed=st.integers(0, 2**31))
def test_split_anywhere_and_never_read_the_future(name, cut, seed):
    model, v = make(name, 8, seed=seed)
    y, end = model.recurrence(v)
    first, middle = model[:cut].parallel(v[:cut])
    second, after = model[cut:].parallel(v[cut:], middle)
    assert_allclose(np.vstack([first, second]), y, rtol=1e-9, atol=1e-11)
    for a, b in zip(after, end, strict=True):
        assert_allclose(a, b, rtol=1e-9, atol=1e-11)


@given(gamma=st.floats(0.1, 1), seed=st.integers(0, 2**31))
def test_constant_coefficients_are_time_invariant_and_selective_ones_are_not(gamma, seed):
    rng = np.random.default_rng(seed)
    q, k = (np.tile(rng.normal(size=4), (9, 1)) for _ in "qk")
    scale = np.abs(q[0] @ k[0])
    for model in (family.linear_attention(q, k), family.retention(q, k, gamma)):
        M = model.mixing_matrix()
        assert_allclose(M[1:, 1:], M[:-1, :-1], atol=1e-12 * (1 + scale))
    M = family.gla(q, k, gate(rng, 9, 4)).mixing_matrix()
    assert np.abs(M[1:, 1:] - M[:-1, :-1]).max() > 1e-6 * np.abs(M).max()


@given(seed=st.integers(0, 2**31))
def test_the_delta_rule_recalls_its_last_pair_and_a_sum_does_not(seed):
    rng = np.random.default_rng(seed)
    k, v = unit(rng.normal(size=(6, 4))), rng.normal(size=(6, 4))
    assert_allclose(run(family.deltanet(k, k, np.ones(6)), v), v, rtol=1e-9, atol=1e-11)
    assert np.abs(run(family.linear_attention(k, k), v)[-1] - v[-1]).max() > 1e-6


def test_the_state_has_the_rank_of_what_it_holds():
    """Past to future is a product through keys x values numbers; softmax has no such bottleneck."""
    ranks = {
        name: np.linalg.matrix_rank(make(name, 40)[0].mixing_matrix()[20:, :20], rtol=1e-10)
        for name in ("linear_attention", "gla", "gated_deltanet", "Attention")
    }
    assert ranks == {"linear_attention": 4, "gla": 4, "gated_deltanet": 4, "Attention": 20}


def test_a_decay_of_zero_forgets_everything_before():
    decay = np.ones((6, 4))
    decay[3] = 0
    model, v = make("gla", 6)
    model = family.gla(model.q, model.k, decay)
    M = model.mixing_matrix()
    assert not M[3:, :3].any()
    for form in (model.recurrence, model.parallel, model.chunked):
        assert_allclose(form(v)[0], M @ v, rtol=1e-13)


# --- the LRU -------------------------------------------------------------------------------------


def test_ring_is_uniform_in_area():
    """The share of eigenvalues within a radius is the share of the area."""
    model = family.LRU.ring(20000, 1, r_min=0.4, r_max=0.9, max_phase=np.pi, seed=3)
    r, angle = np.abs(model.eigenvalues), np.angle(model.eigenvalues)
    assert r.min() > 0.4
    assert r.max() < 0.9
    assert angle.min() > 0
    share = (0.7**2 - 0.4**2) / (0.9**2 - 0.4**2)
    assert abs((r < 0.7).mean() - share) < 0.01
    assert abs((angle < 1).mean() - 1 / np.pi) < 0.01


def test_gamma_gives_white_noise_a_state_of_its_own_variance():
    """E |h|^2 = sum of |lambda|^{2k} gamma^2 |B|^2 = |B|^2."""
    model = family.LRU.ring(16, 3, r_min=0.9, r_max=0.999)
    lengths = np.abs(model.eigenvalues[:, None]) ** (2 * np.arange(200000))
    assert_allclose(lengths.sum(1) * model.gamma**2, 1, rtol=1e-9)


def test_lru_forms_steps_and_mixing_matrix():
    model = family.LRU.ring(6, 2, r_min=0.5, seed=1)
    rng = np.random.default_rng(0)
    x, start = rng.normal(size=(9, 2)), rng.normal(size=6) + 1j * rng.normal(size=6)
    y, end = model.recurrence(x, start)
    other, other_end = model.parallel(x, start)
    assert_allclose(other, y, rtol=1e-12, atol=1e-13)
    assert_allclose(other_end, end, rtol=1e-12)
    state, outputs = start, []
    for x_t in x:
        y_t, state = model.step(x_t, state)
        outputs.append(y_t)
    assert_allclose(outputs, y, rtol=1e-12)
    assert_allclose(state, end, rtol=1e-12)
    M = model.mixing_matrix(9)
    assert_allclose(np.einsum("oitj,ji->to", M, x), model.recurrence(x)[0], rtol=1e-12, atol=1e-14)
    assert_allclose(M[..., 1:, 1:], M[..., :-1, :-1])


# --- errors --------------------------------------------------------------------------------------

Q = np.ones((5, 4))
BAD = {
    "q and k must have the same shape": lambda: family.gla(Q, Q[:, :3], Q / 2),
    "q must have shape": lambda: family.linear_attention(Q[0], Q[0]),
    "q must be finite; got nan": lambda: family.linear_attention(Q * np.nan, Q),
    "k must be real": lambda: family.linear_attention(Q, 1j * Q),
    "decay must be finite; got inf": lambda: family.gla(Q, Q, Q * np.inf),
    "decay must be finite; got nan": lambda: family.gated_deltanet(Q, Q, Q[:, 0], Q[:, 0] * np.nan),
    "decay must lie between 0 and 1; got -0.5": lambda: family.gla(Q, Q, -Q / 2),
    "decay must have shape": lambda: family.gla(Q, Q, Q[:3] / 2),
    "gamma must lie between 0 and 1; got 2": lambda: family.retention(Q, Q, 2.0),
    "gamma must have shape": lambda: family.retention(Q, Q, [0.5, 0.5]),
    "keys must be even": lambda: family.retention(Q[:, :3], Q[:, :3], 0.5),
    "beta must lie between 0 and 2; got 3": lambda: family.deltanet(Q, Q, 3 * Q[:, 0]),
    "bonus must have shape": lambda: family.rwkv6(Q, Q, Q / 2, [1.0, 2.0]),
    "w must lie between 0 and inf; got -1": lambda: family.RWKV4(Q, -Q[0], Q[0]),
    "w must be finite": lambda: family.RWKV4(Q, Q[0] * np.inf, Q[0]),
    "v must have shape": lambda: family.Attention(Q, Q).recurrence(Q[:3]),
    "v must have the 4 channels": lambda: family.RWKV4(Q, Q[0], Q[0]).recurrence(Q[:, :3]),
    "v_t must have shape": lambda: family.gla(Q, Q, Q).step(Q, np.ones((4, 4))),
    "state must have shape": lambda: family.gla(Q, Q, Q).parallel(Q, Q),
    "state must be three arrays": lambda: family.RWKV4(Q, Q[0], Q[0]).parallel(Q, (Q, Q, Q)),
    "state must be a Cache": lambda: family.Attention(Q, Q).parallel(Q, (Q, Q[:, :3])),
    "chunk must be at least 1": lambda: family.Attention(Q, Q).chunked(Q, chunk=0),
    "heads must be at least 1": lambda: family.retention_decays(0),
    "r_min and r_max must satisfy": lambda: family.LRU.ring(4, 1, r_min=0.9, r_max=0.5),
    "max_phase must be positive": lambda: family.LRU.ring(4, 1, max_phase=0.0),
    "seed must be at least 0": lambda: family.LRU.ring(4, 1, seed=-1),
    "nu and theta must be real": lambda: family.LRU(Q[0], Q[0, :2], Q, Q.T, Q[0]),
    r"B must have shape \(state, inputs\)": lambda: family.LRU(Q[0], Q[0], Q, Q, Q[0]),
    "x must have shape": lambda: family.LRU.ring(4, 2).recurrence(Q),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_say_what_is_wrong(message):
    with pytest.raises((TypeError, ValueError), match=message):
        BAD[message]()


def test_members_count_their_tokens_and_show_shapes():
    assert len(make("gla", 7)[0]) == 7
    assert tokens.show(2, "values") == "(2, values)"


def test_a_member_takes_a_slice_and_a_token_that_it_has():
    q = np.ones((2, 7, 4))
    for member in (
        family.linear_attention(q, q),
        family.Attention(q, q),
        family.RWKV4(q, *q[0, :2]),
    ):
        with pytest.raises(TypeError, match="tokens must be a slice; got 3"):
            member[3]
        with pytest.raises(TypeError, match="tokens must be a slice"):
            list(member)
        for t in (-1, 7):
            with pytest.raises(ValueError, match=f"t must be .* got {t}"):
                member.step(np.ones((2, 4)), member.initial_state(4), t)


def test_wrong_steps_of_the_lru():
    lru = family.LRU.ring(2, 3)
    for x_t, state in ((np.ones((3, 1)), np.ones(2)), (np.ones(3), np.ones(1))):
        with pytest.raises(ValueError, match="x_t must have shape"):
            lru.step(x_t, state)
    with pytest.raises(ValueError, match="x_t must be finite; got nan"):
        lru.step([1, np.nan, 1], lru.initial_state())
    with pytest.raises(ValueError, match=r"u must lie between 0 and 1; got .* 0.5 to 1.5"):
        family.lru.ring([0.5, 1.5], [0.5, 0.5])
