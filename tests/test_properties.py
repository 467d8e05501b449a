"""What holds for every notation, number, path and configuration: drawn by hypothesis."""

import math
from pathlib import Path

import torch
from commands import command as command_here
from conftest import SHORT, composed
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from noisy_kd.cli.arguments import for_hydra
from noisy_kd.errors import InputError
from noisy_kd.model import notation
from noisy_kd.runs.identity import config_hash
from noisy_kd.training import stages

SETTINGS = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SMALL = st.integers(1, 99)
LAYERS = st.one_of(
    st.builds(notation.Conv, SMALL, SMALL, st.integers(0, 9), SMALL),
    st.builds(notation.Pool, st.sampled_from(["MP", "AP"]), SMALL, SMALL),
    st.builds(notation.Full, SMALL),
    st.builds(notation.Dropout, st.sampled_from([0.05, 0.5, 0.75])),
)
TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1)


@SETTINGS
@given(st.lists(LAYERS, min_size=1).map(tuple))
def test_every_network_is_read_as_it_is_written(layers):
    layers = (*layers, notation.Full(10))
    assert notation.parse(notation.notation(layers)) == layers


@SETTINGS
@given(st.text("C5(S1P2)@64-[]MFD. 0", max_size=40) | TEXT)
def test_any_text_is_a_network_or_is_refused_with_its_position(text):
    try:
        layers = notation.parse(text)
    except InputError as error:
        assert "position" in str(error)
    else:
        assert notation.parse(notation.notation(layers)) == layers


@settings(SETTINGS, max_examples=20)
@given(
    st.sampled_from(["method.sigma", "method.alpha", "optimizer.lr", "seed", "data.batch_size"]),
    st.floats(allow_subnormal=False)
    | st.integers()
    | st.from_regex(r"[-+0-9.eE_xinfa]{1,9}", fullmatch=True),
)
def test_any_number_is_taken_or_refused_in_one_line(key, value):
    done = command_here("describe", f"{key}={value}")
    assert done.code in (0, 2)
    if done.code == 2:
        (line,) = done.stderr.strip().splitlines()
        assert key in line
    elif isinstance(value, float):
        assert math.isfinite(value)


@settings(SETTINGS, max_examples=300)
@given(st.sampled_from(["data.root", "store", "teacher.checkpoint", "hydra.run.dir"]), TEXT)
def test_any_path_reaches_hydra_as_it_was_typed(key, path):
    if path[0] in "'\"" or path == "null" or "$" in path:  # which Hydra and OmegaConf read
        return
    (argument,) = for_hydra([f"{key}={path}"])
    override = OverridesParser.create().parse_override(argument)
    assert override.value() == path


CHOICES = {
    "teacher.seed": (1, 2),
    "teacher.layers": ("FC20-FC10", "FC24-FC10"),
    "teacher.lr": (0.001, 0.01),
    "data.seed": (0, 1),
    "data.val_size": (180, 200),
    "data.subset": (150, 200),
    "teacher.augment": ("none", "crops"),
    "data.augment": ("none", "crops"),
}
"""Settings that decide a teacher or its logits."""

DRAWN = st.fixed_dictionaries({key: st.sampled_from(values) for key, values in CHOICES.items()})


def _config(drawn, store):
    chosen = [f"{key}={value}" for key, value in drawn.items() if key != "data.augment"]
    views = ["data.augment=crops", "data.views=2"] if drawn["data.augment"] == "crops" else []
    return composed(*SHORT, "teacher.subset=100", *chosen, *views, f"store={store}")


@settings(SETTINGS, max_examples=6, phases=[Phase.generate])
@given(
    st.lists(
        DRAWN, min_size=2, max_size=3, unique_by=lambda one: tuple(one[key] for key in CHOICES)
    )
)
def test_no_teacher_and_no_logits_of_another_configuration_are_used(tmp_path_factory, drawn):
    shared, place = tmp_path_factory.mktemp("shared"), tmp_path_factory.mktemp("place")
    configs = [_config(one, shared) for one in drawn]
    assert len(set(map(config_hash, configs))) == len(configs)
    for one, config in zip(drawn, configs, strict=True):
        logits = []
        for store_config in (config, _config(one, tmp_path_factory.mktemp("own"))):
            taught = stages.teacher_outputs(stages.prepare([store_config]), Path(place))
            logits.append((taught.train_logits, taught.test_logits))
        assert torch.equal(logits[0][0], logits[1][0])
        assert torch.equal(logits[0][1], logits[1][1])
