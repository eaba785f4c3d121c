"""What --help says: a key=value in a list of options is the default, and no two examples write the same run."""

from __future__ import annotations

import importlib
import re

import pytest

from selfplay.commands import VERBS, iterate, play, reward_report, reward_train, sft, train
from selfplay.config import PlaySettings, resolve
from selfplay.iterate_settings import IterateSettings
from selfplay.reward_model.settings import FitSettings
from selfplay.sft_settings import SftSettings
from selfplay.train_settings import TrainSettings

# A key and its value; what stands for a value, such as FOLDER, is in capitals, and a weight belongs to its -r.
PAIR = re.compile(r"(?<![\w.:])([a-z_]+(?:\.[a-z_]+)*)=(?![A-Z])([^\s,;:()]+)")
SHORT_FOR = {"rm": "rm.refit"}  # of `iterate`
WITHOUT_DEFAULT = {"from"}  # of `sft`: it must be given


def options_of(usage: str) -> list[tuple[str, str]]:
    lines = usage.partition("Examples:")[0].splitlines()
    return PAIR.findall("\n".join(line for line in lines if line.startswith("  ")))


@pytest.mark.parametrize(
    ("command", "settings", "known"),
    [
        (train, TrainSettings, ("conversations", "12")),
        (iterate, IterateSettings, ("gold_noise", "0")),
        (sft, SftSettings, ("patience", "0")),
        (play, PlaySettings, ("best_of_unit", "conversation")),
        (reward_train, FitSettings, ("clamp", "1")),
        (reward_report, reward_report.ReportSettings, ("question", "interesting")),
    ],
)
def test_every_value_in_a_list_of_options_is_the_default(command, settings, known):
    options = options_of(command.USAGE)
    assert known in options
    usual = resolve(settings, []).model_dump()
    others = [
        f"{key}={value}"
        for key, value in options
        if key not in WITHOUT_DEFAULT
        and resolve(settings, [f"{SHORT_FOR.get(key, key)}={value}"]).model_dump() != usual
    ]
    assert others == []


def test_no_two_examples_write_the_same_run():
    usages = {importlib.import_module(module).USAGE for module, _ in VERBS.values()}
    lines = {line.strip() for usage in usages for line in usage.partition("Examples:")[2].splitlines()}
    found = [name for line in lines for name in re.findall(r"\bout=(runs/\S+)", line)]
    assert len(found) > 5
    assert [name for name in found if found.count(name) > 1] == []
