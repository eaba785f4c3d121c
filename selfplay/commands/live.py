"""What `train` shows while it runs: a screen that is redrawn on a terminal, one line a step elsewhere."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from selfplay.commands.evaluation_table import title
from selfplay.commands.terminal import first_words, one_line, role_style
from selfplay.commands.train_progress import Progress
from selfplay.dialog import Conversation, Turn
from selfplay.train_settings import TrainSettings

BARS = "▁▂▃▄▅▆▇█"
MAX_LINES, MAX_PARTS, MAX_BARS, MAX_LABEL, LINES_OF_TURN = 20, 6, 20, 25, 2
REFRESHES_PER_SECOND = 2
WIN, WIN_RATE = "game/win", "league/win_rate"
RESULTS, FORM = (WIN, "game/success"), "game/protocol_ok"
# Whom a league's policy meets, in words: `league/past_share` and so on.
MET = {"past": "past", "mirror": "itself", "frozen": "its start", "scripted": "scripted"}
# A plain log says what takes longer than this, then again after twice, four times ... as long.
PATIENCE_SECONDS = 10.0


def open_screen(console: Console, settings: TrainSettings, *, run: str = "", first_step: int = 0) -> Screen:
    """Return the screen that fits the console; `run` is the run's name, `first_step` where a resumed one goes on."""
    progress = Progress(settings=settings, run=run, first_step=first_step)
    is_live = console.is_terminal and not console.is_dumb_terminal
    return LiveScreen(console, progress) if is_live else PlainScreen(console, progress)


class Screen(ABC):
    """Where a run shows how it goes; its calls come from one thread.

    Steps count from 0, as everywhere in the program; people read them from 1.
    """

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console = console
        self._progress = progress

    @abstractmethod
    def __enter__(self) -> Self:
        """Begin to show."""

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the terminal back."""

    @abstractmethod
    def say(self, text: str) -> None:
        """Tell what must stay readable: an event, a warning, where something was written."""

    def doing(self, what: str, *, conversations: int = 0) -> None:
        """Something begins, such as "evaluating", and will play so many conversations."""
        self._progress.begin(what, conversations=conversations)

    def start_step(self, step: int, version: int) -> None:
        """A step begins: the version plays its conversations."""
        self._progress.begin_step(step, version=version)
        self.doing("playing", conversations=self._progress.settings.conversations)

    def conversation(self, conversation: Conversation) -> None:
        """A conversation has finished."""
        self._progress.add(conversation)

    def learning(self) -> None:
        """The step's conversations are all there; the update begins."""
        self.doing("learning")

    def end_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step is over, with these numbers."""
        self._progress.end_step(step, metrics)
        self.doing("recording")


class LiveScreen(Screen):
    """A screen of at most twenty lines, redrawn in place; what `say` tells stays above it."""

    def __init__(self, console: Console, progress: Progress) -> None:
        super().__init__(console, progress)
        self._live = Live(Frame(progress), console=console, refresh_per_second=REFRESHES_PER_SECOND)

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Draw the last state and leave it there."""
        self.doing("over")
        self._live.__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """Print above the screen."""
        self._console.print(Text(one_line(text), style="dim"))


class PlainScreen(Screen):
    """A line a step, and now and then one for what takes long: for files and logs."""

    def __init__(self, console: Console, progress: Progress) -> None:
        super().__init__(console, progress)
        self._patience_seconds = PATIENCE_SECONDS
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._watch_time, name="plain-screen", daemon=True)

    def __enter__(self) -> Self:
        """Begin to watch the time."""
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching the time."""
        self._stop.set()
        self._watch.join()

    def say(self, text: str) -> None:
        """Print a line; it is never wrapped, because whoever reads a log back expects one a step."""
        self._console.print(Text(one_line(text)), soft_wrap=True)

    def doing(self, what: str, *, conversations: int = 0) -> None:
        """Something begins."""
        super().doing(what, conversations=conversations)
        self._patience_seconds = PATIENCE_SECONDS

    def end_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print the step's line."""
        super().end_step(step, metrics)
        self.say("  ".join(_words_of_step(self._progress)))

    def check_time(self) -> None:
        """Print what is being done if it has taken long."""
        progress = self._progress
        seconds = progress.clock() - progress.since
        if seconds >= self._patience_seconds:
            self._patience_seconds *= 2
            self.say(f"{progress.where()}  {progress.what()}, {seconds:.0f} s so far")

    def _watch_time(self) -> None:
        while not self._stop.wait(1.0):
            self.check_time()


# ----- the plain line -----


def _words_of_step(progress: Progress) -> Iterator[str]:
    newest = progress.newest
    parts = ", ".join(f"{name} {_number(newest(f'reward/{name}'))}" for name in progress.settings.rewards)
    yield progress.where()
    yield f"reward {_number(newest('reward/total'))} ({parts})"
    if _is_game(progress):
        names = [*_results(progress), FORM]
        yield ", ".join(f"{title(name)} {_per_cent(newest(name))}" for name in names)
    if _has_league(progress):
        yield _words_of_league(progress)
    yield _plain_kl(progress)
    yield f"entropy {_number(newest('entropy/per_token_nats'))}"
    yield f"cut {_per_cent(newest('play/cut_share'))}"
    for name, count in (("failed", newest("play/failed")), ("stale", newest("play/stale_dropped"))):
        if count > 0:
            yield f"{name} {count:.0f}"
    for verb in ("play", "learn"):
        seconds, rate = newest(f"{verb}/seconds"), newest(f"{verb}/tokens_per_second")
        yield f"{verb} {_number(seconds, digits=1)} s {_number(rate, digits=0)} tok/s"
    if progress.alarms():
        yield f"alarm {', '.join(progress.alarms())}"
    left = progress.seconds_left()
    if left > 0:
        yield f"left {_duration(left)}"


def _is_game(progress: Progress) -> bool:
    """Whether the newest step had conversations with a payoff."""
    return math.isfinite(progress.newest(FORM))


def _results(progress: Progress) -> list[str]:
    """Return the metrics that say how games went; who won is said beside whom a league's policy met."""
    return [name for name in progress.fitting(RESULTS) if name != WIN or not _has_league(progress)]


def _has_league(progress: Progress) -> bool:
    """Whether a league chose whom the newest step's conversations met."""
    return progress.settings.partner == "league" and bool(_met(progress))


def _words_of_league(progress: Progress) -> str:
    rate = _win_rate(progress)
    return f"met {_met(progress)}" + (f"  win rate {_per_cent(rate)}" if math.isfinite(rate) else "")


def _met(progress: Progress) -> str:
    """Return whom the newest step's conversations met: ``past 50%, itself 50%``."""
    shares = {words: progress.newest(f"league/{kind}_share") for kind, words in MET.items()}
    return ", ".join(f"{words} {_per_cent(share)}" for words, share in shares.items() if share > 0)


def _win_rate(progress: Progress) -> float:
    """Return the newest step's points a game against others than the policy itself; NaN: nobody could win."""
    return math.nan if WIN in progress.unfitting else progress.newest(WIN_RATE)


def _plain_kl(progress: Progress) -> str:
    kl, measured = progress.settings.kl, f"kl {_number(progress.newest('kl/per_token_nats'), digits=3)}"
    if kl.controller == "off":
        return measured
    target = f"/{kl.target:.3f}" if kl.controller == "adaptive" else ""
    return f"{measured}{target} x{_number(progress.newest('kl/coefficient'))}"


# ----- the live frame -----


class _Row(NamedTuple):
    label: str
    value: str
    past: Sequence[float]
    note: str = ""


class Frame:
    """The live screen at one moment, cut to the size of the terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Give lines, none of which is wider than the terminal."""
        width, height = options.max_width, min(MAX_LINES, console.height - 1)
        lines = [*_head(self._progress, width=width), *_table(list(_rows(self._progress)))]
        if self._progress.last is not None:
            lines.append(Text())
            for turn in self._progress.last.turns[-2:]:
                spoken = _spoken(turn, self._progress.last, length=width * LINES_OF_TURN)
                lines.extend(spoken.wrap(console, width)[:LINES_OF_TURN])
        for line in lines[:height]:
            line.truncate(width, overflow="ellipsis")
            line.no_wrap = True
            yield line


def _head(progress: Progress, *, width: int) -> Iterator[Text]:
    if progress.run:
        yield Text(one_line(progress.run), style="bold")
    left = progress.seconds_left()
    ending = f", {_duration(left)} left" if left > 0 else ""
    seconds = progress.clock() - progress.since
    here = f", {_duration(seconds)}" if seconds >= 1 else ""
    version = f" with version {progress.version}" if progress.version != progress.step and progress.expected else ""
    yield Text.assemble((f"{progress.where()}{ending}", "bold"), f" · {progress.what()}{version}{here}")
    filled = min(width, width * progress.num_done() // progress.settings.steps)
    yield Text.assemble(("━" * filled, "green"), ("─" * (width - filled), "dim"))
    if progress.alarms():
        yield Text(f"alarm: {', '.join(progress.alarms())}", style="bold red")


def _rows(progress: Progress) -> Iterator[_Row]:
    if not progress.history:
        return
    newest, rewards = progress.newest, progress.settings.rewards
    yield _Row("reward", _number(newest("reward/total")), progress.past("reward/total"), "a turn")
    for name, spec in list(rewards.items())[:MAX_PARTS]:
        part = f"reward/{name}"
        yield _Row(f"  {one_line(name)}", _number(newest(part)), progress.past(part), f"x {spec.weight:g}")
    if _is_game(progress):
        yield from _game_rows(progress)
    if _has_league(progress):
        yield _Row("win rate", _per_cent(_win_rate(progress)), progress.past(WIN_RATE), f"met {_met(progress)}")
    kl, entropy = "kl/per_token_nats", "entropy/per_token_nats"
    yield _Row("kl", _number(newest(kl), digits=3), progress.past(kl), _kl_note(progress))
    yield _Row("entropy", _number(newest(entropy)), progress.past(entropy), "nats a token")
    yield _Row("cut turns", _per_cent(newest("play/cut_share")), progress.past("play/cut_share"))
    for verb in ("play", "learn"):
        rate, seconds = f"{verb}/tokens_per_second", _number(newest(f"{verb}/seconds"), digits=1)
        yield _Row(verb, _number(newest(rate), digits=0), progress.past(rate), f"tokens/s, {seconds} s")


def _game_rows(progress: Progress) -> Iterator[_Row]:
    first, *others = _results(progress) or [FORM]
    kept = f"{title(FORM)} {_per_cent(progress.newest(FORM))}"
    yield _Row(title(first), _per_cent(progress.newest(first)), progress.past(first), "" if first == FORM else kept)
    for name in others:
        yield _Row(title(name), _per_cent(progress.newest(name)), progress.past(name))


def _kl_note(progress: Progress) -> str:
    kl = progress.settings.kl
    if kl.controller == "off":
        return "nats a token, measured only"
    unit = f"target {kl.target:g}" if kl.controller == "adaptive" else "nats a token"
    return f"{unit}, x {_number(progress.newest('kl/coefficient'), digits=3)}"


def _table(rows: Sequence[_Row]) -> Iterator[Text]:
    label = min(MAX_LABEL, max((len(row.label) for row in rows), default=0))
    value = max((len(row.value) for row in rows), default=0)
    for row in rows:
        name = Text(row.label, style="cyan")
        name.truncate(label, overflow="ellipsis", pad=True)
        yield Text.assemble(name, f"  {row.value:>{value}}  {sparkline(row.past)}  ", (row.note, "dim"))


def sparkline(values: Sequence[float]) -> str:
    """Return values as bars between their smallest and largest; many are averaged in equal runs, NaN is a gap."""
    if not values:
        return ""
    means = [_mean(run.tolist()) for run in np.array_split(np.array(values), min(MAX_BARS, len(values)))]
    finite = [mean for mean in means if math.isfinite(mean)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    return "".join(_bar(mean, low, high) for mean in means)


def _bar(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return " "
    return BARS[round((value - low) / (high - low) * (len(BARS) - 1))] if high > low else BARS[0]


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan


def _spoken(turn: Turn, conversation: Conversation, *, length: int) -> Text:
    name = one_line(turn.role)
    style = role_style(turn.role, conversation.scenario.roles)
    return Text.assemble((f"{name}: ", style), first_words(turn.text, length=length) or "(nothing)")


# ----- numbers in words -----


def _number(value: float, *, digits: int = 2) -> str:
    # Rounding first: what rounds to 0 has no sign.
    return f"{round(value, digits) + 0.0:.{digits}f}" if math.isfinite(value) else "-"


def _per_cent(value: float) -> str:
    return f"{value:.0%}" if math.isfinite(value) else "-"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
