"""The page "what works with what": each column of the CPU is what its checks say now."""

from __future__ import annotations

import json

import pytest
import works_with_page as page

STORED = page.PAGE.read_text("utf8")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("column", page.works_with.COLUMNS)
def test_a_column_is_what_its_checks_say(column):
    stored = {at: outcome for at, outcome in page.read(STORED).items() if at[1] == column}
    assert page.on_the_cpu([column]) == stored


def test_the_page_is_what_its_script_writes():
    of_cpu = {at: cell for at, cell in page.read(STORED).items() if page.ON_GPUS not in at[1]}
    of_gpus, where = page.on_gpus()
    assert page.written(of_cpu | of_gpus, where) == STORED


def test_a_model_works_where_each_of_its_mixers_does(tmp_path):
    made = {"device": "A GPU", "date": "2026-11-27", "packages": {}, "commit": None, "dirty": None}
    checks = [
        {"feature": "FSDP", "case": f"LanguageModel, {mixer}", "outcome": outcome}
        for mixer, outcome in (("s4", "yes"), ("rwkv", "E: the error is 3e-2"), ("lru", "yes"))
    ]
    checks += [{"feature": "scan", "case": "batch 65,536", "outcome": "yes"}]
    record = tmp_path / "record.json"
    data = {"provenance": made, "results": {"gpus": 2, "checks": checks}}
    record.write_text(json.dumps(data))
    cells, where = page.on_gpus(record)
    assert cells == {
        ("LanguageModel", "FSDP (GPU)"): "rwkv: E: the numbers are wrong",
        ("batch 65,536", "scan (GPU)"): "yes",
    }
    written = page.written(cells, where)
    assert "on 2 of A GPU, 2026-11-27" in written
    assert page.read(written) == cells
