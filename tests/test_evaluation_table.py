"""The comparison as a person reads it."""

import io
import math

import pytest
from rich.console import Console

from selfplay.commands.evaluation_table import print_comparison
from selfplay.evaluate import Comparison, Difference


def shown(comparison: Comparison, *, width: int = 100, kl_target: float | None = None) -> list[str]:
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    print_comparison(console, comparison, kl_target=kl_target)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]


def row(name: str, base: float, trained: float, low: float, high: float) -> Difference:
    return Difference(name=name, base=base, trained=trained, difference=trained - base, low=low, high=high)


def test_table_has_a_line_for_every_number():
    rows = (
        row("reward/total", 0.0625, 0.5, 0.25, 0.625),
        row("reward/short", 1.0, 1.0, -0.5, 0.5),
        row("play/question_rate", 0.06, 0.81, 0.6, 0.9),
    )
    lines = [" ".join(line.split()) for line in shown(Comparison(rows=rows, num_scenarios=32, num_dropped=1))]
    assert lines[0] == "held out base trained change 95% interval"
    assert "reward of a turn 0.062 0.500 +0.438 +0.250 to +0.625" in lines
    assert "short, a turn 1.000 1.000 +0.000 -0.500 to +0.500" in lines
    assert "turns that ask 6% 81% +75 +60 to +90" in lines
    assert lines[-1] == "32 scenarios, 1 more failed; bold: the interval excludes 0"


def test_it_is_said_whether_the_reward_rose_and_language_was_kept():
    good = (
        row("reward/per_conversation", 0.25, 1.5, 0.75, 1.75),
        row("kl/per_token_nats", 0.0, 0.05, 0.04, 0.06),
        row("play/distinct_2", 0.8, 0.76, -0.1, -0.06),
        row("reference/nll_per_token_nats", 3.0, 2.75, -0.5, 0.0),
    )
    # 0.76 / 0.8 = 95%; 2.75 - 3 = -0.25.
    assert shown(Comparison(rows=good, num_scenarios=8, num_dropped=0), kl_target=0.06)[-4:] == [
        "yes  the reward rose: the interval is +0.75 to +1.75",
        "yes  KL 0.050 nats a token, under its target 0.06",
        "yes  distinct word pairs 95% of the base's",
        "yes  NLL by the base changed by -0.25 nats a token, within 0.3",
    ]
    bad = (
        row("reward/per_conversation", 0.25, 0.3, -0.1, 0.2),
        row("kl/per_token_nats", 0.0, 0.07, 0.04, 0.1),
        row("play/distinct_2", 0.8, 0.6, -0.3, -0.1),
        row("reference/nll_per_token_nats", 3.0, 2.5, -0.6, -0.4),
    )
    assert shown(Comparison(rows=bad, num_scenarios=8, num_dropped=0), kl_target=0.06)[-4:] == [
        "NO   the reward may not have changed: the interval is -0.10 to +0.20",
        "NO   KL 0.070 nats a token, over its target 0.06",
        "NO   distinct word pairs 75% of the base's, less than 90%",
        "NO   NLL by the base changed by -0.50 nats a token, more than 0.3",
    ]
    assert not any("target" in line for line in shown(Comparison(rows=bad, num_scenarios=8, num_dropped=0)))


def test_what_is_unknown_is_a_dash():
    rows = (row("reward/x", math.nan, 1.0, math.nan, math.nan),)
    lines = shown(Comparison(rows=rows, num_scenarios=1, num_dropped=0))
    assert "x, a turn - 1.000 - -" in [" ".join(line.split()) for line in lines]


@pytest.mark.parametrize("width", [60, 80])
def test_table_fits_a_narrow_terminal(width: int):
    rows = (row("reference/nll_per_token_nats", 3.0123, 12.5, -1.25, 10.75),)
    lines = shown(Comparison(rows=rows, num_scenarios=32, num_dropped=0), width=width)
    assert max(map(len, lines)) <= width
    assert any("+9.488" in line and "-1.250 to +10.750" in line for line in lines)


def test_nothing_to_compare_is_said():
    lines = shown(Comparison(rows=(), num_scenarios=0, num_dropped=4))
    assert lines == ["nothing to compare: no held-out scenario was played to its end by both"]


def test_numbers_of_games_have_names_and_shares_are_per_cent():
    rows = (
        row("game/payoff/buyer", 0.25, 0.5, 0.125, 0.375),
        row("game/win", 0.5, 0.75, 0.1, 0.4),
        row("game/success", 0.5, 0.75, 0.1, 0.4),
    )
    lines = [" ".join(line.split()) for line in shown(Comparison(rows=rows, num_scenarios=9, num_dropped=0))]
    assert "payoff as buyer 0.250 0.500 +0.250 +0.125 to +0.375" in lines
    assert "won 50% 75% +25 +10 to +40" in lines
    assert "success 50% 75% +25 +10 to +40" in lines
