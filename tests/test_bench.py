"""The benchmark's command line: what it times is the same map, and what it writes can be read."""

from __future__ import annotations

import importlib.util
from contextlib import contextmanager

import pytest
import torch

from ssmlab import bench, results, timing
from ssmlab.bench import command, peers

SMALL = ["--channels", "3", "--length", "8", "--state", "2", "--seconds", "0.01", "--repeat", "3"]


def test_writes_what_it_measured(tmp_path, capsys):
    file = tmp_path / "scan.json"
    bench.main([*SMALL, "--file", str(file), "--only", "torch", "associative_scan"])
    record = results.load_results(file)
    assert record["provenance"]["packages"]["torch"] == torch.__version__
    passes = record["results"]["passes"]
    signals, per_step = 24, 16
    assert passes["forward"]["counts"] == {
        "bytes": 4 * (3 * signals + 2 * per_step),
        "exponentials": 48,
    }
    assert passes["forward and backward"]["counts"] == {
        "bytes": 4 * (8 * signals + 6 * per_step),
        "exponentials": 96,
    }
    ceilings = record["results"]["ceilings"]
    for of in passes.values():
        row = of["rows"]["torch"]
        median = row["timing"]["median"]
        assert row["ratio"] == 1
        assert row["updates_per_second"] == pytest.approx(48 / median)
        floor = max(of["counts"][k] / ceilings[k] for k in ("bytes", "exponentials"))
        assert row["per_cent_of_ceiling"] == pytest.approx(100 * floor / median)
        assert row["timing"]["quartiles"][0] <= median
    assert "associative_scan" in capsys.readouterr().out


def test_the_slow_are_called_once(monkeypatch, capsys):
    calls = dict.fromkeys(("torch", "associative_scan"), 0)

    def count(name):
        def scan(x, dt, A, B, C):
            calls[name] += 1
            return x + dt + A.sum() + B.sum() + C.sum()

        return scan

    monkeypatch.setattr(peers, "scans", lambda device: {name: count(name) for name in calls})
    seconds = iter([1, 5] * 2)

    @contextmanager
    def stopwatch():
        yield timing.Elapsed(wall=next(seconds))

    monkeypatch.setattr(timing, "stopwatch", stopwatch)
    bench.main([*SMALL, "--patience", "2"])
    assert calls["associative_scan"] == 4  # in each pass a short warm-up, and one call
    assert calls["torch"] > 4
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if "(one call)" in line] == ["5", "5"]


def test_nothing_is_quick(capsys):
    bench.main([*SMALL, "--patience", "0", "--only", "torch"])
    assert capsys.readouterr().out.count("(one call)") == 2


def test_every_way_is_the_same_map():
    problem = peers.problem(channels=3, length=8, state=2)
    scans = peers.scans()
    assert {"cpu", "torch", "associative_scan", "transformers"} <= scans.keys()
    expected = scans["torch"](*problem)
    for scan in scans.values():
        torch.testing.assert_close(scan(*problem), expected, rtol=1e-5, atol=1e-6)


def test_says_what_is_timed_where_with_what_and_what_is_missing(monkeypatch, capsys):
    installed = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "mambapy" else installed(name)
    )
    bench.main([*SMALL, "--only", "torch", "transformers"])
    text = capsys.readouterr().out
    for part in (
        "1 x 8 steps of 3 channels with 2 states each, float32, 1 thread\n",
        f"transformers {peers.version('transformers')}",
        " GB/s, ",
        "not installed: mambapy",
        "times torch  state updates  of the ceiling\n",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--device cuda", "--device cuda needs a GPU that torch can use, and torch finds none"),
        ("--length 0", "argument --length: must be a whole number from 1 on; got '0'"),
        ("--threads two", "argument --threads: must be a whole number from 1 on; got 'two'"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(arguments, sentence, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        bench.main(arguments.split())
    assert sentence in capsys.readouterr().err


def test_help_names_every_way_and_default(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in ("cpu", "triton", "associative_scan", *peers.PEERS, "(default: 4096)"):
        assert name in text


def test_an_unknown_name_is_refused():
    with pytest.raises(SystemExit, match=r"--only takes what is installed: cpu, torch.*'mamba'"):
        bench.main([*SMALL, "--only", "mamba"])


def test_the_backend_of_a_gpu_is_triton(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in ("triton", "mamba_ssm"))
    assert list(peers.scans("cuda")) == ["triton", "torch", "associative_scan", "mamba_ssm"]


def test_per_cent_of_the_ceiling_is_of_what_is_measured(monkeypatch, tmp_path):
    """With memory ten times as slow, memory is the wall and the per cent grow."""
    monkeypatch.setattr(command, "exponentials_per_second", lambda device: 1e12)
    for rate in (1e3, 1e4):
        monkeypatch.setattr(command, "bytes_per_second", lambda device, rate=rate: rate)
        bench.main([*SMALL, "--only", "torch", "--file", str(tmp_path / "scan.json")])
        of = results.load_results(tmp_path / "scan.json")["results"]["passes"]["forward"]
        assert of["floor"] == of["counts"]["bytes"] / rate
