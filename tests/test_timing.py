"""How to time: with a clock of our own, so that no test depends on the speed of a machine."""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from ssmlab import timing
from ssmlab.timing import Comparison, Timing

positive = st.floats(1e-9, 1e6)


class Clock:
    """A clock that moves only when somebody works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> Callable[[], None]:
        def func() -> None:
            self.now += seconds

        return func


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "perf_counter", clock)
    return clock


# Timing and its units


@given(st.lists(positive, min_size=1, max_size=20))
def test_median_lies_between_the_quartiles(samples):
    t = Timing(tuple(samples))
    lower, upper = t.quartiles
    assert min(samples) <= lower <= t.median <= upper <= max(samples)
    assert t.repeats == len(samples)


def test_one_interruption_leaves_the_median_alone():
    assert Timing((1.0, 1.0, 1.0, 100.0, 1.0)).median == 1.0


@given(st.floats(1e-9, 1e5))
def test_units_keep_three_digits(seconds):
    number, unit = timing.in_units(seconds).split()
    scale = {name: scale for scale, name in timing.UNITS}[unit]
    assert float(number) * scale == pytest.approx(seconds, rel=5.01e-3)
    assert unit == "s" or float(number) < 1000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ns"),
        (2e-12, "0.002 ns"),
        (9.996e-7, "1 µs"),
        (1.5, "1.5 s"),
        (12345.0, "12300 s"),
    ],
)
def test_units(seconds, text):
    assert timing.in_units(seconds) == text


def test_a_single_call_is_singular():
    assert str(Timing((1.0,))) == "1 s (quartiles 1 s to 1 s, 1 repeats of 1 call)"


# measure and compare


def test_measure_finds_what_a_call_costs(clock):
    t = timing.measure(clock.work(0.5), repeat=4)
    assert t == Timing((0.5,) * 4, calls=1)


def test_a_fast_function_is_called_often_enough_for_the_clock(clock):
    t = timing.measure(clock.work(2.0**-20), repeat=8, seconds=1)
    assert t.calls == 2**17
    assert t.median == 2.0**-20


@given(cost=st.floats(1e-6, 10), repeat=st.integers(1, 9), seconds=st.floats(1e-3, 1))
def test_a_repeat_is_long_enough_and_not_twice_too_long(cost, repeat, seconds):
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "perf_counter", clock)
        t = timing.measure(clock.work(cost), repeat=repeat, seconds=seconds)
    wanted = seconds / repeat
    assert t.calls * cost >= wanted * (1 - 1e-6)
    assert t.calls == 1 or t.calls * cost < 2 * wanted * (1 + 1e-6)


def test_the_first_call_does_not_count(clock):
    costs = iter([100.0, 100.0] + [1.0] * 20)

    def slow_at_first() -> None:
        clock.now += next(costs)

    assert timing.measure(slow_at_first, warmup=2, repeat=5).samples == (1.0,) * 5


def test_functions_take_turns_and_every_second_round_runs_backwards(clock):
    order = []

    def named(name: str) -> Callable[[], None]:
        def func() -> None:
            order.append(name)
            clock.now += 1.0

        return func

    timing.compare({name: named(name) for name in "abc"}, warmup=0, repeat=3)
    assert "".join(order) == "abc" + "abc" + "cba" + "abc"


def test_a_machine_that_slows_down_does_not_change_the_ratio(clock):
    def func(cost: float) -> Callable[[], None]:
        def work() -> None:
            clock.now += cost * (1 + clock.now / 100)

        return work

    result = timing.compare({"one": func(1.0), "three": func(3.0)}, repeat=40)
    assert result.medians["one"] > 1.5  # it did slow down
    assert result.ratios == {"one": 1.0, "three": pytest.approx(3.0, rel=0.02)}


def test_ratios_are_taken_round_by_round():
    result = Comparison({"a": Timing((1.0, 5.0, 9.0)), "b": Timing((2.0, 5.0, 90.0))})
    assert result.medians == {"a": 5.0, "b": 5.0}
    assert result.ratios == {"a": 1.0, "b": 2.0}


def test_garbage_waits_until_the_clock_has_stopped(clock):
    seen = []

    def func() -> None:
        seen.append(gc.isenabled())
        clock.now += 1

    timing.measure(func, warmup=0, repeat=2)
    assert seen == [False] * 3
    assert gc.isenabled()
    gc.disable()
    try:
        timing.measure(func)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_garbage_is_collected_again_after_a_mistake(clock):
    with pytest.raises(ZeroDivisionError):
        timing.measure(lambda: 1 / 0, warmup=0)
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"warmup": -1}, "warmup must be at least 0; got -1"),
        ({"repeat": 0}, "repeat must be at least 1; got 0"),
        ({"seconds": 0.0}, "seconds must be positive; got 0.0"),
        ({"seconds": np.inf}, "seconds must be finite; got inf"),
        ({"seconds": np.nan}, "seconds must be finite; got nan"),
        ({"clock": "sun"}, "clock must be one of 'wall', 'cpu', 'cuda'; got 'sun'"),
    ],
)
def test_bad_options_stop_before_any_call(options, sentence):
    calls = []
    with pytest.raises(ValueError, match=sentence):
        timing.measure(lambda: calls.append(1), **options)
    assert not calls


def test_compare_needs_a_function():
    with pytest.raises(ValueError, match="functions must hold at least one function; got none"):
        timing.compare({})


# the GPU


class FakeTorch(SimpleNamespace):
    """Just enough of torch: a GPU that works later than it is told to."""

    def __init__(self, clock: Clock, *, available: bool = True) -> None:
        self.clock, self.queued, self.cold = clock, 0.0, []
        self.int32 = "int32"
        self.cuda = SimpleNamespace(
            is_available=lambda: available,
            is_initialized=lambda: available,
            synchronize=self.synchronize,
            Event=self.event,
        )

    def launch(self) -> None:
        self.clock.now += 1e-6
        self.queued += 0.25

    def empty(self, size: int, *, dtype: str, device: str) -> SimpleNamespace:
        assert (dtype, device) == ("int32", "cuda")
        return SimpleNamespace(zero_=lambda: self.empty_the_cache(4 * size))

    def empty_the_cache(self, size: int) -> None:
        self.cold.append(size)
        self.queued += 0.1

    def synchronize(self) -> None:
        self.clock.now += self.queued
        self.queued = 0.0

    def event(self, *, enable_timing: bool) -> SimpleNamespace:
        assert enable_timing
        event = SimpleNamespace(at=None)
        event.record = lambda: setattr(event, "at", self.clock.now + self.queued)
        event.elapsed_time = lambda end: 1000 * (end.at - event.at)
        return event


def test_the_clock_waits_for_the_gpu(clock, monkeypatch):
    torch = FakeTorch(clock)
    monkeypatch.setitem(sys.modules, "torch", torch)
    torch.queued = 99.0  # somebody else's work, still running
    t = timing.measure(torch.launch, warmup=0, repeat=3, seconds=6)
    assert t.calls == 8  # 8 x 0.25 s are 2 s, a third of 6 s
    assert t.samples == pytest.approx([0.250001] * 3)


def test_cuda_events_time_the_gpu(clock, monkeypatch):
    torch = FakeTorch(clock)
    monkeypatch.setitem(sys.modules, "torch", torch)
    t = timing.measure(torch.launch, repeat=3, seconds=6, clock="cuda")
    assert t.calls == 8
    assert t.samples == pytest.approx([0.25] * 3, rel=1e-4)
    assert set(torch.cold) == {2**28}
    assert len(torch.cold) == 1 + 2 + 4 + 8 + 3 * 8  # before every call but the warm-up


def test_cpu_seconds_are_not_those_on_the_wall(monkeypatch):
    wall, cpu = Clock(), Clock()
    monkeypatch.setattr(timing, "perf_counter", wall)
    monkeypatch.setattr(timing, "process_time", cpu)

    def work_while_others_do() -> None:
        wall.now += 3.0
        cpu.now += 1.0

    assert timing.measure(work_while_others_do, clock="wall").median == 3.0
    assert timing.measure(work_while_others_do, clock="cpu").median == 1.0
    with timing.stopwatch() as took:
        work_while_others_do()
    assert took == timing.Elapsed(wall=3.0, cpu=1.0)


def test_a_stopwatch_waits_for_the_gpu(clock, monkeypatch):
    torch = FakeTorch(clock)
    monkeypatch.setitem(sys.modules, "torch", torch)
    torch.queued = 99.0  # somebody else's work, still running
    with timing.stopwatch() as took:
        torch.launch()
    assert took.wall == pytest.approx(0.250001)


def test_cuda_without_a_gpu_is_refused(clock, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", FakeTorch(clock, available=False))
    with pytest.raises(ValueError, match="got 'cuda', which needs torch and a GPU"):
        timing.measure(clock.work(1), clock="cuda")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match="got 'cuda', which needs torch and a GPU"):
        timing.measure(clock.work(1), clock="cuda")


def test_timing_does_not_import_torch():
    code = (
        "import sys; from ssmlab.timing import *; measure(int, seconds=1e-3);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# slope


@given(
    power=st.floats(-3, 4),
    constant=st.floats(1e-6, 1e3),
    sizes=st.lists(st.integers(1, 10**6), min_size=2, max_size=8, unique=True),
)
def test_slope_finds_the_exponent(power, constant, sizes):
    x = np.array(sorted(sizes), dtype=float)
    if x[-1] < 1.5 * x[0]:
        return  # too short an arm for the lever
    assert timing.slope(x, constant * x**power) == pytest.approx(power, abs=1e-8)


def test_slope_is_the_least_squares_line():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(1, 100, 20), rng.uniform(1, 100, 20)
    design = np.column_stack([np.log(x), np.ones(20)])
    assert timing.slope(x, y) == pytest.approx(np.linalg.lstsq(design, np.log(y))[0][0])


@pytest.mark.parametrize(
    ("sizes", "seconds", "sentence"),
    [
        ([1, 2], [1.0], r"two lists of one length; got shapes \(2,\) and \(1,\)"),
        (1, 1.0, r"two lists of one length; got shapes \(\) and \(\)"),
        ([0, 2], [1.0, 2.0], "must be positive"),
        ([1, 2], [1.0, -2.0], "must be positive"),
        ([1, 2], [1.0, np.nan], "seconds must be finite"),
        ([1, 2], [1.0, np.inf], "seconds must be finite"),
        ([2, 2], [1.0, 2.0], "at least two different sizes"),
        ([], [], "at least two different sizes"),
    ],
)
def test_slope_says_what_is_wrong(sizes, seconds, sentence):
    with pytest.raises(ValueError, match=sentence):
        timing.slope(sizes, seconds)


def test_the_module_loads_by_its_name():
    assert importlib.import_module("ssmlab").timing is timing
