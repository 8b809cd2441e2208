"""Keep what a comparison of the chapters leaves: a plugin, `pytest -p chapter_runs`.

- What each chapter costs: wall time, the sum over its cells, and the largest resident set of its
  kernel's process. Both go to `_build/chapter_costs.json` and to pytest's summary.
- What it showed: an executed chapter without a difference goes into the execution cache of the
  book, so that `make book` does not run it again.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import freshness
import nbformat
import psutil
import pytest
from jupyter_cache import get_cache

costs: dict[str, dict[str, float]] = {}


def build(config: pytest.Config) -> Path:
    """Name the folder of what is built."""
    return config.rootpath / "_build"


def pytest_configure(config: pytest.Config) -> None:
    """Make the cache's database before several processes write to it."""
    build(config).mkdir(exist_ok=True)
    get_cache(build(config) / ".jupyter_cache").db  # noqa: B018


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
    """Time one cell, see how large its kernel has become, and count it if it passes."""
    chapter = item.parent
    if item.cell_num == 0:
        chapter.passed = 0
        chapter.fingerprint = freshness.fingerprint(chapter.path, item.config.rootpath)
    start = time.perf_counter()
    try:
        yield
        chapter.passed += 1
    finally:
        seconds = time.perf_counter() - start
        gigabytes = peak_memory(chapter.kernel.km.provisioner.pid)
        item.user_properties += [("seconds", seconds), ("gigabytes", gigabytes)]


def pytest_runtest_teardown(item: Any, nextitem: Any) -> None:
    """Keep the outputs of a chapter whose last cell has run, if all its cells passed."""
    chapter = item.parent
    if nextitem is not None and nextitem.parent is chapter:
        return
    executed = copy.deepcopy(chapter.nb)
    cells = [cell for cell in executed.cells if cell.cell_type == "code"]
    if chapter.passed == len(cells):
        ran = (other for other in item.session.items if other.parent is chapter)
        for count, (cell, other) in enumerate(zip(cells, ran, strict=True), 1):
            cell.execution_count = count
            cell.outputs = nbformat.from_dict(other.test_outputs)
        kernel = chapter.kernel.kc.kernel_info(reply=True, timeout=30)
        executed.metadata.language_info = kernel["content"]["language_info"]
        cache = build(item.config) / ".jupyter_cache"
        freshness.keep(cache, chapter.path, executed, chapter.fingerprint)


def pytest_runtest_logreport(report: Any) -> None:
    """Sum the costs, here and not where the cell ran: that may be another process."""
    if report.when == "call":
        spent = dict(report.user_properties)
        name = Path(report.nodeid.partition("::")[0]).stem
        cost = costs.setdefault(name, {"seconds": 0.0, "gigabytes": 0.0})
        cost["seconds"] += spent["seconds"]
        cost["gigabytes"] = max(cost["gigabytes"], spent["gigabytes"])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table and store it."""
    terminalreporter.section("what each chapter costs")
    for name, cost in sorted(costs.items()):
        terminalreporter.line(f"{name:28}{cost['seconds']:6.1f} s {cost['gigabytes']:6.2f} GB")
    table = build(terminalreporter.config) / "chapter_costs.json"
    table.write_text(json.dumps(costs, indent=2) + "\n")
