"""Run one submission, and judge it from outside.

The student's cells run in a sandboxed kernel. Each test cell runs here, in a process that has run
nothing but the instructor's cells; the names that the answers define (as the source says) stand for
the student's objects over there. What the student's code does to NumPy, to ``assert``, to IPython
or to its own process changes none of this: it can only return other data.

A test is judged when its turn comes, so that a kernel that dies later takes no earlier marks along.

Not prevented: a student's function can remember the arguments of a hidden test, and a later cell
show them. What was expected, and the test itself, it never sees.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import contextlib
import io
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.util import ensure_async
from nbformat import NotebookNode

from ssm_classroom import remote
from ssm_classroom.notebook import grade_id, is_answer, is_test
from ssm_classroom.sandbox import Limits, command

HIDDEN = "A hidden check failed: the same question, with other sizes and other numbers."
LARGEST_ANSWER = 64 * 2**20
SLOW = "TimeoutError"


class StoppedError(Exception):
    """The kernel of the submission has ended; the message says why."""


class StudentError(Exception):
    """The student's side could not answer; the message says why."""


class Kernel(NotebookClient):
    """The kernel in the sandbox: runs cells, limits their time and output, outlives nothing."""

    def __init__(self, folder: Path, limits: Limits, *, isolated: bool) -> None:
        argv = command(folder, limits, isolated=isolated)
        manager = AsyncKernelManager(
            kernel_spec_manager=_OneKernel(argv=argv), transport="ipc", ip=str(folder / "io" / "k")
        )
        manager.connection_file = str(folder / "io" / "kernel.json")
        super().__init__(
            nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell()]),
            km=manager,
            allow_errors=True,
            interrupt_on_timeout=True,
            raise_on_iopub_timeout=True,
            error_on_timeout={"ename": SLOW, "evalue": "", "traceback": []},
            store_widget_state=False,
            timeout_func=self._seconds,
            on_cell_executed=self._executed,
        )
        self.limits, self.deadline = limits, time.monotonic() + limits.notebook
        self.remarks: list[str] = []
        self.stopped = ""
        self.output_left, self.cut, self.slow = 0, False, False

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        """Start the kernel, and end it and all that it started."""
        try:
            self.start_new_kernel(env=dict(os.environ))
            self.start_new_kernel_client()
        except Exception as error:
            self.stopped = f"The kernel did not start: {error}"
        try:
            yield
        finally:
            with contextlib.suppress(Exception):
                self._kill()

    def run(self, cell: NotebookNode, name: str, output: int | None = None) -> NotebookNode:
        """Run a cell, called ``name`` in the remarks, and leave its outputs in it.

        Raises
        ------
        StoppedError
            The kernel has ended, now or before.
        """
        if self.stopped:
            raise StoppedError(self.stopped)
        self.output_left = self.limits.output if output is None else output
        self.cut = self.slow = False
        reason = ""
        if time.monotonic() > self.deadline:
            reason = f"The notebook took longer than {self.limits.notebook:g} s in all"
        else:
            try:
                self.execute_cell(cell, 0)
            except Exception as error:
                reason = self._reason(error, name)
        if reason:
            self.stopped = f"{reason}; what comes after it did not run."
            self.remarks.append(self.stopped)
            with contextlib.suppress(Exception):
                self._kill()
            raise StoppedError(self.stopped)
        if self.cut:
            text = f"{name} wrote more than {self.limits.output / 2**20:g} MB; the rest was cut"
            self.remarks.append(f"{text} and the cell interrupted.")
        elif self.slow:
            self.remarks.append(f"{name} was interrupted after {self.limits.cell:g} s.")
        return cell

    def _reason(self, error: Exception, name: str) -> str:
        kind = type(error).__name__
        if kind == "DeadKernelError":
            return f"{name} ended the kernel (by an exit, or for lack of memory or time)"
        if kind == "CellTimeoutError":
            return f"{name} did not stop when it was interrupted"
        return f"{name} sent what could not be read ({kind})"

    def _seconds(self, cell: NotebookNode) -> float:
        return max(0.1, min(self.limits.cell, self.deadline - time.monotonic()))

    def _executed(self, cell: NotebookNode, execute_reply: Any, **rest: Any) -> None:
        self.slow = execute_reply["content"].get("ename") == SLOW
        if self.slow:
            text = f"This cell was interrupted after {self.limits.cell:g} s."
            cell.outputs.append(nbformat.v4.new_output("stream", name="stderr", text=text + "\n"))

    def _kill(self) -> None:
        self.shutdown_kernel = "immediate"
        self._cleanup_kernel()

    def process_message(
        self, msg: dict[str, Any], cell: NotebookNode, cell_index: int
    ) -> NotebookNode | None:
        """Take a message of the kernel as data: no widgets, no displays that change others."""
        msg["content"].pop("transient", None)
        kind = msg["msg_type"]
        if kind.startswith("comm"):
            return None
        if kind in ("stream", "display_data", "execute_result", "error"):
            self.output_left -= len(json.dumps(msg["content"], default=str))
            if self.output_left < 0:
                if not self.cut and self.km is not None:
                    self.cut = True
                    self._interruption = asyncio.ensure_future(
                        ensure_async(self.km.interrupt_kernel())
                    )
                return None
        return super().process_message(msg, cell, cell_index)


class _OneKernel(KernelSpecManager):
    """Knows one kernel, whatever the name."""

    def __init__(self, argv: list[str]) -> None:
        super().__init__()
        self.argv = argv

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(argv=self.argv, language="python", display_name="sandbox")


@dataclass
class Verdict:
    """What became of a test cell: what the student reads, and what the instructor reads."""

    passed: bool
    message: str = ""
    private: str = ""


class Tests:
    """Runs the instructor's cells of a source notebook here, against a kernel over there."""

    def __init__(self, source: NotebookNode, kernel: Kernel) -> None:
        self.kernel = kernel
        self.cells = [cell for cell in source.cells if cell.cell_type == "code"]
        self.names = {name for cell in self.cells if is_answer(cell) for name in defined(cell)}
        self.namespace: dict[str, Any] = {"__name__": "__main__"}
        self.used: set[str] = set()
        self.done = 0

    def run(self, name: str) -> Verdict:
        """Run the test cell called ``name``, after the given cells before it."""
        here = next(i for i, cell in enumerate(self.cells) if grade_id(cell) == name)
        for cell in self.cells[self.done : here]:
            if not is_answer(cell) and not is_test(cell):
                with contextlib.suppress(Exception):  # it may use what the student did not write
                    self._execute(cell.source, "<given>")
        self.done = here
        source = self.cells[here].source
        try:
            self._execute(source, "<test>")
        except StoppedError as error:
            return Verdict(False, str(error), str(error))
        except BaseException as error:
            return _failed(error, source)
        return Verdict(True)

    def _execute(self, source: str, file: str) -> None:
        lines = ("" if line.startswith(("%", "!")) else line for line in source.split("\n"))
        code = compile("\n".join(lines), file, "exec")
        self.used |= self.names & set(_names(code))
        for name in self.names:
            self.namespace.pop(name, None)
        if self.used:
            self.namespace.update(self._ask("names", sorted(self.used)))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            exec(code, self.namespace)

    def _ask(self, *request: Any) -> Any:
        cell = nbformat.v4.new_code_cell(remote.request(*request))
        self.kernel.run(cell, "A test that calls your code", LARGEST_ANSWER)
        if self.kernel.slow:
            raise StudentError(f"your code was interrupted after {self.kernel.limits.cell:g} s")
        try:
            texts = [o.data[remote.MIME] for o in cell.outputs if remote.MIME in o.get("data", {})]
            reply = json.loads(texts[-1])
            if "error" in reply:
                kind, text = map(str, reply["error"])
            else:
                return remote.unpack(reply["value"], lambda n: remote.Remote(self._ask, n))
        except Exception:
            raise StudentError("your code did not answer with data") from None
        known = getattr(builtins, kind, None)
        known = known if isinstance(known, type) and issubclass(known, Exception) else StudentError
        try:
            error = known(text if known is not StudentError else f"{kind}: {text}")
        except TypeError:  # UnicodeDecodeError and the like take more arguments
            error = StudentError(f"{kind}: {text}")
        error.add_note("It was raised in your code.")
        raise error


def defined(cell: NotebookNode) -> set[str]:
    """Return the names that a cell defines at its top level: functions, classes, variables."""
    names: set[str] = set()
    for node in ast.parse(cell.source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found = (part for target in targets for part in ast.walk(target))
            names |= {part.id for part in found if isinstance(part, ast.Name)}
    return names


def _names(code: CodeType) -> Iterator[str]:
    """List the names that code uses, those in functions it defines too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _failed(error: BaseException, source: str) -> Verdict:
    """Say why a test failed, without a word of a hidden test to the student."""
    lines = source.split("\n")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == "<test>"]
    number = frames[0].lineno if frames and frames[0].lineno else 1
    line = lines[number - 1].strip() if number <= len(lines) else ""
    where = " It was raised in your code." if getattr(error, "__notes__", None) else ""
    text = f"{type(error).__name__}: {error}".strip().removesuffix(":")[:2000] + where
    if isinstance(error, StudentError):
        text = str(error)[:2000]
    if isinstance(error, NameError) and not where:
        text = f"{error}: its cell did not run to its end, or does not define it"
    before = "\n".join(lines[:number])
    hidden = before.count("BEGIN HIDDEN TESTS") > before.count("END HIDDEN TESTS")
    message = HIDDEN if hidden else (text if str(error) else f"{text}: {line}")
    return Verdict(False, message, f"{text} (line {number}: {line})")


def judge(
    source: NotebookNode, restored: NotebookNode, kernel: Kernel
) -> tuple[NotebookNode, dict[str, Verdict]]:
    """Run a restored submission; test cells get no output if they passed, else an error."""
    verdicts: dict[str, Verdict] = {}
    tests = Tests(source, kernel)
    with kernel.started():
        for number, cell in enumerate(restored.cells, start=1):
            if cell.cell_type != "code":
                continue
            if is_test(cell):
                name = str(grade_id(cell))
                verdicts[name] = verdict = tests.run(name)
                if not verdict.passed:
                    error = ("Failed", verdict.message, [verdict.message])
                    output = dict(zip(("ename", "evalue", "traceback"), error, strict=True))
                    cell.outputs = [nbformat.v4.new_output("error", **output)]
                continue
            title = f"Cell {grade_id(cell) or number!r}"
            with contextlib.suppress(StoppedError):
                kernel.run(cell, title)
                for output in filter(_is_error, cell.outputs):
                    text = f"{output.ename}: {output.evalue}"[:300].removesuffix(": ")
                    kernel.remarks.append(f"{title} ended with {text}.")
    return restored, verdicts


def _is_error(output: NotebookNode) -> bool:
    return output.output_type == "error"


def main(folder: Path) -> None:
    """Read the job in ``folder``, do it, and write ``folder/result.json``."""
    job = json.loads((folder / "job.json").read_text("utf8"))
    source, restored = (nbformat.from_dict(job[key]) for key in ("source", "restored"))
    os.chdir(folder / "given")
    sys.path.insert(0, "")
    kernel = Kernel(folder, Limits(**job["limits"]), isolated=job["isolated"])
    executed, verdicts = judge(source, restored, kernel)
    result = {
        "notebook": executed,
        "remarks": list(dict.fromkeys(kernel.remarks)),
        "tests": {name: vars(verdict) for name, verdict in verdicts.items()},
    }
    (folder / "result.json").write_text(json.dumps(result), "utf8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
