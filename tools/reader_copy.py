"""The chapters as a reader runs them: the built notebooks beside the records that they read.

    python tools/reader_copy.py pack    # into a zip beside the built pages, for the first page
    python tools/reader_copy.py open    # unpack that into lab/, and start JupyterLab there

What a reader has changed in lab/ stays; `open` says which files those are. JupyterLab is started
without the extensions that a reader has no use for (tools/jupyter).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

from ssmlab._files import replacing

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
PACKED = HTML / "_static" / "ssmlab-chapters.zip"
COPY = ROOT / "lab"
RECORDS = {".json", ".py", ".safetensors"}


def contents() -> dict[str, Path]:
    """Say what a reader gets: name in the folder, and where it is."""
    chapters = sorted((ROOT / "book").glob("*.ipynb"))
    experiments = ROOT / "book" / "experiments"
    records = (path for path in experiments.rglob("*") if path.suffix in RECORDS)
    wheels = (HTML / "_static").glob("ssmlab-*.whl")
    return {
        **{path.name: HTML / "_sources" / "book" / path.name for path in chapters},
        **{path.relative_to(experiments.parent).as_posix(): path for path in sorted(records)},
        **{path.name: path for path in wheels},
    }


def pack(target: Path) -> None:
    """Write the zip, in one folder."""
    with ZipFile(target, "w", ZIP_DEFLATED) as packed:
        for name, path in contents().items():
            packed.write(path, f"{target.stem}/{name}")


def unpack(source: Path, folder: Path) -> list[str]:
    """Bring a folder up to date and return the names of those files that the reader has changed."""
    log = folder / ".unpacked.json"
    known = json.loads(log.read_text("utf8")) if log.exists() else {}
    changed = []
    with ZipFile(source) as packed:
        for member in packed.namelist():
            name = member.partition("/")[2]
            path, data = folder / name, packed.read(member)
            if path.exists() and digest(path.read_bytes()) not in (known.get(name), digest(data)):
                changed.append(name)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as new:
                new.write_bytes(data)
            known[name] = digest(data)
    with replacing(log) as new:
        new.write_text(json.dumps(known, indent=1), "utf8")
    return changed


def digest(data: bytes) -> str:
    """Give a short name to what a file holds."""
    return hashlib.sha256(data).hexdigest()


def start(folder: Path) -> int:
    """Start JupyterLab in a folder."""
    settings = {**os.environ, "JUPYTER_CONFIG_PATH": str(ROOT / "tools" / "jupyter")}
    lab = [sys.executable, "-m", "jupyterlab", f"--notebook-dir={folder}"]
    return subprocess.run(lab, env=settings, check=False).returncode


def main() -> int:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("command", choices=["pack", "open"])
    if parser.parse_args().command == "pack":
        pack(PACKED)
        return 0
    if not PACKED.exists():
        parser.error(f"there is no {PACKED.relative_to(ROOT)} yet: build the book first")
    changed = unpack(PACKED, COPY)
    print(f"Your copy of the chapters: {COPY}")
    if changed:
        print("Kept as you changed them (a fresh one comes once yours is moved or deleted):")
        print("\n".join(f"  {name}" for name in changed))
    return start(COPY)


if __name__ == "__main__":
    sys.exit(main())
