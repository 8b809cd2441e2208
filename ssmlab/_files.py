"""Write a file whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give another name to write under; the file takes its place when the block has ended well.

    Until then, and after an error in the block, what stood there stands there still.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "numbers.txt")
    ...     for text in ("1 2", "3 4"):
    ...         with replacing(path) as new:
    ...             _ = new.write_text(text)
    ...     path.read_text(), len(list(Path(folder).iterdir()))
    ('3 4', 1)
    """
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
