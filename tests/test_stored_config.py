import math
import time

import pytest

from selfplay.config import to_yaml
from selfplay.curves import settings_of
from selfplay.errors import UserError
from selfplay.stored_config import MOST_BYTES, config_from_text, read_stored_config
from selfplay.train_settings import TrainSettings
from selfplay.view.describe import _number
from selfplay.written import read_source

NINE_TIMES = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
ALIASES = "\n".join(["a0: &a0 [x, x, x]", *NINE_TIMES, "rewards: *a11", "last: 1"])
MERGES = "\n".join(
    ["a0: &a0 {k: 1, l: 2}"]
    + [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 9)]
    + ["rewards: {<<: *a8, short: 0.5}"]
)


def num_values(value):
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(num_values, inside))


def test_config_is_read_as_yaml_says_it():
    text = "a: 1\nb: [1.5, yes, ~, '7', 0x10]\nc: {d: x, 5: &n [y], true: *n}\ne: 2001-99-99\nf: |\n  two\n  lines\n"
    assert config_from_text(text) == {
        "a": 1,
        "b": [1.5, True, None, "7", 16],
        "c": {"d": "x", "5": ["y"], "true": ["y"]},
        "e": "2001-99-99",
        "f": "two\nlines\n",
    }


def test_config_that_a_run_stores_is_read_whole():
    settings = TrainSettings()
    read = config_from_text(to_yaml(settings))
    assert read.keys() == settings.model_dump().keys()
    assert read["alarms"]["verifiable"] == list(settings.alarms.verifiable)
    assert read["engine"]["max_batch"] == settings.engine.max_batch


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text", "[", "\x00", "!!python/object:os.x {"])
def test_config_that_is_no_mapping_is_empty(text):
    assert config_from_text(text) == {}


def test_config_is_read_up_to_what_is_no_yaml():
    assert config_from_text("a: 1\nb: {c: 2\nd: 3") == {"a": 1}
    assert config_from_text("a: 1\n---\na: 2") == {"a": 1}


def test_config_that_repeats_itself_without_end_stays_small():
    begun = time.perf_counter()
    read = config_from_text(ALIASES)
    assert time.perf_counter() - begun < 2
    assert read["a2"] == [[["x"] * 3] * 9] * 9
    assert read["last"] == 1
    assert num_values(read) < 100_000  # of 3 * 9 ** 11
    assert config_from_text("a: *nobody") == {"a": None}


def test_config_never_merges():
    begun = time.perf_counter()
    assert config_from_text(MERGES)["rewards"] == {"short": 0.5}
    assert time.perf_counter() - begun < 2


@pytest.mark.parametrize("deep", ["[" * 50_000, "{a: " * 50_000, "- " * 50_000])
def test_config_that_nests_without_end_is_read_up_to_there(deep):
    begun = time.perf_counter()
    assert config_from_text(f"a: 1\nb:\n {deep}") == {"a": 1}
    assert time.perf_counter() - begun < 2


def test_aliases_cannot_nest_more_deeply_than_what_is_written():
    nested = "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 100))])
    value, depth = config_from_text(nested)["a99"], 0
    while isinstance(value, list):
        value, depth = value[0], depth + 1
    assert depth <= 50


def test_value_inside_itself_is_nothing_there():
    assert config_from_text("a: &r {b: *r, c: 1}") == {"a": {"b": None, "c": 1}}


def test_numbers_that_are_not_finite_are_null():
    numbers = [".inf", "-.inf", ".nan", "0x" + "f" * 6000, "9" * 6000, "9" * 390, "1" + "0" * 500 + ".0"]
    assert config_from_text(f"a: [{', '.join(numbers)}, 2]")["a"] == [None] * 7 + [2]


def test_number_that_is_too_large_is_unknown_on_the_overview():
    assert _number(16**6000) is None
    assert _number(2) == 2


def test_only_the_beginning_of_a_large_file_is_read(tmp_path):
    (tmp_path / "config.yaml").write_text("a: 1\nb: " + "x" * MOST_BYTES + "\nc: 3\n")
    assert read_stored_config(tmp_path)["a"] == 1
    assert "c" not in read_stored_config(tmp_path)
    assert read_stored_config(tmp_path / "nowhere") == {}


def test_settings_of_a_run_that_repeats_itself_or_is_too_large_are_unknown():
    begun = time.perf_counter()
    assert settings_of(ALIASES) == settings_of("a: " + "x" * MOST_BYTES) == settings_of("a: &r [*r]") == {}
    assert settings_of("kl: &k {target: 0.5}\nalso: *k") == {"kl.target": 0.5, "also.target": 0.5}
    assert time.perf_counter() - begun < 2
    with pytest.raises(UserError, match=r"my\.yaml: its aliases"):
        read_source("my.yaml", ALIASES)


def test_every_number_of_a_config_is_finite():
    read = config_from_text("a: [1e400, 1.0e+400, -1.0e+999, 1_0]")
    assert all(isinstance(value, str) or value is None or math.isfinite(value) for value in read["a"])
