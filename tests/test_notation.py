import pytest

from noisy_kd.config import named_networks
from noisy_kd.errors import InputError
from noisy_kd.model.notation import Conv, Dropout, Full, Pool, notation, parse, with_classes
from noisy_kd.model.notation import with_dropout as dropped


@pytest.mark.parametrize("text", sorted(named_networks()))
def test_every_network_is_printed_as_it_was_read(text):
    assert notation(parse(text)) == text


def test_brackets_and_blanks_mean_nothing():
    with_them = parse(" [C5(S1P2)@64-MP2(S2)] - FC1024- FC10")
    assert with_them == parse("C5(S1P2)@64-MP2(S2)-FC1024-FC10")
    assert with_them == (Conv(5, 1, 2, 64), Pool("MP", 2, 2), Full(1024), Full(10))
    assert parse("D0.5-FC3")[0] == Dropout(0.5)


@pytest.mark.parametrize(
    ("text", "position", "what"),
    [
        ("", 1, "missing"),
        ("FC10-", 6, "missing"),
        ("FC10--FC3", 6, "not a layer"),
        ("[C5(S1P2)@64", 1, "never closed"),
        ("C5(S1P2)@64-FC10]", 17, "expected '-'"),
        ("[[C5(S1P2)@64]]", 2, "not a layer"),
        ("C5@64-FC10", 1, "not a layer"),
        ("C5(S1P2)@64FC10", 12, "expected '-'"),
        ("FC10x", 5, "expected '-'"),
        ("fc10", 1, "not a layer"),
        ("FC0", 1, "at least 1"),
        ("C5(S0P2)@64-FC10", 1, "at least 1"),
        ("D1-FC10", 1, r"\[0, 1\)"),
        ("MP2(S2)", 1, "at least one C or FC"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_position(text, position, what):
    with pytest.raises(InputError, match=rf"position {position}: .*{what}"):
        parse(text)


def test_classes_replace_the_last_c_or_fc():
    assert notation(with_classes(parse("FC800-FC10"), 7)) == "FC800-FC7"
    assert notation(with_classes(parse("[C1(S1P0)@10]-AP8(S1)"), 7)) == "[C1(S1P0)@7]-AP8(S1)"


def test_dropout_follows_the_last_hidden_fc():
    assert notation(dropped(parse("FC800-FC10"), 0.3)) == "FC800-D0.3-FC10"
    with pytest.raises(InputError, match="no hidden FC"):
        dropped(parse("[C5(S1P2)@4]-FC10"), 0.3)
