"""The results page says what the kept results say."""

import re

import pytest
from conftest import ROOT

from noisy_kd.report import keep

KEPT = sorted((ROOT / "results").glob("*.jsonl"))
PAGE = ROOT / "RESULTS.md"


@pytest.mark.parametrize("file", KEPT, ids=lambda file: file.stem)
def test_tables_are_made_of_the_kept_runs(file):
    text = keep.markdown(file)
    assert file.with_suffix(".md").read_text() == text
    page = PAGE.read_text()
    assert keep.with_part(page, file.stem, text) == page


def test_every_table_of_the_page_has_its_runs():
    named = re.findall(r"<!-- (?!end)(.*?) -->", PAGE.read_text()) if PAGE.exists() else []
    assert set(named) == {file.stem for file in KEPT}


@pytest.mark.parametrize("file", sorted((ROOT / "results").glob("*")), ids=lambda file: file.name)
def test_kept_files_are_small(file):
    assert file.stat().st_size < 400_000
