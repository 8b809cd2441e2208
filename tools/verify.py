"""Run every check of the repository, then print one summary: `python tools/verify.py`.

The steps run one after another and all of them run, so that one call shows all that is wrong. With
`--coverage` the library's tests also count the lines and branches that they reach.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import reports

ROOT = Path(__file__).resolve().parents[1]
# Whole files go to one process, because tests of a file share what is costly to make. They start in
# the order of pyproject's `testpaths`, not by their number of tests: those of the classroom, few
# and long, would else come last, with nothing left for the other process.
PARALLEL = ["-n", "auto", "--maxprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder"]
COVERAGE = ["--cov", "--cov-report=term"]
NBVAL = ["--nbval", "--nbval-current-env", "--nbval-sanitize-with", "tests/nbval_sanitize.cfg"]


def steps(coverage: bool) -> dict[str, list[str]]:
    """Name the checks: the arguments that follow `python -m`."""
    chapters = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "book").glob("*.ipynb"))
    return {
        "lint": ["ruff", "check"],
        "format": ["ruff", "format", "--check"],
        "types": ["mypy"],
        "library": ["pytest", "-p", "no:nbval", *PARALLEL, *(COVERAGE if coverage else [])],
        "chapters": ["pytest", "-p", "chapter_runs", *PARALLEL, *NBVAL, *chapters],
    }


def main() -> int:
    """Run the steps and print how each ended; the exit status is 1 if one failed."""
    reports.REPORTS.mkdir(parents=True, exist_ok=True)
    for report in reports.REPORTS.glob("*.xml"):
        report.unlink()
    path = [str(ROOT / "tools"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}  # where the plugin is
    summary, failed = [], False
    for name, arguments in steps("--coverage" in sys.argv[1:]).items():
        print(f"\n== {name}: {' '.join(arguments[:3])}", flush=True)
        if arguments[0] == "pytest":
            arguments = [*arguments, f"--junitxml={reports.REPORTS / name}.xml"]
        start = time.perf_counter()
        command = [sys.executable, "-m", *arguments]
        status = subprocess.run(command, cwd=ROOT, env=environment).returncode
        seconds = time.perf_counter() - start
        failed |= status != 0
        word = "FAILED" if status else "ok"
        summary.append(f"{name:10}{word:8}{seconds:6.1f} s   {reports.count(name) or ''}")
    print("\n" + "\n".join(line.rstrip() for line in summary))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
