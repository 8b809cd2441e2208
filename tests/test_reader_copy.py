"""What `make lab` and the first page's zip give a reader; a reader's changes stay."""

from __future__ import annotations

import json
from zipfile import ZipFile

import pytest
import reader_copy


@pytest.fixture
def packed(tmp_path):
    """A zip of two files, as the built book has one."""

    def pack(**files: str):
        path = tmp_path / "ssmlab-chapters.zip"
        with ZipFile(path, "w") as target:
            for name, text in files.items():
                target.writestr(f"ssmlab-chapters/{name.replace('__', '/')}", text)
        return path

    return pack


def test_second_time_brings_what_is_new_and_keeps_what_was_changed(packed, tmp_path):
    lab = tmp_path / "lab"
    lab.mkdir()
    first = packed(one="old", two="old", experiments__three="old")
    assert reader_copy.unpack(first, lab) == []
    (lab / "two").write_text("mine")
    (lab / "four").write_text("mine")
    second = packed(one="new", two="new", experiments__three="new", four="new")
    assert reader_copy.unpack(second, lab) == ["two", "four"]
    assert [(lab / name).read_text() for name in ("one", "two", "experiments/three", "four")] == [
        "new",
        "mine",
        "new",
        "mine",
    ]
    (lab / "two").unlink()
    assert reader_copy.unpack(second, lab) == ["four"]
    assert (lab / "two").read_text() == "new"


def test_packs_chapters_with_their_records(tmp_path, monkeypatch):
    for name in ("_build/html/_sources/book/01_a.ipynb", "book/01_a.ipynb"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    for name in ("a.json", "a.py", "a_model/model.safetensors", "__pycache__/a.pyc"):
        path = tmp_path / "book" / "experiments" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    monkeypatch.setattr(reader_copy, "ROOT", tmp_path)
    monkeypatch.setattr(reader_copy, "HTML", tmp_path / "_build" / "html")
    reader_copy.pack(tmp_path / "z.zip")
    with ZipFile(tmp_path / "z.zip") as packed:
        assert sorted(packed.namelist()) == [
            "z/01_a.ipynb",
            "z/experiments/a.json",
            "z/experiments/a.py",
            "z/experiments/a_model/model.safetensors",
        ]
        assert packed.read("z/01_a.ipynb").decode().startswith("_build")


def test_lab_is_started_without_what_only_makers_need():
    settings = reader_copy.ROOT / "tools" / "jupyter" / "labconfig" / "page_config.json"
    assert json.loads(settings.read_text())["disabledExtensions"]["@jupyter/nbgrader"]
