"""Run every check of the repository, then print one summary: `python tools/verify.py`.

The steps run one after another and all of them run, so that one call shows all that is wrong.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
REPORTS = ROOT / "_build" / "tests"
NBVAL = ["--nbval", "--nbval-current-env", "--nbval-sanitize-with", "tests/nbval_sanitize.cfg"]


def steps() -> dict[str, list[str]]:
    """Name the checks: the arguments that follow `python -m`."""
    chapters = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "book").glob("*.ipynb"))
    return {
        "lint": ["ruff", "check"],
        "format": ["ruff", "format", "--check"],
        "types": ["mypy"],
        "library": ["pytest", "--cov", "--cov-report=term", f"--junitxml={REPORTS}/library.xml"],
        "chapters": [
            *["pytest", "-p", "tools.chapter_costs", *NBVAL, f"--junitxml={REPORTS}/chapters.xml"],
            *chapters,
        ],
    }


def counts(report: Path) -> str:
    """Count the tests that one run of pytest reports, by outcome."""
    if not report.exists():
        return ""
    suite = ElementTree.parse(report).getroot()[0]
    total, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    text = f"{total - failed - skipped} passed, {failed} failed"
    return f"{text}, {skipped} skipped" if skipped else text


def main() -> int:
    """Run the steps and print how each ended; the exit status is 1 if one failed."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    for report in REPORTS.glob("*.xml"):
        report.unlink()
    summary, failed = [], False
    for name, arguments in steps().items():
        print(f"\n== {name}: {' '.join(arguments[:3])}", flush=True)
        start = time.perf_counter()
        status = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT).returncode
        seconds = time.perf_counter() - start
        failed |= status != 0
        word = "FAILED" if status else "ok"
        summary.append(f"{name:10}{word:8}{seconds:6.1f} s   {counts(REPORTS / f'{name}.xml')}")
    print("\n" + "\n".join(line.rstrip() for line in summary))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
