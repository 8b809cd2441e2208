"""What was handed in is found, whatever platform gave it; nobody's work is lost or exchanged."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook

from ssm_classroom.__main__ import main
from ssm_classroom.collect import collect, origin
from ssm_classroom.course import ClassroomError, Course
from ssm_classroom.names import folder_name, printable
from ssm_classroom.notebook import grade_id, read
from ssm_classroom.roster import read_roster
from ssm_classroom.times import instant, zone
from tiny import FIRST, QUIET, WRONG, answered, edited, released, without

pytestmark = QUIET
MINUTE = (2026, 3, 1, 12, 30, 0)
WORKSHEET = """\ufeffIdentifier,"Full name","Email address",Status,Grade,"Maximum Grade",\
"Last modified (submission)","Feedback comments"
"Participant 1234","Ada Lovelace",ada@uni.example,Submitted,,5.00,"Sunday, 1 March 2026, 1:30 PM",
"Participant 1235","Zoë Ng",zoe@uni.example,Submitted,,5.00,"Sonntag, 1. März 2026, 13:30",
"Participant 1236","Ben Abt",ben@uni.example,"No submission",,5.00,-,
"""
GRADEBOOK = """Student,ID,SIS User ID,SIS Login ID,Section,tiny (901)
"    Points Possible",,,,,5
"Wang, Wei",1001,,wei1,A,
"Wang, Wei",1002,,wei2,A,
"Student, Test",1009,,,A,
"""


def zipped(files: dict[str, NotebookNode | bytes], moment: tuple = MINUTE) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, content in files.items():
            raw = content if isinstance(content, bytes) else json.dumps(content)
            archive.writestr(zipfile.ZipInfo(name, moment), raw)
    return memory.getvalue()


def packed(path: Path, files: dict[str, NotebookNode | bytes]) -> Path:
    path.write_bytes(zipped(files))
    return path


def table(path: Path, text: str, encoding: str = "utf8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def first_answer(course: Course, student: str) -> str:
    cells = read(course.notebook("submitted", "tiny", student)).cells
    return next(cell.source for cell in cells if grade_id(cell) == "first_answer")


@pytest.mark.parametrize(
    ("path", "student", "file", "when"),
    [
        ("Ada L_1234_assignsubmission_file_/tiny.ipynb", "Ada_L_1234", "tiny", "time unknown"),
        (
            "export/Ada L_1234_assignsubmission_file_tiny.ipynb",
            "Ada_L_1234",
            "tiny",
            "time unknown",
        ),
        ("Zoë_7_assignsubmission_file/a/tiny.ipynb", "Zoë_7", "tiny", "time unknown"),
        ("lovelaceada_LATE_123_456_tiny-1.ipynb", "lovelaceada_123", "tiny-1", "LATE, says Canvas"),
        ("lovelaceada_123_456_My Work.ipynb", "lovelaceada_123", "My Work", "in time, says Canvas"),
        ("anon_Xy3dE_456_tiny.ipynb", "anon_Xy3dE", "tiny", "in time, says Canvas"),
        ("anon_12345_LATE_456_01_x.ipynb", "anon_12345", "01_x", "LATE, says Canvas"),
        ("anon_12345_456_01_x.ipynb", "anon_12345", "01_x", "in time, says Canvas"),
        ("Tiny_ada_l_attempt_2026-03-01-12-30-00_tiny.ipynb", "ada_l", "tiny", "03-01 11:30 UTC"),
        ("tiny_ada1_attempt_2026-03-01-12-30-00_tiny.ipynb", "ada1", "tiny", "03-01 11:30 UTC"),
        ("ada1/tiny.ipynb", "ada1", "tiny", "time unknown"),
        ("submitted/ada1/tiny/other.ipynb", "ada1", "other", "time unknown"),
        ("export/ada1/work/other.ipynb", "ada1", "other", "time unknown"),
    ],
)
def test_collect_knows_the_platforms(course, mine, tmp_path, path, student, file, when):
    given = packed(tmp_path / "export.zip", {path: released(course)})
    lines = collect(mine, "tiny", given, where=zone("+01:00"))
    assert lines[0].startswith(f"{student}: handed in")
    assert when in lines[0]
    assert (f"called {file}.ipynb" in lines[0]) == (file != "tiny")
    assert len(lines) == 1 + (when not in ("in time, says Canvas", "03-01 11:30 UTC"))
    assert read(mine.notebook("submitted", "tiny", student)).cells
    stamp = mine.place("submitted", "tiny", student) / "timestamp.txt"
    assert stamp.exists() == ("11:30" in when)
    assert not stamp.exists() or stamp.read_text() == "2026-03-01 11:30:00 UTC\n"


def test_every_file_that_is_not_used_is_named(course, mine, tmp_path):
    new = answered(course)
    files = {
        "ada/notes.ipynb": new_notebook(cells=[new_markdown_cell("shopping")]),
        "ada/tiny.ipynb": new,
        "../../evil/tiny.ipynb": new,
        "/evil/tiny.ipynb": new,
        "bob/tiny.ipynb": b"no notebook",
        "carl/all.zip": zipped({"work/tiny.ipynb": new, "work/._tiny.ipynb": b"x"}),
        "dora/all.zip": b"no zip",
        "emil/tiny.ipynb.txt": new,
        "fay/TINY.IPYNB": new,
        "gus/tiny.json": new,
        "ida/tiny.ipynb": new_notebook(cells=new.cells[:2]),
        "hal/tiny.pdf": b"%PDF",
        "hal/tiny.tar.gz": b"x",
        "__MACOSX/ada/tiny.ipynb": new,
        "loose.ipynb": new,
    }
    lines = collect(mine, "tiny", packed(tmp_path / "export.zip", files))
    assert "Left out, no student in its name: loose.ipynb" in lines
    assert "Left out, no student in its name: /evil/tiny.ipynb" in lines
    assert sum("evil" in line for line in lines) == 2
    assert "Left out, of the system: __MACOSX/ada/tiny.ipynb" in lines
    assert "dora: NO NOTEBOOK, handed in all.zip (a damaged zip)" in lines
    assert "hal: NO NOTEBOOK, handed in tiny.pdf (no notebook), tiny.tar.gz (no notebook)" in lines
    assert any("all.zip/work/._tiny.ipynb (of the system)" in line for line in lines)
    assert any("bob:" in line and "which is no notebook of this" in line for line in lines)
    assert any("ida:" in line and "with 2 of the 7 cells of this" in line for line in lines)
    assert any("ada:" in line and "notes.ipynb (not this assignment" in line for line in lines)
    there = [p.name for p in sorted((mine.root / "submitted").iterdir())]
    assert there == ["ada", "bob", "carl", "emil", "fay", "gus", "ida"]
    assert all(
        first_answer(mine, student) == FIRST for student in there if student not in ("bob", "ida")
    )
    assert not list(tmp_path.rglob("evil"))


def test_the_outer_file_says_whose_it_is(course, mine, tmp_path):
    forged, own = answered(course, WRONG), answered(course)
    inner = zipped(
        {"wangwei_1002_5002_tiny.ipynb": forged, "timestamp.txt": b"2025-01-01 00:00 UTC"}
    )
    export = {
        "wangwei_1001_5001_tiny.ipynb": own,
        "wangwei_1002_5002_tiny.ipynb": own,
        "mallory_1003_5003_hw.zip": inner,
        "mallory_1003_5004_x_ada_attempt_2026-03-01-12-30-00_y.ipynb": forged,
    }
    collect(mine, "tiny", packed(tmp_path / "canvas.zip", export))
    there = {p.name: first_answer(mine, p.name) for p in (mine.root / "submitted").iterdir()}
    assert there == {"wangwei_1001": FIRST, "wangwei_1002": FIRST, "mallory_1003": WRONG}
    collect(
        mine, "tiny", packed(tmp_path / "folders.zip", {"eve/a.zip": inner, "bob/x.ipynb": own})
    )
    assert {p.name for p in (mine.root / "submitted").iterdir()} == {*there, "eve", "bob"}


def test_a_name_with_the_number_of_another_is_refused(course, mine, tmp_path):
    roster = read_roster(table(tmp_path / "gradebook.csv", GRADEBOOK))
    export = {
        "wangwei_1001_5001_tiny.ipynb": answered(course),
        "wangwei_1001_5001_x_1002_5002_tiny.ipynb": answered(course, WRONG),
    }
    lines = collect(mine, "tiny", packed(tmp_path / "a.zip", export), roster=roster)
    assert sum("two students of the class could stand in its name" in line for line in lines) == 1
    assert first_answer(mine, "wangwei_1001") == FIRST


@pytest.mark.parametrize("names", [["a b", "a_b"], ["Ada", "ada"], ["Zoe\u0308", "Zo\u00eb"]])
def test_two_that_would_be_one_are_both_left_out(course, mine, tmp_path, names):
    export = {f"{name}/tiny.ipynb": answered(course) for name in [*names, "eve"]}
    lines = collect(mine, "tiny", packed(tmp_path / "a.zip", export))
    (line,) = (line for line in lines if "NOT COLLECTED" in line)
    assert all(repr(name) in line for name in names)
    assert [p.name for p in (mine.root / "submitted").iterdir()] == ["eve"]
    for name in names:  # one after the other is no better
        lines = collect(mine, "tiny", packed(tmp_path / "b.zip", {f"{name}/t.ipynb": b"{}"}))
    assert ("NOT COLLECTED" in lines[0]) == (names[0] != "Zoe\u0308")  # one spelling of one name


def test_one_students_zip_stops_nobody(course, mine, tmp_path):
    good, bomb = answered(course), zipped({f"{k}.txt": b"" for k in range(1001)})
    deep = zipped({"tiny.ipynb": good})
    for _ in range(4):
        deep = zipped({"a.zip": deep})
    undated = bytearray(zipped({"tiny.ipynb": good}))
    central = undated.index(b"PK\x01\x02")
    undated[10:14] = undated[central + 12 : central + 16] = bytes(4)  # month 0, as Go writes
    export = {
        "a/x.zip": bytes(undated),
        "b/x.zip": zipped({"n" * 300 + ".ipynb": good}),
        "c/x.zip": zipped({"a.ipynb": good, "a.ipynb/b.ipynb": good}),
        "d/x.zip": zipped({"f/" * 2500 + "t.ipynb": good}),
        "e/x.zip": bomb,
        "f/x.zip": deep,
        "g/x.zip": zipped({}),
        "h/tiny.ipynb": good,
    }
    lines = collect(mine, "tiny", packed(tmp_path / "a.zip", export))
    there = [p.name for p in sorted((mine.root / "submitted").iterdir())]
    assert there == ["a", "b", "c", "d", "h"]
    for reason in ("too much in it", "too many zips", "an empty zip"):
        assert any(reason in line for line in lines)


def test_links_and_pipes_are_not_followed(course, mine, tmp_path):
    for name in ("ada", "bob", "eve"):
        (tmp_path / "in" / name).mkdir(parents=True)
    (tmp_path / "in" / "ada" / "tiny.ipynb").write_text(json.dumps(answered(course)))
    (tmp_path / "in" / "bob" / "tiny.ipynb").symlink_to(mine.notebook("source", "tiny"))
    (tmp_path / "in" / "bob" / "all").symlink_to(mine.root)
    os.mkfifo(tmp_path / "in" / "eve" / "tiny.ipynb")
    lines = collect(mine, "tiny", tmp_path / "in")
    assert (
        "bob: NO NOTEBOOK, handed in all (a link, not a file), tiny.ipynb (a link, not"
        in "".join(lines)
    )
    assert "eve: NO NOTEBOOK, handed in tiny.ipynb (no plain file)" in lines
    assert [p.name for p in (mine.root / "submitted").iterdir()] == ["ada"]


def test_the_newest_that_is_the_assignment_and_begun_counts(course, mine, tmp_path):
    shutil.copytree(course.root / "release", mine.root / "release")
    new = without(answered(course), "task")  # one cell less than the older one
    export = {
        "ada_1_21_tiny.ipynb": answered(course, WRONG),
        "ada_1_22_tiny-1.ipynb": new,
        "ada_1_23_tiny-2.ipynb": released(course),
        "ada_1_24_tiny-3.ipynb": new_notebook(cells=[new_markdown_cell("another")]),
    }
    (line,) = collect(mine, "tiny", packed(tmp_path / "a.zip", export))
    assert first_answer(mine, "ada_1") == FIRST
    assert "tiny-2.ipynb (as released)" in line
    assert "tiny.ipynb (an older version)" in line
    written = edited(released(course), "why", source="Because.")
    collect(mine, "tiny", packed(tmp_path / "a.zip", {**export, "ada_1_25_tiny-4.ipynb": written}))
    assert first_answer(mine, "ada_1") != FIRST


def test_moodles_worksheet_gives_names_and_times(course, mine, tmp_path):
    roster = read_roster(table(tmp_path / "w.csv", WORKSHEET), zone("Europe/Berlin"))
    new = answered(course)
    export = {
        "Ada Lovelace_1234_assignsubmission_file_/tiny.ipynb": new,
        "Ada Lovelace_1234_assignsubmission_file_/timestamp.txt": b"2025-01-01 00:00:00 UTC",
        "Zoë Ng_1235_assignsubmission_file_/tiny.ipynb": new,
        "Eve_9_assignsubmission_file_/tiny.ipynb": new,
    }
    lines = collect(mine, "tiny", packed(tmp_path / "a.zip", export), roster=roster)
    assert "ada@uni.example: handed in 2026-03-01 12:30 UTC" in lines[0] + lines[1]
    assert "zoe@uni.example: handed in, time unknown" in lines
    assert "Not in the roster: Eve_9" in lines
    assert "No submission from: Ben Abt" in lines
    assert lines[-1].startswith("Unknown times count as in time.")


def test_your_own_table_gives_times_and_blackboards_its_users(course, mine, tmp_path):
    own = "id,name,time\nada,Ada,2026-03-01 13:30:00+01:00\nben,Ben,\n"
    roster = read_roster(table(tmp_path / "class.csv", own))
    (tmp_path / "in" / "ada").mkdir(parents=True)
    (tmp_path / "in" / "ben").mkdir(parents=True)
    for student in ("ada", "ben"):
        path = tmp_path / "in" / student / "tiny.ipynb"
        path.write_text(json.dumps(answered(course)))
        moment = datetime(2026, 3, 2, 8, tzinfo=UTC).timestamp()
        os.utime(path, (moment, moment))
    (tmp_path / "in" / "ben" / "timestamp.txt").write_text("2026-02-01 00:00:00 UTC")
    lines = collect(mine, "tiny", tmp_path / "in", roster=roster)
    assert lines[0] == "ada: handed in 2026-03-01 12:30 UTC"
    assert lines[1].startswith("ben: handed in 2026-03-02 08:00 UTC; not used: timestamp.txt")
    assert lines[2] == "Everybody in the roster handed in."
    users = 'Last Name\tFirst Name\tUsername\tTiny [Total Pts: 5 Score] |77\n"L"\t"A"\t"a_l"\t\n'
    roster = read_roster(table(tmp_path / "bb.xls", users, "utf-16"))
    path = "HW_1_tiny_a_l_attempt_2026-03-01-12-30-00_tiny.ipynb"
    lines = collect(mine, "tiny", packed(tmp_path / "b.zip", {path: b"{}"}), roster=roster)
    assert lines[0].startswith("a_l: handed in, time unknown")


def test_times_without_a_zone_or_with_a_guess_are_unknown():
    berlin = zone("Europe/Berlin")
    assert instant("2026-99-99 00:00:00", berlin) is None
    assert instant("30.11.2026 22:15 CET", berlin) is None
    assert instant("2026-11-30 22:15", None) is None
    late = datetime(2026, 11, 30, 21, 15, tzinfo=UTC)
    for text in ("30 November 2026, 10:15\u202fPM", "2026-11-30 22:15", "2026-11-30-22-15-00"):
        assert instant(text, berlin) == late
    with pytest.raises(ClassroomError, match="zone must be a name"):
        zone("Atlantis")


STUDENT = st.text(
    st.characters(exclude_characters="/\\\0", exclude_categories=["Cs"]), min_size=1, max_size=8
)
UPLOADS = (
    "tiny.ipynb",
    "ada_1_2_t.ipynb",
    "T_ada_attempt_2026-03-01-12-30-00_t.ipynb",
    "b/tiny.ipynb",
    "x.zip",
    "Ada_1_assignsubmission_file_/t.ipynb",
    "../ada/tiny.ipynb",
    "ada/timestamp.txt",
)
UPLOAD = st.sampled_from(UPLOADS)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    class_=st.lists(
        st.tuples(STUDENT | st.sampled_from(["Ada", "ada", "a b", "a_b", ".."]), UPLOAD, UPLOAD),
        min_size=2,
        max_size=5,
        unique_by=lambda one: one[0],
    ),
    platform=st.sampled_from(["folders", "Moodle", "Canvas"]),
)
def test_any_class_is_told_apart_or_refused(course, class_, platform):
    with TemporaryDirectory() as temporary:
        root = Path(temporary)
        shutil.copytree(course.root / "source", root / "course" / "source")
        mine, export, prefixes = Course(root / "course"), {}, []
        for number, (name, *uploaded) in enumerate(class_):
            work = answered(course, f"{FIRST}  # {number}")
            letters = "".join(c for c in name if c.isalnum()) or "x"
            prefix = {
                "folders": f"{name}/",
                "Moodle": f"{name.replace('_', ' ')}_{number}_assignsubmission_file_/",
                "Canvas": f"{letters}_{number}_7{number}_",
            }[platform]
            for upload in uploaded:
                path = upload.replace("/", "_") if platform == "Canvas" else upload
                content = {UPLOADS[1]: work, UPLOADS[6]: work}
                export[prefix + path] = zipped(content) if path.endswith(".zip") else work
            prefixes.append(prefix)
        try:
            lines = collect(mine, "tiny", packed(root / "a.zip", export))
        except ClassroomError:
            return  # refused as a whole, in a sentence
        found = {}
        for student in mine.students("submitted", "tiny"):
            number = int(first_answer(mine, student).rpartition("#")[2])
            assert origin(mine, "tiny", student)["prefix"] == prefixes[number]
            assert found.setdefault(number, student) == student
        for number in set(range(len(class_))) - set(found):
            signs = (
                prefixes[number],
                repr(class_[number][0]),
                folder_name(class_[number][0]) + ": NO",
            )
            assert any(printable(sign) in line for sign in signs for line in lines)


def test_collect_says_what_is_wrong(course, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    command = ["collect", "--course", str(course.root)]
    empty = str(tmp_path / "empty")
    nested = packed(tmp_path / "n.zip", {"all/a/t/x.ipynb": b"", "all/b/t/x.ipynb": b""})
    forged = packed(tmp_path / "f.zip", {"mallory/smithbob_1002_5002_x.ipynb": b""})
    for arguments, words in [
        (["tiny", empty], "given must hold a student's notebook; got none in"),
        (["tiny", str(tmp_path / "missing.zip")], "given must be a folder or a zip; got"),
        (["huge", empty], "(tiny); got 'huge'"),
        (["tiny", empty, "--pattern", "("], "pattern must be a regular expression; got '('"),
        (["tiny", empty, "--pattern", ".*"], "pattern must have a group (?P<student>...)"),
        (["tiny", empty, "--zone", "Mars"], "zone must be a name such as Europe/Berlin"),
        (["tiny", empty, "--roster", empty], "roster must be a table in UTF-8"),
        (["tiny", str(forged)], "got one folder, 'mallory', which may be a student"),
        (["tiny", str(nested)], "got one folder, 'all', which may be a student"),
    ]:
        assert main([*command, *arguments]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "with a column id; got"),
        ("id,name\n", "roster must name somebody"),
        ("id\nada\nben\nAda\n", "got 'ada' in line 2 and 'Ada' in line 4"),
    ],
)
def test_a_table_that_is_no_class_is_refused(tmp_path, text, words):
    with pytest.raises(ClassroomError, match=words):
        read_roster(table(tmp_path / "t.csv", text))


def test_what_cannot_be_read_or_written_stops_nobody(course, mine, tmp_path, monkeypatch):
    monkeypatch.setattr("ssm_classroom.uploads.LARGEST_FILE", 100_000)
    good = json.dumps(answered(course)).encode()
    export = {
        "ada/tiny.ipynb": good,
        "ben/tiny.ipynb": good.replace(b"Double", b"DAMAGE"),
        "eve/tiny.ipynb": good,
        "zoe/tiny.ipynb": b" " * 100_001,
    }
    path = packed(tmp_path / "a.zip", export)
    path.write_bytes(path.read_bytes().replace(b"DAMAGE", b"damage"))  # the checksum tells
    (mine.root / "submitted").mkdir()
    (mine.root / "submitted" / "eve").write_text("in the way")
    lines = collect(mine, "tiny", path)
    assert lines[1].startswith("ben: NO NOTEBOOK, handed in tiny.ipynb (cannot be read (Bad CRC-32")
    assert lines[2].startswith("eve: NOT COLLECTED, [Errno")
    assert lines[3] == "zoe: NO NOTEBOOK, handed in tiny.ipynb (too large, 0 MB)"
    assert mine.students("submitted", "tiny") == ["ada"]
