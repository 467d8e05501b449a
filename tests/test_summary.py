"""The table that closes a run."""

import pytest

from noisy_kd.cli.summary import _against


@pytest.mark.parametrize(
    ("error", "words"), [(0.09, "10.0% fewer"), (0.1, "as many"), (0.11, "10.0% more")]
)
def test_a_run_is_compared_with_its_baseline(error, words):
    run = {"method": "noisy_teacher", "test_error": error}
    assert _against(run, {"test_error": 0.1}) == f"10.00% (this run: {words} errors)"
