"""Names of people and files: one folder for each student, and nothing that harms a terminal."""

from __future__ import annotations

import unicodedata

LONGEST = 150  # bytes; file systems allow 255


def folder_name(text: str) -> str:
    r"""Return a student's name as the name of a folder; "" where nothing of it can stay.

    Letters of every script stay, with their marks, as do digits and ``_ . @ + -``; anything else
    becomes ``_``. The two ways to write an accent give one name.

    Two names can give one folder: whoever writes into it asks ``same_folder`` first.

    Examples
    --------
    >>> folder_name("Ada Lovelace_1234"), folder_name("Zoe\u0308/../x"), folder_name("..")
    ('Ada_Lovelace_1234', 'Zoë_.._x', '')
    """
    kept = (c if _stays(c) else "_" for c in unicodedata.normalize("NFC", text))
    name = unicodedata.normalize("NFC", "".join(kept)).strip("._")
    return name if len(name.encode()) <= LONGEST else ""


def same_folder(name: str) -> str:
    """Return a key that is equal for two names that some file system takes for one.

    Examples
    --------
    >>> same_folder("ADA") == same_folder("ada")
    True
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def printable(text: str) -> str:
    r"""Escape what would move the cursor, or cannot be written, as Python's ``repr`` does.

    Examples
    --------
    >>> print(printable("a\x1b[1A\ud83d" + "b"))
    a\x1b[1A\ud83db
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _stays(character: str) -> bool:
    return character in "_.@+-" or unicodedata.category(character)[0] in "LMN"
