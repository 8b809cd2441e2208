"""Execute the chapters in place and keep them clean.

    python tools/notebooks.py refresh [book/03_discretization.ipynb ...]
    python tools/notebooks.py check   [book/03_discretization.ipynb ...]

`refresh` formats each notebook, runs it from a fresh kernel and stores what it prints: no pictures.
`check` says which of the rules in CONTRIBUTING.md a notebook breaks. Without paths: all chapters.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tqdm import tqdm

from ssmlab._files import replacing

ROOT = Path(__file__).resolve().parents[1]
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
CELL_METADATA = {"tags", "mystnb", "nbgrader", "jupyter"}
FORBIDDEN_TAGS = {"nbval-skip", "nbval-ignore-output", "raises-exception", "skip-execution"}
PICTURES = re.compile(r"image/|application/pdf|application/vnd\.jupyter\.widget")
SANITIZE = re.compile(r"^regex: (.*)$\n^replace: (.*)$", re.MULTILINE)
LIST = re.compile(r"\s*(\d+[.)]|[-+*]) ")
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/])/(?:home|Users|root|tmp|opt|work|mnt|private)/\w")


def chapters() -> list[Path]:
    """List the notebooks of the book, in order."""
    return sorted((ROOT / "book").glob("*.ipynb"))


def repository_url() -> str:
    """Read the one setting that says where the book's repository is; empty if nowhere."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))
    return str(config["repository"]["url"] or "")


def install_source(url: str) -> str:
    """Give the first code cell of every chapter, for a repository at `url` (may be empty)."""
    if url:
        return (
            "from importlib.util import find_spec\n\n"
            'if find_spec("ssmlab") is None:  # on Colab, say\n'
            f'    %pip install --quiet "ssmlab[book,torch] @ git+{url}"'
        )
    return (
        "from importlib.util import find_spec\n\n"
        'if find_spec("ssmlab") is None:\n'
        "    raise ModuleNotFoundError(\n"
        '        "This chapter needs ssmlab, the library of the book. In a clone of the book "\n'
        "        \"type `pip install -e '.[book,torch]'`; or install the wheel "
        'that the built book "\n'
        '        "links on its first page. Then restart the kernel."\n'
        "    )"
    )


# Cleaning


def sanitize(text: str) -> str:
    """Apply the substitutions that nbval applies before it compares."""
    rules = SANITIZE.findall((ROOT / "tests" / "nbval_sanitize.cfg").read_text("utf8"))
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


def clean_output(output: Any) -> Any:
    """Drop pictures, widget views and metadata from one output."""
    if output.output_type == "stream":
        output.text = sanitize(output.text)
    elif "data" in output:
        output.metadata = {}
        output.data = {
            mime: sanitize(value) if isinstance(value, str) else value
            for mime, value in output.data.items()
            if not PICTURES.match(mime)
        }
    return output


def put_install_cell(nb: Any, source: str) -> None:
    """Make the canonical cell the first code cell."""
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    if code and 'find_spec("ssmlab")' in code[0].source:
        cell = code[0]
    else:
        cell = nbformat.v4.new_code_cell()
        nb.cells.insert(1, cell)
    cell.source = source
    cell.metadata = {"tags": ["remove-cell"]}


def name_cells(nb: Any) -> None:
    """Give each cell an id made from its text, so that ids change only where the text does."""
    seen: dict[str, int] = {}
    for cell in nb.cells:
        digest = hashlib.sha1(f"{cell.cell_type}:{cell.source}".encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"


def clean(nb: Any) -> Any:
    """Normalise what is stored: outputs without pictures, counts, ids and metadata."""
    nb.metadata = {"kernelspec": dict(KERNELSPEC)}
    nb.nbformat, nb.nbformat_minor = 4, 5
    count = 0
    for cell in nb.cells:
        cell.metadata = {key: cell.metadata[key] for key in CELL_METADATA & set(cell.metadata)}
        if "hide-input" in cell.metadata.get("tags", []):  # folded in the page, so in JupyterLab
            cell.metadata["jupyter"] = {"source_hidden": True}
        cell.source = cell.source.rstrip()
        cell.pop("attachments", None)
        if cell.cell_type == "code":
            ran = cell.execution_count is not None
            count += ran
            cell.execution_count = count if ran else None
            cell.outputs = [clean_output(output) for output in cell.outputs]
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = cell.execution_count
    name_cells(nb)
    return nb


def refresh(path: Path, source: str, timeout: int) -> None:
    """Format one notebook, execute it in place from a fresh kernel, and clean it."""
    for command in (["check", "--quiet", "--fix-only", "--select=I"], ["format", "--quiet"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, str(path)], check=True)
    nb = nbformat.read(path, as_version=4)
    put_install_cell(nb, source)
    NotebookClient(
        nb,
        timeout=timeout,
        kernel_name="python3",
        extra_arguments=["--log-level=40"],  # no advice about the transport's encryption
        coalesce_streams=True,  # where the kernel cuts a stream is chance
        store_widget_state=False,
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    with replacing(path) as new:
        nbformat.write(clean(nb), new)


# Rules: each yields one sentence for each thing that is wrong


def code_cells(nb: Any) -> list[tuple[int, Any]]:
    """List the code cells that have a source, with their position in the notebook."""
    return [
        (i, cell)
        for i, cell in enumerate(nb.cells)
        if cell.cell_type == "code" and cell.source.strip()
    ]


def text_of(output: Any) -> str:
    """Join all the text that an output stores."""
    if output.output_type == "stream":
        return str(output.text)
    return "\n".join(v for v in output.get("data", {}).values() if isinstance(v, str))


def has_title(nb: Any) -> Iterator[str]:
    """The first cell is a title with a label."""
    first = nb.cells[0] if nb.cells else None
    if not first or first.cell_type != "markdown":
        yield "cell 0 is not a markdown cell with the title"
    elif not re.match(r"\([a-z0-9-]+\)=\s*\n+# \S", first.source):
        yield "cell 0 does not begin with a label and a title: `(ch-state)=`, then `# What is ...`"


def has_install_cell(nb: Any) -> Iterator[str]:
    """The first code cell is the canonical one."""
    cells = code_cells(nb)
    if not cells or cells[0][1].source != install_source(repository_url()):
        yield "the first code cell is not the canonical one: `make refresh` writes it"


def has_plain_metadata(nb: Any) -> Iterator[str]:
    """Nothing is stored but the kernel's plain name, tags, alt texts and captions."""
    if dict(nb.metadata) != {"kernelspec": KERNELSPEC}:
        yield f"the notebook's metadata is not {{'kernelspec': {KERNELSPEC}}}"
    for i, cell in enumerate(nb.cells):
        if extra := set(cell.metadata) - CELL_METADATA:
            yield f"cell {i} stores metadata of an editor: {', '.join(sorted(extra))}"


def ran_in_order(nb: Any) -> Iterator[str]:
    """The code cells ran once, from top to bottom."""
    counts = [cell.execution_count for _, cell in code_cells(nb)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"the cells did not run in order 1..{len(counts)}: {counts}"


def has_no_errors(nb: Any) -> Iterator[str]:
    """No cell stores an error or a warning."""
    for i, cell in code_cells(nb):
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"cell {i} failed: {output.ename}: {output.evalue}"
            elif output.output_type == "stream" and output.name == "stderr":
                yield f"cell {i} writes to stderr: {output.text.strip()[:80]}"


def has_no_pictures(nb: Any) -> Iterator[str]:
    """No pictures, slider frames or widget views are stored."""
    for i, cell in code_cells(nb):
        for output in cell.outputs:
            for mime in output.get("data", {}):
                if PICTURES.match(mime):
                    yield f"cell {i} stores {mime}"
            if sanitize(text_of(output)) != text_of(output):
                yield f"cell {i} stores a picture, the frames of a slider or an address in memory"
    for i, cell in enumerate(nb.cells):
        if cell.get("attachments") or "](data:" in cell.source:
            yield f"cell {i} carries a picture in its text"


def describes_figures(nb: Any) -> Iterator[str]:
    """Each figure has an alternative text and a caption; a slider carries its alternative text."""
    for i, cell in code_cells(nb):
        text = "\n".join(text_of(output) for output in cell.outputs)
        slider = "ssmlab-explore" in text
        if not slider and "<Figure size" not in text:
            continue
        mystnb = cell.metadata.get("mystnb", {})
        if not slider and not mystnb.get("image", {}).get("alt", "").strip():
            yield f'cell {i} draws a figure without alt text: metadata mystnb.image.alt = "..."'
        if not mystnb.get("figure", {}).get("caption", "").strip():
            yield f'cell {i} draws a figure without caption: metadata mystnb.figure.caption = "..."'


def is_compared(nb: Any) -> Iterator[str]:
    """No cell escapes the comparison with what it prints today."""
    for i, cell in code_cells(nb):
        if tags := FORBIDDEN_TAGS & {tag.lower() for tag in cell.metadata.get("tags", [])}:
            yield f"cell {i} has the tag {', '.join(sorted(tags))}: every output is compared"
        if re.search(r"^\s*#\s*(NBVAL|PYTEST_VALIDATE)_", cell.source, re.MULTILINE):
            yield f"cell {i} has a comment for nbval: every output is compared"


def ends_without_semicolon(nb: Any) -> Iterator[str]:
    """No semicolon hides a result: JupyterLab obeys it, the comparison does not."""
    for i, cell in code_cells(nb):
        if cell.source.rstrip().endswith(";"):
            yield f"cell {i} ends with a semicolon: end it with `plt.show()` instead"


def sets_lists_apart(nb: Any) -> Iterator[str]:
    """A line that begins "1. " begins a list: after a line of text it is seldom meant."""
    for i, cell in enumerate(nb.cells):
        prose = re.sub(r"```.*?```|\$\$.*?\$\$", "", cell.source, flags=re.DOTALL)
        for before, line in pairwise(prose.split("\n") if cell.cell_type == "markdown" else ()):
            if before.strip() and LIST.match(line) and not LIST.match(before) and before[0] != " ":
                yield f"cell {i} begins a list without an empty line before it: {line[:40]!r}"


def folds_hints(nb: Any) -> Iterator[str]:
    """Each exercise has a hint, and it is folded."""
    for i, cell in enumerate(nb.cells):
        for exercise in re.findall(r"^::::\{exercise\}.*?^::::$", cell.source, re.M | re.S):
            if exercise.count(":::{dropdown} Hint\n") != 1:
                yield f"cell {i} needs one `:::{{dropdown}} Hint` in each exercise"


def is_portable(nb: Any) -> Iterator[str]:
    """No absolute path of somebody's machine."""
    for i, cell in enumerate(nb.cells):
        outputs = [text_of(output) for output in cell.get("outputs", [])]
        for text in [cell.source, *outputs]:
            if found := ABSOLUTE_PATH.search(text):
                yield f"cell {i} names an absolute path: {text[found.start() :][:40]!r}"


RULES: tuple[Callable[[Any], Iterator[str]], ...] = (
    has_title,
    has_install_cell,
    has_plain_metadata,
    ran_in_order,
    has_no_errors,
    has_no_pictures,
    describes_figures,
    is_compared,
    ends_without_semicolon,
    sets_lists_apart,
    folds_hints,
    is_portable,
)


def problems(nb: Any) -> list[str]:
    """Say what breaks a rule, in the order of the rules."""
    return [sentence for rule in RULES for sentence in rule(nb)]


def main() -> int:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("command", choices=["refresh", "check"])
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks; all chapters by default")
    parser.add_argument("--timeout", type=int, default=120, help="seconds a cell may take")
    options = parser.parse_args()
    failed = False
    for path in (bar := tqdm(options.paths or chapters(), unit="notebook")):
        bar.set_postfix_str(path.name)
        if options.command == "refresh":
            try:
                refresh(path, install_source(repository_url()), options.timeout)
            except CellExecutionError as error:
                failed = True
                tqdm.write(f"{path}: nothing stored, a cell failed\n{error}")
                continue
        for sentence in problems(nbformat.read(path, as_version=4)):
            failed = True
            tqdm.write(f"{path}: {sentence}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
