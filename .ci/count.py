"""Print the last line of the CI, `N passed, N failed`; fail if anything did.

    python3 .ci/count.py REPORTS BROKEN

REPORTS is the folder of pytest's XML reports; BROKEN counts the stages that failed. A stage may
fail without a failed test (lint, types, a page that does not build): it counts as one failure.
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

EXPECTED = ("library.xml", "chapters.xml", "browser.xml")


def main() -> int:
    reports, broken = Path(sys.argv[1]), int(sys.argv[2])
    passed = failed = skipped = 0
    for name in EXPECTED:
        if not (reports / name).exists():
            failed += 1
            continue
        suite = ElementTree.parse(reports / name).getroot()[0]
        bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
        passed += int(suite.get("tests", 0)) - bad - int(suite.get("skipped", 0))
        failed += bad
    failed = max(failed, broken)
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return int(failed > 0 or passed == 0)


if __name__ == "__main__":
    sys.exit(main())
