r"""Time the selective scan, all ways side by side in one run: ``python -m ssmlab.bench``.

Each backend and each peer that is installed gets the same numbers, in turns, after a warm-up; one
whose first call takes longer than ``--patience`` is not called again, and that call is its time.
For each pass the least that a scan must do is counted, bytes and exponentials. A row gives its time
and, in per cent, the shortest time that the ceilings of this machine allow: the larger of bytes /
bandwidth and exponentials / rate, both measured in the same run. Chapter 14 explains the table.

    python -m ssmlab.bench --channels 256 --length 4096 --file scan.json
"""

from ssmlab import _torch as _torch
from ssmlab.bench.command import main

__all__ = ["main"]
