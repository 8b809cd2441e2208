"""Measure what each chapter costs while nbval runs it: a plugin, `pytest -p tools.chapter_costs`.

Wall time is the sum over the cells; memory is the largest resident set of the kernel's process.
Both go to `_build/chapter_costs.json` and to pytest's summary.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
costs: dict[str, dict[str, float]] = {}


def peak_memory(pid: int) -> float:
    """Give the largest resident set of a process in gigabytes; where unknown, the present one."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    memory = psutil.Process(pid).memory_info()
    return float(getattr(memory, "peak_wset", memory.rss)) / 1e9


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: Any) -> Iterator[None]:
    """Time one cell, and see how large its kernel has become."""
    cost = costs.setdefault(item.path.stem, {"seconds": 0.0, "gigabytes": 0.0})
    start = time.perf_counter()
    try:
        yield
    finally:
        cost["seconds"] += time.perf_counter() - start
        cost["gigabytes"] = peak_memory(item.parent.kernel.km.provisioner.pid)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table and store it."""
    terminalreporter.section("what each chapter costs")
    for name, cost in costs.items():
        terminalreporter.line(f"{name:28}{cost['seconds']:6.1f} s {cost['gigabytes']:6.2f} GB")
    (ROOT / "_build").mkdir(exist_ok=True)
    (ROOT / "_build" / "chapter_costs.json").write_text(json.dumps(costs, indent=2) + "\n")
