"""The record of a result: measured numbers, and beside them where, when and with what.

A number without its machine is an anecdote. The scripts in ``book/experiments`` write each result
with its provenance, as a JSON file of their own name; a chapter reads the record and cites it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ssmlab import _check
from ssmlab._files import replacing
from ssmlab.timing import Timing

HERE = Path(__file__).resolve()


def stored(name: str) -> dict[str, Any]:
    """Read the record of an experiment, ``experiments/<name>.json`` beside the chapter.

    Parameters
    ----------
    name : str
        The name of the experiment, as in ``stored("three_views")``.

    Returns
    -------
    dict
        "provenance" and "results".

    Raises
    ------
    FileNotFoundError
        The current directory has no such record.
    """
    path = Path("experiments", f"{name}.json")
    if not path.exists():
        raise FileNotFoundError(
            f"name must be that of a record in experiments/ beside the chapter; got {name!r}, and "
            f"there is no {path}: run the chapter where its records are, in the folder of "
            "ssmlab-chapters.zip from the book's first page, or in book/ of a clone, where "
            f"`make experiments/{name}` measures it anew"
        )
    return load_results(path)


def cite(record: Mapping[str, Any]) -> str:
    """Say in one line where, when and with what a record was made.

    Examples
    --------
    >>> made = {"device": "AMD EPYC", "date": "2026-11-24", "packages": {"numpy": "2.4.6"}}
    >>> cite({"provenance": made | {"commit": "49f4dfe354c4", "dirty": False}})
    'AMD EPYC, 2026-11-24, numpy 2.4.6, commit 49f4dfe'
    """
    made = record.get("provenance") if isinstance(record, Mapping) else None
    if not isinstance(made, Mapping):
        raise TypeError(
            f"record must be what load_results or stored returned; got a {type(record).__name__}: "
            "read the record first"
        )
    packages = (f"{name} {number}" for name, number in made["packages"].items())
    commit = f"commit {made['commit'][:7]}" if made["commit"] else "commit unknown"
    changed = " with changes" if made["dirty"] else ""
    return ", ".join([made["device"], made["date"], *packages, commit + changed])


def provenance(
    *, packages: Mapping[str, str] | None = None, commit: str | None = None
) -> dict[str, Any]:
    """Say where and with what a number was measured, to be kept beside it.

    ``commit`` is that of the checkout that ssmlab runs from, and ``dirty`` tells whether ssmlab
    differs from it; both are None outside a checkout.

    Parameters
    ----------
    packages : Mapping from str to str, optional
        The versions of the peers that were measured too, by name.
    commit : str, optional
        The commit, where there is no checkout to ask.

    Examples
    --------
    >>> sorted(provenance())
    ['commit', 'cores', 'cpu', 'date', 'device', 'dirty', 'packages', 'python', 'system']
    """
    ours = ["numpy", "scipy", *(name for name in ("torch", "numba", "triton") if _in_use(name))]
    cpu = _cpu()
    found, dirty = _commit()
    return {
        "device": _gpu() or cpu,
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ours} | dict(packages or {}),
        "commit": found or commit,
        "dirty": dirty,
        "date": datetime.now(UTC).date().isoformat(),
    }


def save_results(
    path: str | Path,
    data: Any,
    *,
    packages: Mapping[str, str] | None = None,
    commit: str | None = None,
) -> None:
    """Write measured numbers with their provenance, as JSON, whole or not at all.

    Parameters
    ----------
    path : str or Path
    data : numbers, strings, lists, dicts, arrays and Timings
    packages, commit
        As in ``provenance``.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     save_results(Path(folder, "cost.json"), {"length": np.arange(3)})
    ...     load_results(Path(folder, "cost.json"))["results"]
    {'length': [0, 1, 2]}
    """
    path = _check.path("path", path)
    if path.is_dir():
        raise IsADirectoryError(f"path must be that of a file; got the folder {path}: add a name")
    record = {"provenance": provenance(packages=packages, commit=commit), "results": data}
    try:
        text = json.dumps(record, indent=1, allow_nan=False, default=_plain)
    except ValueError as error:
        raise ValueError(
            f"data must hold finite numbers only; got one that is not ({error}): leave it out"
        ) from None
    with replacing(path) as new:
        new.write_text(text + "\n", "utf8")


def load_results(path: str | Path) -> dict[str, Any]:
    """Read what ``save_results`` wrote: a dict of "provenance" and "results"."""
    path = _check.path("path", path)
    if not path.is_file():
        raise FileNotFoundError(
            f"path must be that of a file that save_results wrote; got {path}, which is none: "
            "measure first"
        )
    try:
        record = json.loads(path.read_text("utf8"))
        return {key: record[key] for key in ("provenance", "results")}
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"path must be that of a file that save_results wrote; got {path}, which holds "
            "something else: measure again"
        ) from None


def _plain(value: object) -> Any:
    """Turn an array or a Timing into lists and dicts, for JSON."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Timing):
        return asdict(value) | {"median": value.median, "quartiles": value.quartiles}
    raise TypeError(
        "data must be made of numbers, strings, lists, dicts, arrays and Timings; "
        f"got {type(value).__name__}: convert it"
    )


def _in_use(name: str) -> bool:
    return sys.modules.get(name) is not None


def _ask(*command: str | Path) -> str | None:
    """Return what a program answers; None if it fails or is not there."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu() -> str:
    """Name the processor, as Linux or macOS does, or else as Python does."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text("utf8") if cpuinfo.exists() else ""
    names = re.findall(r"^model name\s*: (.+)$", text, flags=re.MULTILINE)
    apple = ("sysctl", "-n", "machdep.cpu.brand_string")
    return names[0] if names else _ask(*apple) or platform.processor() or platform.machine()


def _gpu() -> str | None:
    """Name the GPU that torch is using, if it is."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch and torch.cuda.is_initialized() else None


def _commit() -> tuple[str | None, bool | None]:
    """Find the commit, and whether ssmlab differs; a checkout of something else does not count."""
    git = ("git", "-C", HERE.parent)
    if _ask(*git, "ls-files", "--error-unmatch", HERE) is None:
        return None, None
    return _ask(*git, "rev-parse", "HEAD"), bool(_ask(*git, "status", "--porcelain", "--", "."))
