"""Write the reference's page "what works with what": `python tools/works_with_page.py`.

The checks of `book/experiments/works_with.py` run here, on a CPU, in less than a minute; what GPUs
show is read from the record of `gpu_checks.py`. The tests run the checks again, one column at a
time, and compare each with the column that the page has.
"""

from __future__ import annotations

import importlib
import re
import sys
import textwrap
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from ssmlab import results

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = ROOT / "book" / "experiments"
PAGE = ROOT / "book" / "reference" / "works_with.md"
RECORD = EXPERIMENTS / "gpu_checks.json"

sys.path.append(str(EXPERIMENTS))
works_with = importlib.import_module("works_with")

Cells = dict[tuple[str, str], str]  # (row, column) -> what came out

MODEL = "LanguageModel"
#: Outcomes that need no sentence, and how the page shows them.
WORDS = {"yes": "yes", "-": "–", works_with.NOT_TRIED: works_with.NOT_TRIED}
ON_GPUS = " (GPU)"
#: The tables: a title, what it says, its columns.
TABLES = {
    "Types, strides": (
        "Forward and backward against float64: parameters and input of this type; the parameters "
        "in float32 under `torch.autocast` (in bfloat16); an input that is turned, one with gaps, "
        "one that is expanded.",
        ["float64", "bfloat16", "float16", "autocast", "strides"],
    ),
    "Derivatives, programs": (
        "The gradient by `torch.func.grad`, each sequence apart by `torch.func.vmap`, a product of "
        "the Hessian and a vector; the program that `torch.export` makes; `torch.compile` with two "
        "backends.",
        ["second derivative", "func.grad", "func.vmap", "export"]
        + [name + ON_GPUS for name in ("compile", "compile, inductor")],
    ),
    "Copies, building, hooks": (
        "A deep copy and one through a file; built under `torch.device('meta')`, then `to_empty` "
        "and `reset_parameters`; built under `torch.device('cuda')`; the hooks of every Linear and "
        "Conv1d are called, so adapters work.",
        ["copy, file", "from meta", "hooks", "from meta" + ON_GPUS, "built on cuda" + ON_GPUS],
    ),
    "Several GPUs": (
        "Two GPUs: `nn.DataParallel`; the second one while the first is current; "
        "`FullyShardedDataParallel` as it comes, and with `use_orig_params=True`; `fully_shard`.",
        [
            name + ON_GPUS
            for name in ("DataParallel", "cuda:1", "FSDP", "FSDP, use_orig_params", "FSDP2")
        ],
    ),
    "One GPU": (
        "Forward and backward in float32, and under `torch.autocast` in bfloat16 and float16; "
        "65,536 and 70,000 sequences; `step` captured in a CUDA graph.",
        [
            name + ON_GPUS
            for name in ("float32", "autocast", "autocast float16", "batch 65,536", "batch 70,000")
        ]
        + ["graph of step" + ON_GPUS],
    ),
    "The checks of the CPU, on a GPU": (
        "As above.",
        [
            name + ON_GPUS
            for name in works_with.COLUMNS
            if name not in ("autocast", "from meta", "copy, file")
        ],
    ),
}
ROWS = [MODEL if case.tokens else case.name for case in works_with.SHOWN]
START = """\
(works-with)=
# What works with what

Each cell is the outcome of a check: *yes*, or *no* with the number of what is raised, at the end of
the page; – where the pair means nothing. The tests run the checks again on the CPU and compare.
What is marked (GPU) was run once: {where}. The language model is one with Mamba; on
GPUs there is one of each mixer, and a *yes* is of all.
"""


def on_the_cpu(columns: Iterable[str] = works_with.COLUMNS) -> Cells:
    """Run the checks of some columns."""
    cells = {}
    for column in columns:
        for name, case in zip(ROWS, works_with.SHOWN, strict=True):
            check = works_with.COLUMNS[column]
            outcome, _ = works_with.outcome(check, case, "cpu")
            cells[name, column] = steady(outcome)
    return cells


def on_gpus(record: Path = RECORD) -> tuple[Cells, str]:
    """Read what GPUs showed, and where; a model fails where one of its mixers does."""
    if not record.exists():
        return {}, "not yet"
    stored = results.load_results(record)
    cells: Cells = {}
    for check in stored["results"]["checks"]:
        row, comma, mixer = check["case"].partition(", ")
        row, mixer = (row, mixer) if row == MODEL else (row + comma + mixer, "")
        at, outcome = (row, check["feature"] + ON_GPUS), steady(check["outcome"])
        if cells.get(at, "yes") == "yes":
            cells[at] = f"{mixer}: {outcome}" if mixer and outcome not in WORDS else outcome
    gpus = stored["results"]["gpus"]
    return cells, f"on {gpus} of {results.cite(stored)}"


def steady(outcome: str) -> str:
    """Leave out of a sentence what differs from run to run."""
    outcome = re.sub(r"the error is \S+", "the numbers are wrong", outcome)
    outcome = re.sub(r"0x[0-9a-f]+", "0x...", outcome).replace("`", "'")
    return textwrap.shorten(outcome, 200, placeholder=" ...")


def written(cells: Cells, where: str) -> str:
    """Write the page; a cell that is not there was not tried."""
    numbers: dict[str, int] = {}

    def word(row: str, column: str) -> str:
        outcome = cells.get((row, column), works_with.NOT_TRIED)
        if outcome in WORDS:
            return WORDS[outcome]
        return f"no ({numbers.setdefault(outcome, len(numbers) + 1)})"

    parts = [START.format(where=where)]
    for title, (text, columns) in TABLES.items():
        lines = [["what", *columns], ["---"] * (len(columns) + 1)]
        lines += [[row, *(word(row, column) for column in columns)] for row in ROWS]
        parts += [f"## {title}\n\n{text}\n", table(lines)]
    scans = [row for row, column in cells if column == "scan" + ON_GPUS]
    if scans:
        lines = [["what", "scan" + ON_GPUS], ["---"] * 2]
        lines += [[row, word(row, "scan" + ON_GPUS)] for row in scans]
        text = "Sequences and numbers that 16 and 32 bits do not count; forward and, where\n"
        text += "memory allows, backward.\n"
        parts += [f"## The selective scan at large sizes\n\n{text}", table(lines)]
    if numbers:
        sentences = [f"{number}. `{sentence}`" for sentence, number in numbers.items()]
        parts += ["## What is raised\n", "\n".join(sentences) + "\n"]
    return "\n".join(parts)


def table(lines: list[list[str]]) -> str:
    """Write the lines of a table."""
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def read(page: str) -> Cells:
    """Read the cells back from a page."""
    outcomes = {word: outcome for outcome, word in WORDS.items()}
    sentences = dict(re.findall(r"^(\d+)\. `(.*)`$", page, re.MULTILINE))
    cells = {}
    for inside, block in groupby(page.splitlines(), lambda line: line.startswith("| ")):
        if not inside:
            continue
        rows = [line[2:-2].split(" | ") for line in block]
        for name, *words in rows[2:]:
            for column, word in zip(rows[0][1:], words, strict=True):
                number = re.fullmatch(r"no \((\d+)\)", word)
                outcome = sentences[number[1]] if number else outcomes[word]
                if outcome != works_with.NOT_TRIED:
                    cells[name, column] = outcome
    return cells


def main() -> None:
    """Run the checks of the CPU and write the page."""
    of_gpus, where = on_gpus()
    PAGE.write_text(written(on_the_cpu() | of_gpus, where), "utf8")
    print(PAGE)


if __name__ == "__main__":
    main()
