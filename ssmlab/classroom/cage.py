"""Start the kernel of a submission, after limiting what it may use: `python -m ...cage JSON ...`.

It runs inside the sandbox, or as an ordinary process where there is none.
"""

from __future__ import annotations

import contextlib
import json
import os
import pkgutil
import resource
import sys

import ssmlab


def limit(limits: dict[str, int]) -> None:
    """Lower the limits of this process, for example {"RLIMIT_CPU": 60}."""
    for name, value in {"RLIMIT_CORE": 0, **limits}.items():
        # A system may lack a limit, or have a lower one.
        with contextlib.suppress(ValueError, OSError, AttributeError):
            number = getattr(resource, name)
            _, highest = resource.getrlimit(number)
            least = value if highest == resource.RLIM_INFINITY else min(value, highest)
            resource.setrlimit(number, (least, least))


def hide() -> None:
    """Make the rest of ssmlab impossible to import: it holds answers."""
    for module in pkgutil.iter_modules(ssmlab.__path__):
        if module.name != "classroom":
            sys.modules[f"ssmlab.{module.name}"] = None  # type: ignore[assignment]


def main() -> None:
    """Limit this process, go to its folder, and become a kernel."""
    limit(json.loads(sys.argv.pop(1)))
    hide()
    os.umask(0o077)
    os.chdir(os.environ["HOME"])
    from ipykernel.kernelapp import IPKernelApp

    IPKernelApp.launch_instance()


if __name__ == "__main__":
    main()
