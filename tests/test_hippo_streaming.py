"""The streaming memory against the projection, and its promises to the last bit."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import legendre
from numpy.testing import assert_allclose, assert_array_equal

from ssmlab.hippo import LegSMemory, legs_online, project, reconstruct, streaming

CHUNK = streaming.CHUNK
AROUND = sorted({CHUNK * m + d for m in (1, 2, 3, 4, 7) for d in (-1, 0, 1)})
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the oldest piece begin after four chunks, so that short signals meet every case."""
    monkeypatch.setattr(streaming, "LONGEST", 4 * CHUNK)


def fed(x: np.ndarray, N: int, *, cuts: list[int] | tuple = ()) -> LegSMemory:
    """Return a memory that was fed x in blocks."""
    memory = LegSMemory(N, None if x.ndim == 1 else x.shape[1])
    for block in np.split(x, sorted(cut % (len(x) + 1) for cut in cuts)):
        memory.feed(block)
    return memory


def same_bits(one: LegSMemory, other: LegSMemory) -> bool:
    """Compare all that two memories are, and what they answer."""
    assert one.save().keys() == other.save().keys()
    for key, value in one.save().items():
        assert_array_equal(value, other.save()[key], strict=True)
    assert_array_equal(one.coefficients(), other.coefficients(), strict=True)
    return True


# --- what it holds --------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 3, 100, *AROUND, 20 * CHUNK + 77])
@pytest.mark.parametrize("N", [1, 2, 30])
def test_it_is_the_projection(length, N):
    x = np.random.default_rng(length).normal(size=length)
    found = fed(x, N)
    assert found.length == length
    assert_allclose(found.coefficients(), project(x, N), atol=1e-13)


@pytest.mark.parametrize("length", [1, 5 * CHUNK + 3])
def test_it_is_the_projection_at_256_coefficients(length):
    """Against the same integrals in extended precision, by sums of another order."""
    x = np.random.default_rng(0).normal(size=length)
    edges = np.arange(length + 1).astype(np.longdouble) / length
    n = np.arange(256).astype(np.longdouble)
    P = legendre.legvander(2 * edges - 1, 256)
    areas = np.column_stack([edges, (P[:, 2:] - P[:, :-2]) / (2 * np.sqrt(2 * n[1:] + 1))])
    exact = x @ np.diff(areas, axis=0)
    assert_allclose(fed(x, 256).coefficients(), exact.astype(float), atol=2e-14)


def test_it_is_the_exact_recurrence():
    x = np.random.default_rng(1).normal(size=70)
    history = legs_online(x, 12)
    memory = LegSMemory(12)
    for k, x_k in enumerate(x):
        memory.feed(x_k)
        assert_allclose(memory.coefficients(), history[k], atol=1e-13)


def test_channels_are_kept_each_for_itself():
    x = np.random.default_rng(0).normal(size=(6 * CHUNK + 9, 3))
    c = fed(x, 8).coefficients()
    assert c.shape == (3, 8)
    for channel in range(3):
        assert_allclose(c[channel], fed(x[:, channel], 8).coefficients(), atol=1e-14)


@given(seeds, st.integers(1, 20), st.integers(1, 3 * CHUNK), st.integers(1, 6))
def test_it_is_linear_and_does_not_see_the_time_scale(seed, N, length, stretch):
    x, y = np.random.default_rng(seed).normal(size=(2, length))
    c = fed(x + 2 * y, N).coefficients()
    assert_allclose(c, fed(x, N).coefficients() + 2 * fed(y, N).coefficients(), atol=1e-13)
    assert_allclose(fed(np.repeat(x + 2 * y, stretch), N).coefficients(), c, atol=1e-13)


def test_every_sample_ten_times_changes_nothing():
    x = np.random.default_rng(0).normal(size=60)
    assert_allclose(
        fed(np.repeat(x, 10), 16).coefficients(), fed(x, 16).coefficients(), rtol=0, atol=1e-14
    )


def test_it_draws_the_past():
    t = np.arange(5000) + 0.5
    x = np.stack([np.sin(t / 400), np.cos(t / 300)], axis=-1)
    found = fed(x, 40)
    assert_allclose(found.reconstruct(t), x, atol=1e-3)
    assert_allclose(found.reconstruct([0, 5000]), reconstruct(found.coefficients(), [0, 1]))


def test_float32_and_integers_are_held_in_float64():
    x = np.random.default_rng(0).integers(-9, 9, size=700)
    expected = fed(x.astype(float), 5)
    for dtype in ("int8", "int64", "float32"):
        assert same_bits(fed(x.astype(dtype), 5), expected)


# --- how it is fed --------------------------------------------------------------------------------


@given(seeds, st.sampled_from([None, 1, 3]), st.lists(st.integers(0, 10**6), max_size=6))
def test_the_bits_do_not_depend_on_the_blocks(seed, channels, cuts):
    rng = np.random.default_rng(seed)
    length = int(rng.integers(1, 11 * CHUNK))
    x = rng.normal(size=length if channels is None else (length, channels))
    assert same_bits(fed(x, 6, cuts=cuts), fed(x, 6))


@pytest.mark.parametrize("channels", [None, 2])
def test_the_bits_of_single_samples_strided_views_and_lists(channels):
    length = 2 * CHUNK + 5
    x = np.random.default_rng(0).normal(size=length if channels is None else (length, channels))
    expected = fed(x, 5)
    one_by_one, listed = LegSMemory(5, channels), LegSMemory(5, channels)
    for x_k in x:
        one_by_one.feed(x_k)
    listed.feed(x.tolist())
    assert same_bits(one_by_one, expected)
    assert same_bits(listed, expected)
    assert same_bits(fed(np.repeat(x, 2, axis=0)[::2], 5), expected)


def test_an_empty_block_changes_nothing():
    x = np.random.default_rng(0).normal(size=(5, 2))
    found = fed(x, 3)
    found.feed(x[:0])
    assert same_bits(found, fed(x, 3))


def test_the_signal_may_be_overwritten_afterwards():
    x = np.random.default_rng(0).normal(size=2 * CHUNK + 100)
    found, expected = fed(x, 4), fed(x.copy(), 4)
    x[:] = np.nan
    found.save()["pending"][:] = 0
    found.save()["pieces"][:] = 0
    assert same_bits(found, expected)


def test_asking_changes_nothing():
    x = np.random.default_rng(0).normal(size=3 * CHUNK + 100)
    found = LegSMemory(4)
    for block in np.split(x, 11 * np.arange(1, 100)):
        found.feed(block)
        found.coefficients()
        found.reconstruct([0, found.length])
        found.save()
    assert same_bits(found, fed(x, 4))


def test_what_is_kept_does_not_grow():
    found, sizes = LegSMemory(8), []
    for _ in range(60):
        found.feed(np.ones(CHUNK))
        sizes.append(len(found.save()["pieces"]))
    assert max(sizes[:8]) == max(sizes) == 3  # the oldest, two chunks, one chunk


# --- saved and restored ---------------------------------------------------------------------------


@given(seeds, st.sampled_from([None, 2]), st.integers(0, 10**6))
def test_restored_in_the_middle_it_goes_on_to_the_last_bit(seed, channels, cut):
    rng = np.random.default_rng(seed)
    length = int(rng.integers(1, 9 * CHUNK))
    x = rng.normal(size=length if channels is None else (length, channels))
    before, after = np.split(x, [cut % (length + 1)])
    found = LegSMemory(5, channels)
    found.feed(before)
    file = io.BytesIO()
    np.savez(file, **found.save())
    file.seek(0)
    with np.load(file) as saved:
        restored = LegSMemory.restore(saved)
    assert repr(restored) == repr(found)
    restored.feed(after)
    found.feed(after)
    assert same_bits(restored, found)


def test_a_restored_memory_is_its_own():
    found = fed(np.ones(CHUNK + 3), 4)
    saved = found.save()
    restored = LegSMemory.restore(saved)
    saved["pieces"][:] = 7
    saved["pending"][:] = 7
    assert same_bits(restored, found)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lengths", np.array([CHUNK + 1])),
        ("lengths", np.array([-CHUNK])),
        ("lengths", np.array([CHUNK, CHUNK])),
        ("lengths", np.array([3 * CHUNK])),
        ("pieces", np.zeros(4)),
        ("pieces", np.zeros((1, 4)) + 1j),
        ("pending", np.array(1.0)),
        ("pieces", np.zeros((1, 2, 4))),
        ("pending", np.zeros((3, 2))),
        ("pending", np.zeros(CHUNK)),
    ],
)
def test_what_save_did_not_return_is_refused(key, value):
    saved = fed(np.ones(CHUNK + 3), 4).save() | {key: value}
    with pytest.raises(ValueError, match=r"^saved must be what save\(\) returned; got .*: restore"):
        LegSMemory.restore(saved)


def test_shuffled_lengths_are_refused():
    saved = fed(np.ones(3 * CHUNK), 4).save()
    with pytest.raises(ValueError, match=r"^saved must be what save\(\) returned"):
        LegSMemory.restore(saved | {"lengths": saved["lengths"][::-1]})


def test_a_missing_array_is_named():
    saved = fed(np.ones(3), 4).save()
    del saved["pending"]
    with pytest.raises(ValueError, match=r"^saved must hold .*; got 'lengths', 'pieces': restore"):
        LegSMemory.restore(saved)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 5, CHUNK + 3])
def test_a_sample_that_is_not_finite_is_refused_with_its_index(bad, at):
    x = np.random.default_rng(0).normal(size=3 * CHUNK)
    found, expected = fed(x[:1000], 4), fed(x[:1000], 4)
    block = x[1000:].copy()
    block[[at, at + 9]] = bad
    message = rf"^x must be finite; got {bad} at sample {1000 + at} of the signal: .* 1000 samples"
    with pytest.raises(ValueError, match=message):
        found.feed(block)
    assert same_bits(found, expected)


def test_the_index_counts_samples_and_not_channels():
    found = fed(np.ones((7, 3)), 4)
    for x, sample in [([0, np.nan, 0], 7), ([[0, 0, 0], [0, 0, np.nan]], 8)]:
        with pytest.raises(ValueError, match=f"got nan at sample {sample} of the signal"):
            found.feed(x)
    with pytest.raises(ValueError, match="got nan at sample 2 of the signal"):
        fed(np.ones(2), 4).feed(np.nan)


@pytest.mark.parametrize(
    ("channels", "x"),
    [(None, np.ones((3, 1))), (2, 1.0), (2, np.ones(3)), (2, np.ones((3, 3))), (None, [1j])],
)
def test_samples_of_the_wrong_shape_are_refused(channels, x):
    found = LegSMemory(4, channels)
    with pytest.raises(
        ValueError, match=r"^x must be real, one sample .*; got .*: make the memory"
    ):
        found.feed(x)
    assert found.length == 0


@pytest.mark.parametrize("x", ["one", None, [[1.0], [1.0, 2.0]]])
def test_what_is_no_number_is_refused(x):
    with pytest.raises((TypeError, ValueError), match=r"^x must .*; got"):
        LegSMemory(4).feed(x)


def test_nothing_can_be_asked_before_the_first_sample():
    for ask in (LegSMemory.coefficients, lambda memory: memory.reconstruct([0])):
        with pytest.raises(ValueError, match="has seen no sample: call feed"):
            ask(LegSMemory(4))


@pytest.mark.parametrize("times", [[-0.1], [3.5], [1j]])
def test_a_time_that_was_not_seen_is_refused(times):
    with pytest.raises(ValueError, match=r"^times must be real, from 0 to 3, .*; got .*: sample k"):
        fed(np.ones(3), 2).reconstruct(times)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("N", "channels"), [(0, None), (4, 0), (4, 1.5)])
def test_bad_sizes_are_refused(N, channels):
    with pytest.raises((TypeError, ValueError), match=r"^(N|channels) must be .*; got .*: pass"):
        LegSMemory(N, channels)


def test_times_have_one_axis_and_no_sample_is_masked():
    memory = LegSMemory(3)
    masked = np.ma.masked_array([1.0, 1e6], mask=[False, True])
    for x in (masked, masked[1:]):
        with pytest.raises(TypeError, match="x must have no masked values; got 1"):
            memory.feed(x)
    memory.feed([1.0, 3.0, 2.0])
    with pytest.raises(ValueError, match=r"times must be .* got \(2, 2\)"):
        memory.reconstruct(np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"r must be .* got \(2, 2\)"):
        reconstruct(memory.coefficients(), np.ones((2, 2)) / 2)
