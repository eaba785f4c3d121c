"""`selfplay reward`: start a reward of one's own, find out what one is worth, or train one from preferences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rewards import REWARDS
from selfplay.commands import reward_report, reward_train
from selfplay.commands.building import MIX, build_rewards, chosen_rewards
from selfplay.commands.terminal import one_line, open_console, plural
from selfplay.commands.words import CommandLine, program_name
from selfplay.dialog import Conversation
from selfplay.errors import UserError
from selfplay.interfaces import Reward
from selfplay.new_reward import write_reward
from selfplay.plugins import installed_plugins
from selfplay.reward_attacks import ATTACKS, ordinary_conversations
from selfplay.reward_report import MixedReward, RewardReport, report_on
from selfplay.score import has_failed, reads_tokens
from selfplay.store import RUNS, RunReader, find_run
from selfplay.train_settings import RewardSpec
from selfplay.written import nearest, value_of_word

__all__ = ["SUMMARY", "USAGE", "run", "usage"]

SUMMARY = "start a reward of your own, test one, or train one from preferences"
USAGE = """
selfplay reward new NAME [out=FOLDER]
selfplay reward test NAME | FILE.py:NAME | mix:NAME | rm:PATH [on=RUN] [key=value ...] [--json]
selfplay reward train DATA ... [key=value ...] [--dry-run] [--json]
selfplay reward report RM [on=DATA] [key=value ...] [--json]

new writes NAME.py, a reward to change, and test_NAME.py, its test.  test says what a reward does before anything is
trained with it: whether it keeps its contract (shapes, finite numbers, the same answer twice and in any order) and its
declared range, how long it takes, which of a set of dialogs that nobody wants it pays more than ordinary chats, and
what it goes along with.  Exit status 1: the contract or the range is broken.  Attacks that win are only told.

  out=FOLDER   where new writes (default: here)
  on=RUN       chats to compare with: a run's conversations, the newest 500 (default: 12 built-in chats)
  runs=FOLDER  where runs are kept (default: runs)
  key=value    settings of the reward
  --json       print all of it as JSON

train makes a reward model from what was preferred to what, and ends with its report.  report measures one again.
Their settings: selfplay reward train --help, selfplay reward report --help.

Examples:
  selfplay reward new asks_back
  selfplay reward test asks_back.py:asks_back
  selfplay reward test question form=way_off_policy
  selfplay reward test mix:vhrl on=my-run
  selfplay reward train helpful.jsonl.gz out=reward_models/helpful
  selfplay reward report helpful on=other.jsonl
"""
BROKEN = 1
# What may follow, with what it needs; the last two are in modules of their own.
SUBWORDS = {
    "new": "the name of a reward, as in `reward new asks_back`",
    "test": "the name of a reward, as in `reward test question`",
    "train": "data, as in `reward train pairs.jsonl`; --help says what it may be",
    "report": "a reward model, as in `reward report reward_models/pairs`",
}
NEWEST = 500  # conversations of a run
MOST_ATTACKS, MOST_CORRELATIONS, MOST_OUTSIDE = 12, 8, 3  # that are shown
SETTINGS_OF_WEIGHTS = ("weight", "gate", "role", "name")


def usage(line: CommandLine) -> str:
    """Return what --help prints after these words: of train and of report their own part."""
    subword = line.words[0] if line.words else ""
    return {"train": reward_train.USAGE, "report": reward_report.USAGE}.get(subword, USAGE)


def run(line: CommandLine) -> int:
    """Do what the words say; return 0, or 1 if a reward that was tested is broken."""
    subword = line.words[0] if line.words else ""
    if subword not in SUBWORDS:
        said = f"{subword!r} is no part of reward{nearest(subword, list(SUBWORDS))}" if subword else "say what to do"
        raise UserError(
            f"{said}; expected `reward new NAME`, `reward test NAME`, `reward train DATA` or `reward report RM`"
        )
    if len(line.words) < 2 or not line.words[1]:
        raise UserError(f"reward {subword} needs {SUBWORDS[subword]}")
    if line.dry_run and subword != "train":
        raise UserError(f"--dry-run means nothing to reward {subword}")
    if subword == "new":
        return _new(line)
    if subword == "test":
        return _test(line)
    return reward_train.run(line) if subword == "train" else reward_report.run(line)


# ----- reward new -----


def _new(line: CommandLine) -> int:
    if line.as_json:
        raise UserError("--json means nothing to reward new")
    name, settings = line.words[1], _settings(line.words[2:])
    unknown = [key for key in settings if key != "out"]
    if unknown:
        raise UserError(f"{unknown[0]}= means nothing to reward new; it takes out=FOLDER")
    written = write_reward(name, Path(settings.get("out", ".")), taken=[*REWARDS, *installed_plugins("reward")])
    program, place = program_name(), f"{written.reward}:{name}"
    print(f"{written.reward} and {written.test} written; next:")
    for command in (
        f"{program} reward test {place}",
        f"python -m pytest {written.test}",
        f"{program} train -r {place}=1",
    ):
        print(f"  {command}")
    return 0


def _settings(words: Sequence[str]) -> dict[str, str]:
    settings = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not text or not key:
            raise UserError(f"{word!r}: expected key=value after the name of the reward")
        if key in settings:
            raise UserError(f"{key}= is given twice")
        settings[key] = text
    return settings


# ----- reward test -----


def _test(line: CommandLine) -> int:
    name, settings = line.words[1], _settings(line.words[2:])
    run_name, runs = settings.pop("on", None), Path(settings.pop("runs", str(RUNS)))
    reward = _build(name, settings)
    if getattr(reward, "needs_tokens", False):
        raise UserError(
            f"{name} reads the tokens that a model said, and nobody said the attacks; see what it gives to a run: "
            f"rescore RUN -r {name}=1 --dry-run"
        )
    chats = ordinary_conversations() if run_name is None else _stored(find_run(run_name, runs), reward)
    report = report_on(reward, chats, _others(), name=name)
    source = "12 built-in chats" if run_name is None else f"{plural(len(chats), 'conversation')} of run {run_name}"
    if line.as_json:
        print(json.dumps({**asdict(report), "chats": source, "sound": report.is_sound}, indent=2))
    else:
        _print(open_console(), report, source)
    return 0 if report.is_sound else BROKEN


def _build(name: str, settings: dict[str, str]) -> Reward:
    if name.startswith(MIX):
        if settings:
            raise UserError(f"{next(iter(settings))}: {name} has no settings")
        return MixedReward(
            name=name, parts=tuple(build_rewards(chosen_rewards({}, [f"{name}=1"], typed="reward test ")))
        )
    for key in SETTINGS_OF_WEIGHTS:
        if key in settings:
            raise UserError(f"{key}= means nothing to reward test; it takes settings of the reward, on= and runs=")
    values = {key: value_of_word(key, text) for key, text in settings.items()}
    [weighted] = build_rewards({name: RewardSpec.model_validate(values)})
    return weighted.reward


def _stored(folder: Path, reward: Reward) -> list[Conversation]:
    stored = RunReader(folder).conversations(with_tokens=reads_tokens(reward))
    chats = [one for one in stored if one.turns and one.outcome is not None and not has_failed(one)]
    if not chats:
        raise UserError(f"on={folder}: the run holds no finished conversation")
    return chats[-NEWEST:]


def _others() -> dict[str, Reward]:
    """Return the rewards of the package that are cheap and need no settings."""
    others = {}
    for name, kind in REWARDS.items():
        if not getattr(kind, "is_slow", False):
            others[name] = kind()
    return others


def _print(console: Console, report: RewardReport, source: str) -> None:
    console.print(Text(one_line(report.name), style="bold"))
    if report.broken:
        _say(console, "contract", f"broken: {report.broken}", style="red")
        return
    _say(console, "contract", "kept: shapes, finite numbers, the same answer twice, in any order, alone and together")
    _print_range(console, report)
    _say(console, "speed", f"p50 {report.p50_ms:.2f} ms, p95 {report.p95_ms:.2f} ms a conversation")
    if report.median is None:
        _say(console, "attacks", f"not compared: it applies to no turn of {source}", style="yellow")
        return
    _print_attacks(console, report, source)
    _print_correlations(console, report)


def _print_range(console: Console, report: RewardReport) -> None:
    bounds = f"{_bound(report.low)} to {_bound(report.high)}"
    if report.outside:
        shown = "; ".join(report.outside[:MOST_OUTSIDE])
        text = f"broken: {len(report.outside)} of {report.num_turns} numbers are outside {bounds}, such as {shown}"
        _say(console, "range", text, style="red")
    elif report.low is None or report.high is None:
        text = f"{bounds}; with finite bounds no odd number could outweigh a batch"
        _say(console, "range", text, style="yellow")
    else:
        _say(console, "range", f"kept: {bounds}")


def _print_attacks(console: Console, report: RewardReport, source: str) -> None:
    winning, of_all = report.winning, f"of {plural(len(ATTACKS), 'attack')}"
    equal = f"; {report.num_equal} get as much" if report.num_equal else ""
    if winning:
        text = f"{len(winning)} {of_all} beat the median chat: {', '.join(winning)}{equal}"
        _say(console, "attacks", text, style="yellow")
    else:
        _say(console, "attacks", f"none {of_all} beats the median chat{equal}")
    table = _table("highest attacks", "reward", "chats below", "idea")
    for attack in report.attacks[:MOST_ATTACKS]:
        below = "-" if attack.share_below is None else f"{attack.share_below:.0%}"
        style = "yellow" if attack.is_winning else ""
        cells = (attack.name, _number(attack.value), below, attack.idea)
        table.add_row(*(Text(one_line(cell), style=style) for cell in cells))
    cells = ("median chat", _number(report.median), "", source)
    table.add_row(*(Text(one_line(cell), style="bold") for cell in cells))
    console.print(table)


def _print_correlations(console: Console, report: RewardReport) -> None:
    rows = [*([] if report.length is None else [report.length]), *report.correlations[:MOST_CORRELATIONS]]
    if not rows:
        _say(console, "goes along", "with nothing: on these chats it is always the same, or hardly applies")
        return
    table = _table("goes along with", "Spearman", "turns")
    for row in rows:
        table.add_row(Text(row.name), Text(f"{row.rho:+.2f}"), Text(str(row.num_turns)))
    console.print(table)


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column(first, no_wrap=True)
    for column in others:
        table.add_column(column, justify="left" if column == "idea" else "right")
    return table


def _say(console: Console, what: str, text: str, *, style: str = "") -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=len("goes along"))
    grid.add_column()
    grid.add_row(Text(what), Text(one_line(text), style=style))
    console.print(grid)


def _bound(value: float | None) -> str:
    return "no bound" if value is None else f"{value:g}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
