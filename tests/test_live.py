import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from selfplay.commands.live import Frame, LiveScreen, PlainScreen, open_screen, sparkline
from selfplay.commands.train_progress import Progress
from selfplay.dialog import Conversation, Scenario, Turn
from selfplay.train_settings import TrainSettings

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\rx\u202e[red]y"
METRICS = {
    "reward/total": 0.41,
    "reward/question": 0.41,
    "kl/per_token_nats": 0.0123,
    "kl/coefficient": 0.1,
    "entropy/per_token_nats": 2.309,
    "play/cut_share": 0.12,
    "play/failed": 0.0,
    "play/seconds": 9.13,
    "play/tokens_per_second": 166.4,
    "learn/seconds": 12.0,
    "learn/tokens_per_second": 290.0,
}


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


# What the lines below were written for; the defaults are those of the chat preset.
PLAIN = {
    "steps": 30,
    "conversations": 16,
    "rewards": {"question": 1.0},
    "kl": {"controller": "fixed", "target": 0.05},
}


def progress_of(clock, *, first_step=0, run="chat", **settings):
    return Progress(
        settings=TrainSettings.model_validate({**PLAIN, **settings}), run=run, first_step=first_step, clock=clock
    )


def console_of(*, width=80, height=24, is_terminal=False):
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=is_terminal, color_system=None)


def spoken(*texts, role="host", error=None):
    return Conversation(
        id="000000-g00-0",
        scenario=Scenario(env="e", seed=0, split="train", roles=("host", "guest")),
        turns=tuple(Turn(role=role, text=text, heard_text="", player="learner@0") for text in texts),
        error=error,
    )


def play_steps(screen, clock, *, seconds, first=0, metrics=METRICS):
    for step, length in enumerate(seconds, start=first):
        screen.start_step(step, step)
        clock.now += length
        screen.end_step(step, metrics)


def frame_of(progress, *, width=80, height=24):
    console = console_of(width=width, height=height)
    console.print(Frame(progress))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_plain_line_says_what_a_step_did():
    clock, console = Clock(), console_of(width=40)
    screen = PlainScreen(console, progress_of(clock, kl={"controller": "adaptive", "target": 0.05}))
    play_steps(screen, clock, seconds=[20.0, 20.0, 20.0])
    # 27 steps of 20 s remain: 540 s
    assert console.file.getvalue().splitlines()[-1] == (
        "step 3/30  reward 0.41 (question 0.41)  kl 0.012/0.050 x0.10  entropy 2.31  cut 12%  "
        "play 9.1 s 166 tok/s  learn 12.0 s 290 tok/s  left 9 min"
    )


@pytest.mark.parametrize(("controller", "words"), [("fixed", "kl 0.012 x0.10  "), ("off", "kl 0.012  ")])
def test_plain_line_shows_the_coefficient_only_where_there_is_one(controller, words):
    clock, console = Clock(), console_of()
    play_steps(PlainScreen(console, progress_of(clock, kl={"controller": controller})), clock, seconds=[1.0])
    assert words in console.file.getvalue()


def test_plain_line_counts_what_failed_or_was_stale():
    clock, console = Clock(), console_of()
    metrics = {**METRICS, "play/failed": 1.0, "play/stale_dropped": 2.0}
    play_steps(PlainScreen(console, progress_of(clock)), clock, seconds=[1.0], metrics=metrics)
    assert "  failed 1  stale 2  " in console.file.getvalue()


def test_plain_line_of_a_step_without_numbers_has_dashes():
    clock, console = Clock(), console_of()
    play_steps(PlainScreen(console, progress_of(clock)), clock, seconds=[1.0], metrics={"reward/total": float("nan")})
    assert "reward - (question -)  kl - x-  entropy -  cut -  play - s - tok/s" in console.file.getvalue()


def test_plain_line_shows_what_rounds_to_zero_without_a_sign():
    clock, console = Clock(), console_of()
    metrics = {**METRICS, "kl/per_token_nats": -0.0004}
    play_steps(PlainScreen(console, progress_of(clock)), clock, seconds=[1.0], metrics=metrics)
    assert "  kl 0.000 x0.10  " in console.file.getvalue()


def test_plain_screen_speaks_after_ten_seconds_then_after_twenty():
    clock, console = Clock(), console_of()
    screen = PlainScreen(console, progress_of(clock, conversations=16))
    screen.start_step(2, 2)
    for _ in range(7):
        screen.conversation(spoken("Hi."))
    for clock.now in (9.0, 10.0, 11.0, 19.0, 21.0):
        screen.check_time()
    screen.learning()
    screen.check_time()
    assert console.file.getvalue().splitlines() == [
        "step 3/30  playing 7 of 16 conversations, 10 s so far",
        "step 3/30  playing 7 of 16 conversations, 21 s so far",
    ]


def test_screen_follows_the_console():
    settings = TrainSettings()
    assert isinstance(open_screen(console_of(), settings), PlainScreen)
    assert isinstance(open_screen(console_of(is_terminal=True), settings), LiveScreen)


def test_frame_shows_where_the_run_is():
    clock = Clock()
    progress = progress_of(clock, conversations=16, kl={"controller": "adaptive", "target": 0.05})
    screen = LiveScreen(console_of(), progress)
    play_steps(screen, clock, seconds=[20.0, 60.0, 20.0])
    screen.start_step(3, 3)
    screen.conversation(spoken("Hello.", error="it broke"))
    clock.now += 5.0
    lines = frame_of(progress)
    # 27 steps at the median of 20 s, less the 5 s spent: 535 s
    assert lines[:2] == ["chat", "step 4/30, 9 min left · playing 1 of 16 conversations, 1 failed, 5 s"]
    assert lines[2] == "━" * 8 + "─" * 72  # 3 of 30 of 80 columns
    assert "kl          0.012  ▁▁▁  target 0.05, x 0.100" in lines


def test_frame_shows_the_last_two_turns_in_two_lines_each():
    progress = progress_of(Clock())
    progress.add(spoken("Forgotten.", "Hello\n\x1b[2Jthere.", "word " * 100))
    assert frame_of(progress, width=60)[-3:] == [
        "host: Hello ␛[2Jthere.",
        "host: word word word word word word word word word word word",
        "word word word word word word word word word word word word",
    ]


@pytest.mark.parametrize(("width", "height"), [(60, 24), (80, 24), (200, 60), (40, 12), (20, 5)])
def test_frame_fits_the_terminal_whatever_it_shows(width, height):
    clock = Clock()
    rewards = {f"{number}{HOSTILE}雨{'long' * 9}": 0.123456 for number in range(9)}
    progress = progress_of(clock, run=HOSTILE * 9, rewards=rewards, kl={"controller": "adaptive", "target": 0.05})
    play_steps(LiveScreen(console_of(), progress), clock, seconds=[1.0] * 29)
    progress.add(spoken("雨が好き" * 99, HOSTILE * 99, role=HOSTILE))
    lines = frame_of(progress, width=width, height=height)
    assert len(lines) <= min(20, height - 1)
    assert max(map(cell_len, lines)) <= width
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202e]", "".join(lines))


def test_live_screen_keeps_what_was_said_above_its_last_frame():
    console, clock = console_of(is_terminal=True), Clock()
    with LiveScreen(console, progress_of(clock)) as screen:
        screen.doing("evaluating", conversations=32)
        screen.say("play worker 3 was replaced\x1b[2J")
    output = console.file.getvalue()
    assert output.index("play worker 3 was replaced␛[2J") < output.rindex("step 0/30 · over")


def test_frame_of_older_version_says_which_plays():
    progress = progress_of(Clock())
    LiveScreen(console_of(), progress).start_step(5, 4)
    assert "playing 0 of 16 conversations with version 4" in frame_of(progress)[1]


def test_resumed_run_expects_only_what_is_left():
    clock = Clock()
    progress = progress_of(clock, first_step=20)
    play_steps(LiveScreen(console_of(), progress), clock, seconds=[10.0], first=20)
    assert progress.seconds_left() == 90.0  # 9 of 30 steps


def test_sparkline_scales_between_the_extremes_and_leaves_gaps():
    # sevenths of the way from 0 to 7; the one that is missing is a gap
    assert sparkline([0, 1, 2, 3, float("nan"), 4, 5, 6, 7]) == "▁▂▃▄ ▅▆▇█"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([float("nan")]) == " "
    assert sparkline([]) == ""


def test_sparkline_of_many_values_averages_runs():
    # 20 bars at most: 40 values in pairs with means 0.5, 2.5, ... 38.5
    bars = sparkline(list(range(40)))
    assert (len(bars), bars[0], bars[-1]) == (20, "▁", "█")


def test_alarms_that_are_on_are_shown_while_they_are():
    clock, console = Clock(), console_of(width=300)
    progress = progress_of(clock)
    screen = PlainScreen(console, progress)
    on = {**METRICS, "alarm/kl_accelerating": 1.0, "alarm/one_part": 0.0, "alarm/length_drift": 1.0}
    play_steps(screen, clock, seconds=[1.0], metrics=on)
    assert "  alarm kl_accelerating, length_drift" in console.file.getvalue()
    assert "alarm: kl_accelerating, length_drift" in frame_of(progress)
    play_steps(screen, clock, first=1, seconds=[1.0])
    assert not any(line.startswith("alarm") for line in frame_of(progress))


GAME = {**METRICS, "game/success": 0.75, "game/protocol_ok": 0.98}


def test_plain_line_of_a_game_says_success_and_form():
    clock, console = Clock(), console_of()
    play_steps(PlainScreen(console, progress_of(clock)), clock, seconds=[1.0], metrics=GAME)
    assert "(question 0.41)  success 75%, form kept 98%  kl 0.012" in console.file.getvalue()


def test_frame_of_a_game_has_a_line_for_it():
    clock = Clock()
    progress = progress_of(clock)
    play_steps(LiveScreen(console_of(), progress), clock, seconds=[1.0, 1.0], metrics=GAME)
    assert "success       75%  ▁▁  form kept 98%" in frame_of(progress)


# Each wins what the other loses, against a partner that is not trained.
CONTEST = {**GAME, "game/payoff": 0.25, "game/opponent_payoff": -0.25, "game/win": 0.625}


def test_plain_line_of_a_zero_sum_game_against_others_says_won_and_not_success():
    clock, console = Clock(), console_of()
    play_steps(PlainScreen(console, progress_of(clock)), clock, seconds=[1.0], metrics=CONTEST)
    assert "(question 0.41)  won 62%, form kept 98%  kl 0.012" in console.file.getvalue()


def test_plain_line_of_a_game_where_both_may_gain_says_won_and_success():
    clock, console = Clock(), console_of()
    metrics = {**CONTEST, "game/opponent_payoff": 0.5}
    play_steps(PlainScreen(console, progress_of(clock)), clock, seconds=[1.0], metrics=metrics)
    assert "(question 0.41)  won 62%, success 75%, form kept 98%  kl 0.012" in console.file.getvalue()


def test_frame_of_a_zero_sum_game_has_won_and_no_success_even_after_a_step_without_others():
    clock = Clock()
    progress = progress_of(clock)
    screen = LiveScreen(console_of(), progress)
    play_steps(screen, clock, seconds=[1.0, 1.0], metrics={**CONTEST, "league/games": 8.0, "game/count": 8.0})
    play_steps(screen, clock, first=2, seconds=[1.0], metrics={**GAME, "game/payoff": 0.0, "league/games": 0.0})
    lines = frame_of(progress)
    assert "won             -  ▁▁   form kept 98%" in lines
    assert not any(line.startswith("success") for line in lines)


def test_frame_of_a_game_without_an_aim_has_its_form():
    clock = Clock()
    progress = progress_of(clock)
    metrics = {name: value for name, value in GAME.items() if name != "game/success"}
    play_steps(LiveScreen(console_of(), progress), clock, seconds=[1.0], metrics=metrics)
    assert [line.split() for line in frame_of(progress) if "form" in line] == [["form", "kept", "98%", "▁"]]


LEAGUE = {
    **CONTEST,
    "game/opponent_payoff": 0.5,
    "league/past_share": 0.25,
    "league/mirror_share": 0.5,
    "league/frozen_share": 0.25,
    "league/scripted_share": 0.0,
    "league/win_rate": 0.5390625,
}


def test_plain_line_of_a_league_says_whom_the_step_met_and_how_it_did():
    clock, console = Clock(), console_of()
    play_steps(PlainScreen(console, progress_of(clock, partner="league")), clock, seconds=[1.0], metrics=LEAGUE)
    assert (
        "(question 0.41)  success 75%, form kept 98%  met past 25%, itself 50%, its start 25%  win rate 54%  kl 0.012"
    ) in console.file.getvalue()


def test_plain_line_of_a_league_has_no_win_rate_where_nobody_else_was_met():
    clock, console = Clock(), console_of()
    metrics = {**GAME, "league/mirror_share": 1.0, "league/past_share": 0.0}
    play_steps(PlainScreen(console, progress_of(clock, partner="league")), clock, seconds=[1.0], metrics=metrics)
    assert "form kept 98%  met itself 100%  kl 0.012" in console.file.getvalue()


def test_plain_line_of_a_league_has_no_win_rate_where_all_are_always_paid_the_same():
    clock, console = Clock(), console_of()
    metrics = {**LEAGUE, "game/opponent_payoff": 0.25, "game/win": 0.5, "league/win_rate": 0.5}
    play_steps(PlainScreen(console, progress_of(clock, partner="league")), clock, seconds=[1.0], metrics=metrics)
    assert "form kept 98%  met past 25%, itself 50%, its start 25%  kl 0.012" in console.file.getvalue()


def test_only_a_league_says_whom_it_met():
    clock, console = Clock(), console_of()
    play_steps(PlainScreen(console, progress_of(clock, partner="frozen")), clock, seconds=[1.0], metrics=LEAGUE)
    assert "  won 62%, success 75%, form kept 98%  kl 0.012" in console.file.getvalue()


def test_frame_of_a_league_has_its_win_rate_and_whom_it_met():
    clock = Clock()
    progress = progress_of(clock, partner="league")
    play_steps(LiveScreen(console_of(), progress), clock, seconds=[1.0, 1.0], metrics=LEAGUE)
    lines = frame_of(progress)
    assert "win rate      54%  ▁▁  met past 25%, itself 50%, its start 25%" in lines
    assert not any(line.startswith("won") for line in lines)
