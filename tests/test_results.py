"""The results page says what the kept results say."""

import re

import pytest
from conftest import ROOT

from noisy_kd.report import keep

KEPT = sorted((ROOT / "results").glob("*.jsonl"))
PAGE = ROOT / "RESULTS.md"
PAGES = [PAGE, ROOT / "README.md", *(file.with_suffix(".md") for file in KEPT)]


@pytest.mark.parametrize("file", KEPT, ids=lambda file: file.stem)
def test_tables_are_made_of_the_kept_runs(file):
    page = file.with_suffix(".md").read_text()
    table = keep.markdown(file)
    assert table in page
    assert keep.with_part(page, file.stem, table) == page


def test_the_overview_leads_to_every_page():
    links = set(re.findall(r"\(results/(\w+)\.md\)", PAGE.read_text()))
    assert links == {file.stem for file in KEPT}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_the_text_says_stands_in_a_table(page):
    """Each mean with its spread, and each difference with its interval."""
    tables = "\n".join(file.with_suffix(".md").read_text() for file in KEPT)
    text = _without_tables(page)
    text = re.sub(r"\s+", " ", text.replace("−", "-").replace(" points", ""))
    number = r"[+-]?\d+\.\d+"
    differences = re.findall(rf"({number}) \[({number}), ({number})\]", text)
    intervals = re.findall(r"\[[+-]", text)
    assert len(differences) == len(intervals)
    for mean, spread in re.findall(rf"({number}) ± ({number})", text):
        assert f"| {mean} ± {spread} |" in tables
    for mean, low, high in differences:
        assert f"{mean} [{low}, {high}]" in tables


@pytest.mark.parametrize("page", [PAGE, *PAGES[2:]], ids=lambda page: page.stem)
def test_sentences_are_short_and_cells_narrow(page):
    text = _without_tables(page)
    prose = re.sub(r"^(\||    |#|!).*$", "", text, flags=re.MULTILINE)
    prose = re.sub(r"```.*?```", "", prose, flags=re.DOTALL)
    for sentence in re.split(r"[.:;?!]\s|\n\n", prose):
        assert len(sentence.split()) <= 30, sentence
    for row in re.findall(r"^\|.*$", text, flags=re.MULTILINE):
        assert all(len(cell) <= 120 for cell in row.split("|"))


def _without_tables(page):
    return re.sub(r"<!-- (?!end)(.*?) -->.*?<!-- end -->", "", page.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("file", sorted((ROOT / "results").glob("*")), ids=lambda file: file.name)
def test_kept_files_are_small(file):
    assert file.stat().st_size < (200_000 if file.suffix == ".svg" else 400_000)
