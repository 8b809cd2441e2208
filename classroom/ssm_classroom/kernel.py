"""The kernel of a submission, after limiting what it may use: ``python -m ssm_classroom.kernel``.

It runs inside the sandbox, or as an ordinary process where there is none.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys


def limit(limits: dict[str, int]) -> None:
    """Lower the limits of this process, for example {"RLIMIT_CPU": 60}."""
    for name, value in {"RLIMIT_CORE": 0, **limits}.items():
        # A system may lack a limit, or have a lower one.
        with contextlib.suppress(ValueError, OSError, AttributeError):
            number = getattr(resource, name)
            _, highest = resource.getrlimit(number)
            least = value if highest == resource.RLIM_INFINITY else min(value, highest)
            resource.setrlimit(number, (least, least))


def main() -> None:
    """Limit this process, go to its folder, and become a kernel."""
    limit(json.loads(sys.argv.pop(1)))
    # The library holds answers. The sandbox does not show it; without a sandbox it is there.
    sys.modules["ssmlab"] = None  # type: ignore[assignment]
    os.umask(0o077)
    os.chdir(os.environ["HOME"])
    from ipykernel.kernelapp import IPKernelApp

    import ssm_classroom.remote  # noqa: F401  # before the clock of the first cell runs

    IPKernelApp.launch_instance()


if __name__ == "__main__":
    main()
