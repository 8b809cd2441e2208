"""Count what pytest's XML reports say.

    python3 tools/reports.py BROKEN NAME ...

prints the last line of the CI, `N passed, N failed`, of `_build/tests/NAME.xml`, and fails if
anything did. BROKEN counts the stages that failed. A stage may fail without a failed test (lint,
types, a page that does not build): it counts as one failure, and so does a report that is missing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

REPORTS = Path(__file__).resolve().parents[1] / "_build" / "tests"


class Count(NamedTuple):
    """How many tests ended in which way."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __str__(self) -> str:
        text = f"{self.passed} passed, {self.failed} failed"
        return f"{text}, {self.skipped} skipped" if self.skipped else text


def count(name: str) -> Count | None:
    """Count the tests of one run of pytest; None if it left no report."""
    report = REPORTS / f"{name}.xml"
    if not report.exists():
        return None
    suite = ElementTree.parse(report).getroot()[0]
    total, skipped, failures, errors = (
        int(suite.get(key, 0)) for key in ("tests", "skipped", "failures", "errors")
    )
    failed = failures + errors
    return Count(total - failed - skipped, failed, skipped)


def main() -> int:
    """Print the sum over the reports; the exit status is 1 if anything failed or nothing ran."""
    broken, names = int(sys.argv[1]), sys.argv[2:]
    counts = [count(name) or Count(failed=1) for name in names]
    total = Count(*map(sum, zip(*counts, strict=True)))
    total = total._replace(failed=max(total.failed, broken))
    print(total)
    return int(total.failed > 0 or total.passed == 0)


if __name__ == "__main__":
    sys.exit(main())
