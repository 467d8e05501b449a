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


@pytest.mark.parametrize("page", [PAGE, ROOT / "README.md"], ids=lambda page: page.name)
def test_what_the_text_says_stands_in_a_table(page):
    """Each mean with its spread, and each difference with its interval."""
    tables = "\n".join(file.with_suffix(".md").read_text() for file in KEPT)
    text = re.sub(r"<!-- (?!end)(.*?) -->.*?<!-- end -->", "", page.read_text(), flags=re.DOTALL)
    text = re.sub(r"\s+", " ", text.replace("−", "-").replace(" points", ""))
    number = r"[+-]?\d+\.\d+"
    spreads = re.findall(rf"({number}) ± ({number})", text)
    differences = re.findall(rf"({number}) \[({number}), ({number})\]", text)
    intervals = re.findall(r"\[[+-]", text)
    assert spreads and differences and len(differences) == len(intervals)
    for mean, spread in spreads:
        assert f"| {mean} ± {spread} |" in tables
    for mean, low, high in differences:
        assert f"{mean} [{low}, {high}]" in tables


@pytest.mark.parametrize("file", sorted((ROOT / "results").glob("*")), ids=lambda file: file.name)
def test_kept_files_are_small(file):
    assert file.stat().st_size < (200_000 if file.suffix == ".svg" else 400_000)
