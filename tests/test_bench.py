"""The benchmark's command line: what it times is the same map, and what it writes can be read."""

from __future__ import annotations

import argparse
import importlib.util

import pytest
import torch

from ssmlab import bench, timing

SMALL = ["--channels", "3", "--length", "8", "--state", "2", "--seconds", "0.01", "--repeat", "3"]


def test_writes_what_it_measured(tmp_path, capsys):
    file = tmp_path / "scan.json"
    bench.main([*SMALL, "--file", str(file), "--only", "torch", "associative_scan"])
    record = timing.load_results(file)
    assert record["provenance"]["packages"]["torch"] == torch.__version__
    results = record["results"]
    assert results["counts"] == {"bytes": 4 * (3 * 24 + 2 * 16), "exponentials": 48}
    for name in ("forward", "forward and backward"):
        row = results[name]["torch"]
        assert row["ratio"] == 1
        assert row["per_cent_of_ceiling"] > 0
        assert row["timing"]["quartiles"][0] <= row["timing"]["median"]
    assert "associative_scan" in capsys.readouterr().out


def test_every_way_is_the_same_map():
    options = bench._parser().parse_args(SMALL)
    problem = bench._problem(options)
    scans = bench._scans(options)
    assert {"cpu", "torch", "associative_scan"} <= scans.keys()
    expected = scans["torch"](*problem)
    for scan in scans.values():
        torch.testing.assert_close(scan(*problem), expected, rtol=1e-5, atol=1e-6)


def test_an_unknown_name_is_refused():
    with pytest.raises(SystemExit, match=r"--only takes what is installed: cpu, torch.*'mamba'"):
        bench.main([*SMALL, "--only", "mamba"])


def test_the_backend_of_a_gpu_is_triton(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in ("triton", "mamba_ssm"))
    scans = bench._scans(argparse.Namespace(device="cuda", only=None))
    assert list(scans) == ["triton", "torch", "associative_scan", "mamba_ssm"]
