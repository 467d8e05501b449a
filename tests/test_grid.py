"""Which runs are trained side by side, and how they share the devices."""

from pathlib import Path

import pytest
from conftest import composed

from noisy_kd.sweep.grid import Part, groups, shared_out


def parts_of(*sizes, max_stack=None):
    config = composed(*[f"max_stack={max_stack}"] * bool(max_stack))
    return [Part([config] * n, [Path(f"{i}-{k}") for k in range(n)]) for i, n in enumerate(sizes)]


def sizes(parts):
    return [len(part) for part in parts]


@pytest.mark.parametrize(
    "key, values",
    [
        ("method.alpha", (0, 0.5)),
        ("method.sigma", (0, 0.5)),
        ("seed", (1, 2)),
        ("student.dropout", (0, 0.5)),
        ("optimizer.lr", (0.1, 0.5)),
        ("optimizer.weight_decay", (0, 0.5)),
    ],
)
def test_stackable_keys_share_a_group(key, values):
    configs = [composed(f"{key}={value}") for value in values]
    assert sizes(groups(configs, [Path("a"), Path("b")])) == [2]


@pytest.mark.parametrize(
    "other",
    [
        "trainer.max_epochs=7",
        "data.subset=100",
        "data.batch_size=32",
        "method=noisy_student",
        "method.noise_per=batch",
        "student.layers=FC9-FC10",
        "teacher.seed=5",
        "optimizer.schedule=cosine",
    ],
)
def test_other_keys_make_another_group(other):
    configs = [composed(), composed("seed=2"), composed(other)]
    assert sizes(groups(configs, [Path("a"), Path("b"), Path("c")])) == [2, 1]


@pytest.mark.parametrize(
    "wholes, devices, expected",
    [
        ((11,), 1, [11]),
        ((11,), 2, [6, 5]),
        ((11, 11), 2, [11, 11]),
        ((11, 11, 11), 2, [6, 6, 6, 5, 5, 5]),
        ((55,), 4, [14, 14, 14, 13]),
        ((1, 1, 1), 8, [1, 1, 1]),
        ((3,), 8, [1, 1, 1]),
        ((4,), 1, [4]),
    ],
)
def test_devices_are_evenly_busy_with_the_largest_parts(wholes, devices, expected):
    assert sizes(shared_out(parts_of(*wholes), devices)) == expected


def test_max_stack_bounds_a_part():
    assert sizes(shared_out(parts_of(11, max_stack=4), 1)) == [4, 4, 3]


def test_a_part_splits_into_all_its_runs():
    (part,) = parts_of(7)
    split = part.split(3)
    assert [place for third in split for place in third.directories] == part.directories
    assert sizes(part.split(99)) == [1] * 7
