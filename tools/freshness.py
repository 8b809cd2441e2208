"""What a page shows is what the library does now, and nothing runs twice.

The output of a chapter follows from its code, from the modules of `ssmlab` that it imports, from
the records that it reads and from the pinned packages. `fingerprint` is a digest of all these. As a
Sphinx extension this module drops from the execution cache, and reads again, each chapter whose
fingerprint has changed; Sphinx by itself looks at the notebook only. `keep` puts a chapter that ran
elsewhere into the cache: `tools/chapter_runs.py` does so when `make test` has compared it.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

PACKAGE = "ssmlab"


# What a chapter depends on


def fingerprint(notebook: Path, root: Path) -> str:
    """Digest all that the output of a notebook depends on; `root` is the folder of the book."""
    cells = nbformat.read(notebook, as_version=4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    digest = hashlib.sha256(f"{sys.version_info[:2]}".encode())
    for file in sorted({*library(code, root), *records(code, root), root / "requirements.txt"}):
        if file.exists():
            digest.update(f"\n{file.relative_to(root).as_posix()}\n".encode() + file.read_bytes())
    digest.update("\n".join(code).encode())
    return digest.hexdigest()


def records(code: list[str], root: Path) -> set[Path]:
    """Find the files beside the experiments that the code names: `digits` means `digits.json`."""
    folder, text = root / "book" / "experiments", "\n".join(code)
    return {
        path
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0].partition(".")[0] in text
        if path.suffix != ".py" or path.name in text
    }


def library(code: list[str], root: Path) -> set[Path]:
    """Find the files of the library that the code reaches by imports, wherever they stand."""
    found: set[Path] = set()
    wanted = {name for cell in code for name in names(cell)}
    while wanted:
        files = files_of(wanted.pop(), root) - found
        found |= files
        wanted |= {name for file in files for name in names_in(file, root)}
    return found


def files_of(name: str, root: Path) -> set[Path]:
    """Find the module that holds a dotted name, and the packages around it."""
    first, *rest = name.split(".")
    folder = root / first
    files = {folder / "__init__.py"}
    if rest and not is_module(folder / rest[0]):  # the package says which module holds it
        homes = names((folder / "__init__.py").read_text("utf8"))
        homes = (home.rpartition(".")[0] for home in homes if home.endswith(f".{rest[0]}"))
        return files.union(*(files_of(home, root) for home in homes if home.count(".")))
    for part in rest:
        folder /= part
        if not is_module(folder):
            break
        files.add(folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py"))
    return files


def is_module(path: Path) -> bool:
    """Tell whether a path without suffix is a module or a package."""
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@cache
def names_in(file: Path, root: Path) -> tuple[str, ...]:
    """List the names that a file of the library imports; the package itself imports on demand."""
    lazy = file == root / PACKAGE / "__init__.py"
    return () if lazy else tuple(names(file.read_text("utf8")))


def names(code: str) -> Iterator[str]:
    """List the dotted names of the library in a piece of code: imports and attributes."""
    try:
        tree = ast.parse(code)
    except SyntaxError:  # a line for IPython, such as %pip
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            dotted: Iterable[str] = (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            dotted = (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute):
            dotted = (ast.unparse(node),)
        else:
            continue
        yield from (name for name in dotted if name.split(".")[0] == PACKAGE)


# The execution cache


def forget(cache_folder: Path, notebook: Path) -> None:
    """Drop what the cache holds of a notebook's code."""
    executed = get_cache(cache_folder)
    try:
        record = executed.match_cache_notebook(nbformat.read(notebook, as_version=4))
    except KeyError:
        return
    executed.remove_cache(record.pk)


def keep(cache_folder: Path, notebook: Path, executed: Any, print_of_run: str) -> None:
    """Put an executed notebook into the cache, with the fingerprint from before it ran."""
    bundle = CacheBundleIn(executed, str(notebook), data={})
    get_cache(cache_folder).cache_notebook_bundle(bundle, overwrite=True)
    stamp(cache_folder, notebook).write_text(print_of_run)


def stamp(cache_folder: Path, notebook: Path) -> Path:
    """Name the file that holds the fingerprint of what the cache holds."""
    folder = cache_folder / "fingerprints"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / notebook.stem


def outdated(app: Sphinx, env: BuildEnvironment, *_: set[str]) -> list[str]:
    """Name the pages to read again, and let the cache forget what they showed."""
    config = env.mystnb_config  # type: ignore[attr-defined]
    if config.execution_mode != "cache":
        return []
    cache_folder, root = Path(config.execution_cache_path), Path(app.srcdir)
    now = {}
    names_in.cache_clear()  # another build may have come before, in the same process
    for page in sorted(env.found_docs):
        notebook = Path(env.doc2path(page))
        if notebook.suffix == ".ipynb":
            now[page] = fingerprint(notebook, root)
            stored = stamp(cache_folder, notebook)
            if not stored.exists() or stored.read_text() != now[page]:
                forget(cache_folder, notebook)
                stored.write_text(now[page])
    before = getattr(env, "fingerprints", {})
    env.fingerprints = now  # type: ignore[attr-defined]
    return [page for page in now if page in env.all_docs and before.get(page) != now[page]]


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("env-get-outdated", outdated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
