"""Start the kernel of a submission where it can do no harm, as far as an unprivileged user can.

On Linux with ``unshare``, the kernel has its own namespaces: no network; its own processes, all of
which end with it; and its own file system, which holds the system's and Python's files and this
package (all read-only), an empty home of limited size, and nothing else: no course folder, no
gradebook, no home of yours, and not ssmlab, which holds answers. A process of root becomes
``nobody``.
Elsewhere the kernel is an ordinary process with limits and an empty environment; ``warning`` says
what that does not prevent.

Not prevented even in the sandbox: many processes that each stay within the limit of memory; a
kernel bug. For code that you trust less than that, grade in a container or a virtual machine.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from json import dumps
from pathlib import Path
from tempfile import TemporaryDirectory

PACKAGE = Path(__file__).resolve().parent
NOBODY = 65534
# What Python and its libraries read: binaries, the linker's files, fonts, time zones.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "fonts", "localtime")
DEVICES = ("null", "zero", "full", "random", "urandom")
DIE_WITH_US = ("setpriv", "--pdeathsig", "KILL")
WITHOUT = (
    "the submissions run as ordinary processes of yours: they can use the network, read and "
    "write your files (the solutions and the gradebook too), and start processes that outlive "
    "them; only time, memory, processes and output are limited"
)


@dataclass(frozen=True)
class Limits:
    """What one submission may use.

    Attributes
    ----------
    cell, notebook
        Seconds, by the clock, for one cell (or one test) and for the whole notebook.
    memory, disk
        Bytes for each process, and for the files of the submission.
    processes
        At one time, threads included.
    output
        Bytes of output of one cell; what comes after is cut, and the cell interrupted.
    """

    cell: float = 30
    notebook: float = 180
    memory: int = 6 * 2**30
    disk: int = 256 * 2**20
    processes: int = 200
    output: int = 2 * 2**20

    def resources(self, already: int) -> dict[str, int]:
        """Return them as the limits of a process; ``already`` threads of this user run."""
        return {
            "RLIMIT_AS": self.memory,
            "RLIMIT_CPU": int(2 * self.notebook) + 1,
            "RLIMIT_FSIZE": self.disk,
            "RLIMIT_NPROC": self.processes + already,
        }


def prepared(folder: Path) -> Path:
    """Make in ``folder`` what ``command`` asks for: ``io``, ``home``, ``root``."""
    for name in ("io", "home", "root"):
        (folder / name).mkdir()
    return folder


def command(folder: Path, limits: Limits, *, isolated: bool) -> list[str]:
    """Return the command that starts a kernel; ``{connection_file}`` is for Jupyter to fill in.

    Parameters
    ----------
    folder : Path
        A new folder, with ``io`` for the sockets and ``home`` for the files that the submission
        finds: ``prepared`` makes them.
    limits : Limits
        What the kernel may use.
    isolated : bool
        Whether to use the sandbox; ask ``available``.
    """
    home = "/home" if isolated else str(folder / "home")
    environment = {
        "HOME": home,
        "PATH": f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONPATH": "/lab" if isolated else str(PACKAGE.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "IPYTHONDIR": f"{home}/.ipython",
        "MPLCONFIGDIR": f"{home}/.matplotlib",
        "NUMBA_CACHE_DIR": f"{home}/.numba",
        **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    }
    kernel = [
        *("env", "-i", *(f"{name}={value}" for name, value in environment.items())),
        *(sys.executable, "-m", "ssm_classroom.kernel"),
        dumps(limits.resources(_threads())),
        *("-f", "{connection_file}"),
    ]
    if isolated:
        return _isolate(folder, kernel, limits)
    return [*DIE_WITH_US, *kernel] if shutil.which("setpriv") else kernel


def _isolate(folder: Path, kernel: list[str], limits: Limits) -> list[str]:
    root = os.geteuid() == 0
    unshare = ["unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]
    if not root:
        unshare += ["--user", "--map-root-user"]
    drop = ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
    if root:
        drop += [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    script = "\n".join(_file_system(folder, limits, root=root))
    return [
        *(*DIE_WITH_US, *unshare),
        *("sh", "-c", f'{script}\nexec "$@"', "sh", *drop, *kernel),
    ]


def _file_system(folder: Path, limits: Limits, *, root: bool) -> list[str]:
    """Write the script that makes the file system of the sandbox and goes into it."""
    new = folder / "root"
    tmpfs = f"mount -t tmpfs -o nosuid,nodev,mode=755,size={limits.disk} tmpfs"
    lines = [
        "set -e",
        "umask 022",
        f"{tmpfs} {_quote(new)}",
        f"cd {_quote(new)}",
        "mkdir -p proc dev etc home tmp old",
        f"{tmpfs} home",
        f"{tmpfs} tmp",
        "chmod 1777 tmp",
        f"cp -R {_quote(folder / 'home')}/. home",
        # Before anything is shown below tmp: a Python of a checkout there is not to be changed.
        *([f"chown -R {NOBODY}:{NOBODY} home tmp"] if root else []),
        "mount -t proc proc proc 2>/dev/null || true",  # a container may forbid it
        "echo 'student:x:0:0::/home:/bin/sh' > etc/passwd",
        *_bind(PACKAGE, f"lab/{PACKAGE.name}"),
        *(line for path in _pythons() for line in _bind(path)),
        *(line for name in ETC if (p := Path("/etc", name)).exists() for line in _bind(p)),
        *(line for name in DEVICES for line in _bind(Path("/dev", name), writable=True)),
        *_bind(folder / "io", writable=True),
    ]
    for path in map(Path, SYSTEM):
        if path.is_symlink():
            lines.append(f"ln -s {_quote(os.readlink(path))} {str(path)[1:]}")
        elif path.exists():
            lines += _bind(path)
    lines += [f"[ ! -d {p} ] || mount -t tmpfs -o ro,size=4k tmpfs {p}" for p in _answers()]
    if root:
        lines.append(f"chown -R {NOBODY}:{NOBODY} {_quote(str(folder / 'io')[1:])}")
    return [
        *lines,
        "pivot_root . old",
        "cd /",
        "umount -l old",
        "rmdir old",
        "mount -o remount,bind,ro,nosuid,nodev /",
    ]


def _bind(path: Path, place: str | None = None, *, writable: bool = False) -> list[str]:
    """Show a file or folder in the sandbox, at the same place if no other is given."""
    target = _quote(place or str(path)[1:])
    parent = _quote(os.path.dirname(place or str(path)[1:]) or ".")
    make = f"mkdir -p {target}" if path.is_dir() else f"mkdir -p {parent}; : > {target}"
    lines = [make, f"mount --rbind {_quote(path)} {target}"]
    if not writable:
        lines.append(f"mount -o remount,bind,ro,nosuid,nodev {target}")
    return lines


def _pythons() -> list[Path]:
    """List the folders of this Python that are not among the system's: its own, and its base."""
    folders = {sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parents[1])}
    folders |= {os.path.realpath(folder) for folder in folders}
    paths = sorted(Path(folder) for folder in folders if not folder.startswith("/usr"))
    return [p for p in paths if p != Path("/") and not any(q in p.parents for q in paths)]


def _answers() -> list[str]:
    """List where Python finds ssmlab, which may be among what the sandbox shows of Python."""
    found = [path for entry in sys.path if (path := Path(entry, "ssmlab").absolute()).is_dir()]
    return [_quote(str(path)[1:]) for path in sorted({*found, *(p.resolve() for p in found)})]


def _quote(path: Path | str) -> str:
    return shlex.quote(str(path))


def _threads() -> int:
    """Count the threads of the user whom the kernel runs as: the limit counts them all."""
    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            count += len(os.listdir(process / "task")) if process.stat().st_uid == user else 0
        except OSError:  # it has ended
            continue
    return count


@cache
def available() -> str:
    """Say why there is no sandbox here; the empty string if there is one.

    It is tried: a kernel is not started, but all that leads to one is done.
    """
    if sys.platform != "linux":
        return "namespaces are a feature of Linux"
    missing = [tool for tool in ("unshare", "setpriv", "pivot_root") if not shutil.which(tool)]
    if missing:
        return f"{' and '.join(missing)} of util-linux is missing"
    with TemporaryDirectory(prefix="ssm-") as folder:
        words = _isolate(
            prepared(Path(folder)), [sys.executable, "-c", "import ctypes, zlib"], Limits()
        )
        done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]


def warning() -> str:
    """Say what is not prevented here; the empty string where the sandbox works."""
    reason = available()
    return f"No sandbox here ({reason}): {WITHOUT}." if reason else ""
