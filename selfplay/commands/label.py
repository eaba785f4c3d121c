"""`selfplay label`: say which of two conversations is better, without knowing whose they are."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from rich.console import Console
from rich.text import Text

from selfplay.commands.side_by_side import column_of, print_side_by_side
from selfplay.commands.terminal import one_line, open_console, plural
from selfplay.commands.words import CommandLine
from selfplay.config import WRITTEN_PATH, Settings, resolve
from selfplay.errors import UserError
from selfplay.labelling import Labeller, Pair, Progress, Revealed, local_person
from selfplay.run_folder import RUNS
from selfplay.run_reader import find_run
from selfplay.transcript_index import Row, TranscriptIndex

__all__ = ["SUMMARY", "USAGE", "run"]

SUMMARY = "say which of two conversations is better, without knowing whose they are"
USAGE = """
selfplay label [RUN] [n=20] [person=NAME] [runs=FOLDER]
selfplay label [RUN] by=gold:REWARD | by=gold -r REWARD=WEIGHT ... | by=judge [model=NAME] [key=value ...] [--json]

Show two conversations on the same scenario, and ask which is better.  Who played, and what the rewards were, is told
after each answer.  About one pair in ten comes back with sides swapped, to see how well you agree with yourself.
Answers are added to the run's preferences.jsonl; one key and Enter:

  1 A is much better   2 A is better   3 no difference   4 B is better   5 B is much better   0 both are bad
  s skip the pair      u undo the last answer            q end

  RUN          a run folder, a name under runs/, or nothing: the newest run
  n=20         how many answers to give
  person=NAME  under which name they are stored (default: one of this machine's user, such as anon-3f)
  runs=FOLDER  where runs are kept (default: runs)

With by= nobody is asked.  gold prefers the conversation with more of a known reward, a turn of one role on average;
judge asks a language model which one better follows a principle, in both orders, and stores how likely each is.
Labels are added as they come, no pair twice; measures of the judge, such as its bias for a side, are printed.

  by=gold:question       a reward, mix:NAME or FILE.py:NAME; or by=gold -r question=1 -r copying=2, a mix of your own
  by=judge               -r question=1 then says what its answers are compared with
  model=smollm2-135m     the judge: a name of `list models`, a folder or RUN@STEP
  constitution=FILE.yaml the principles, of which each label draws one (default: those of the package)
  few_shot=0             examples before each question
  clamp=1                probabilities stay within 1 - clamp and clamp
  gold_noise=0           share of gold's labels that are drawn blindly
  gold_temperature=0     above 0 gold errs, the more the closer two are: sigmoid(difference / temperature)
  n=200                  how many pairs
  unit=conversation      turn: two answers to one and the same past
  sampler=uniform        disagreement: of candidates=10 times as many pairs those that the members of the reward model
                         rm=PATH dispute most
  focus=ROLE             who is judged (default: a trained role that speaks in both)
  split=train            held_out, or all
  threads=0              CPU threads of the judge, or of a reward that is a model; 0: all cores
  seed=0                 what is drawn
  rewards.NAME.key=value settings of a reward; reward_timeout_seconds=30 how long one may take over a call
  --json                 print what came of it for machines

Examples:
  selfplay label
  selfplay label my-run n=50 person=judge-1
  selfplay label my-run by=gold:mix:vhrl n=500
  selfplay label my-run by=judge model=my-judge@last few_shot=2 -r question=1
"""
VERDICTS: Mapping[str, str] = {
    "1": "left_much",
    "2": "left",
    "3": "tie",
    "4": "right",
    "5": "right_much",
    "0": "both_bad",
    "s": "skip",
}
Sides = tuple[Mapping[str, Any], Mapping[str, Any]]  # as `blind` leaves them

UNDO, QUIT = "u", "q"
BY = "by="  # nobody is asked
PROMPT = "1 A much  2 A  3 same  4 B  5 B much  0 both bad  s skip  u undo  q end > "


class LabelSettings(Settings):
    """What `label` accepts besides the run."""

    n: int = Field(default=20, ge=1)
    person: str = ""
    runs: Annotated[Path, WRITTEN_PATH] = RUNS


def run(line: CommandLine) -> int:
    """Ask for preferences until there are enough."""
    if any(word.startswith(BY) for word in line.settings):
        # Rewards and models are loaded where somebody is asked who needs them.
        from selfplay.commands import label_by

        return label_by.run(line)
    if line.rewards or line.as_json:
        raise UserError(f"{'-r' if line.rewards else '--json'} goes with by=gold or by=judge")
    settings = resolve(LabelSettings, line.settings)
    folder = find_run(line.one_name("label takes"), settings.runs)
    index = TranscriptIndex(folder)
    index.refresh()
    labeller = Labeller(folder, index, person=settings.person or local_person())
    console = open_console()
    is_said = "n" in settings.model_fields_set
    sitting = _Sitting(labeller=labeller, console=console, wanted=settings.n, counts_own=is_said)
    try:
        sitting.sit()
    except KeyboardInterrupt:
        console.print()
    _print_progress(console, labeller.progress(), num_given=sitting.num_given)
    return 0


@dataclass(slots=True, kw_only=True)
class _Sitting:
    """One person answering at one terminal."""

    labeller: Labeller
    console: Console
    wanted: int  # answers; pairs passed over do not count
    counts_own: bool = False  # whether people are told how many of these are given, or how far their round is
    num_given: int = 0

    def sit(self) -> None:
        pair, asked_at = self._show_next(), time.monotonic()
        while pair is not None:
            key = self._key()
            if key == QUIT:
                return
            if key == UNDO:
                self._undo()
            elif key in VERDICTS:
                seconds = round(time.monotonic() - asked_at, 1)
                revealed = self.labeller.answer(pair.token, VERDICTS[key], seconds=seconds)
                self.num_given += VERDICTS[key] != "skip"
                _print_revealed(self.console, revealed)
            else:
                self.console.print(Text(f"{one_line(key)!r} is none of 1 2 3 4 5 0 s u q", style="yellow"))
                continue
            if self.num_given >= self.wanted:
                return
            pair, asked_at = self._show_next(), time.monotonic()

    def _show_next(self) -> Pair | None:
        pair = self.labeller.next_pair()
        if pair is None:
            self.console.print(Text("there is no other pair of conversations on one scenario", style="yellow"))
            return None
        progress = self.labeller.progress()
        how_far = f"{self.num_given} of {self.wanted}" if self.counts_own else f"{progress.done} of {progress.of}"
        _print_pair(self.console, self.labeller.shown(pair), pair, progress, how_far=how_far)
        return pair

    def _key(self) -> str:
        """Return the next answer; QUIT where there are no more."""
        self.console.print(Text(PROMPT, style="dim"), end="")
        answer = sys.stdin.readline()
        if not sys.stdin.isatty():
            self.console.print()
        if answer:
            return answer.strip().lower()
        if self.num_given == 0:
            raise UserError("label reads answers from the terminal, or one a line from its input: 1 2 3 4 5 0 s u q")
        return QUIT

    def _undo(self) -> None:
        before = self.labeller.progress().done
        undone = self.labeller.undo()
        # What was taken back may be a pair passed over, or an answer of an earlier day.
        self.num_given = max(0, self.num_given - (before - self.labeller.progress().done))
        words = "there is no answer to take back" if undone is None else "the last answer is taken back"
        self.console.print(Text(words, style="dim"))


def _print_pair(console: Console, sides: Sides, pair: Pair, progress: Progress, *, how_far: str) -> None:
    console.print()
    console.rule(style="dim")
    console.print(Text.assemble((pair.question, "bold"), f" ({one_line(pair.focus)})"))
    agreement = "" if progress.agreement is None else f" · you agree with yourself {progress.agreement:.0%}"
    about = f" · {one_line(pair.about)}" if pair.about else ""
    console.print(Text(f"{how_far}{about}{agreement}", style="dim"))
    left, right = (column_of(side, title=title) for side, title in zip(sides, "AB", strict=True))
    print_side_by_side(console, left, right, focus=pair.focus)


def _print_revealed(console: Console, revealed: Revealed) -> None:
    words = [f"{letter}: {_words_of(row)}" for letter, row in (("A", revealed.left), ("B", revealed.right))]
    console.print(Text("   ".join(words), style="dim"))


def _words_of(row: Row | None) -> str:
    if row is None:
        return "no longer there"
    reward = "no reward" if row.reward is None else f"reward {row.reward:z.2f}"
    return one_line(f"{row.players}, {reward} ({row.id})")


def _print_progress(console: Console, progress: Progress, *, num_given: int) -> None:
    said = f"{plural(num_given, 'answer')} now, {progress.done} in all"
    if progress.agreement is not None:
        said += f"; you agree with yourself in {progress.agreement:.0%} of {plural(progress.num_repeats, 'repeat')}"
    console.print(Text(said))
