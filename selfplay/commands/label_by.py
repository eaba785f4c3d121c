"""`selfplay label RUN by=...`: a known reward, or a language model, says which of two conversations is better."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from selfplay import models
from selfplay.commands.building import TYPED, build_rewards, chosen_rewards
from selfplay.commands.terminal import one_line, open_console, plural
from selfplay.commands.words import CommandLine, program_name
from selfplay.config import WRITTEN_PATH, Settings, resolve
from selfplay.errors import UserError
from selfplay.label_by import (
    AutoLabeller,
    GoldLabeller,
    JudgeLabeller,
    LabelSummary,
    OnProgress,
    Splits,
    is_mostly_ties,
    label_run,
    labels_text,
)
from selfplay.pair_sampling import Members, Sampler, Sampling
from selfplay.preferences import PREFERENCES
from selfplay.reward_model.dialogs import Judged
from selfplay.reward_trial import check_role
from selfplay.run_folder import RUNS
from selfplay.run_reader import RunReader, find_run
from selfplay.score import WeightedReward
from selfplay.train_settings import RewardSpec

if TYPE_CHECKING:
    from selfplay.judge.measures import Measures

__all__ = ["run"]

GOLD, JUDGE = "gold", "judge"
OF_GOLD = ("gold_noise", "gold_temperature")
OF_JUDGE = ("model", "constitution", "few_shot", "clamp")
OF_DISAGREEMENT = ("rm", "candidates")
PATIENCE_SECONDS = 10.0  # between two lines of a log


class LabelBySettings(Settings):
    """What `label by=` accepts besides the run."""

    by: str
    n: int = Field(default=200, ge=1)
    unit: Judged = "conversation"
    sampler: Sampler = "uniform"
    rm: str = ""  # a reward model whose members should disagree
    candidates: int = Field(default=10, ge=2)
    focus: str = ""
    split: Splits = "train"
    seed: int = Field(default=0, ge=0)
    gold_noise: float = Field(default=0.0, ge=0, le=1)
    gold_temperature: float = Field(default=0.0, ge=0)
    model: str = Field(default="smollm2-135m", min_length=1)
    constitution: str = ""
    few_shot: int = Field(default=0, ge=0)
    clamp: float = Field(default=1.0, gt=0.5, le=1)
    rewards: dict[str, RewardSpec] = {}  # noqa: RUF012 (pydantic copies it)
    reward_timeout_seconds: float = Field(default=30.0, gt=0)
    threads: int = Field(default=0, ge=0)  # CPU threads; 0: all cores
    runs: Annotated[Path, WRITTEN_PATH] = RUNS


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """What is known to be better: a name, and the rewards that are it."""

    name: str
    rewards: list[WeightedReward]


def run(line: CommandLine) -> int:
    """Label pairs, and say what the labels are like."""
    settings = resolve(LabelBySettings, line.settings)
    _check(settings)
    folder = find_run(line.one_name("label takes"), settings.runs)
    gold = _gold(settings, line, folder)
    if settings.threads:
        models.use_threads(settings.threads)
    labeller, sampling = _labeller(settings, gold, folder), _sampling(settings)
    said = open_console(is_stderr=True)
    for warning in _kinships(settings, folder):
        said.print(Text(one_line(warning), "yellow"))
    with _Screen(console=said, by=labeller.by).shown() as on_progress:
        summary = label_run(
            folder, labeller, n=settings.n, sampling=sampling, split=settings.split, on_progress=on_progress
        )
    measures = _measures(folder, summary.by, None if gold is None else _gold_labeller(settings, gold))
    if line.as_json:
        print(json.dumps(_as_json(summary, measures, folder)))
    else:
        _print(open_console(), summary, measures, folder)
    return 0


def _check(settings: LabelBySettings) -> None:
    if settings.by.partition(":")[0] not in (GOLD, JUDGE) or settings.by.startswith(f"{JUDGE}:"):
        raise UserError(f"by={settings.by}: must be gold:REWARD, gold with -r REWARD=WEIGHT, or judge with model=NAME")
    is_gold, disagrees = settings.by != JUDGE, settings.sampler == "disagreement"
    for names, are_known, where in (
        (OF_GOLD, is_gold, "by=judge"),
        (OF_JUDGE, not is_gold, f"by={settings.by}"),
        (OF_DISAGREEMENT, disagrees, f"sampler={settings.sampler}"),
    ):
        given = [name for name in names if name in settings.model_fields_set]
        if given and not are_known:
            raise UserError(f"{given[0]}= means nothing with {where}")
    if disagrees and not settings.rm:
        raise UserError("sampler=disagreement needs a reward model whose members can disagree: rm=PATH")


def _gold(settings: LabelBySettings, line: CommandLine, folder: Path) -> Gold | None:
    """Return the rewards that say what is better; None: none are named."""
    named = settings.by.partition(":")[2]
    if named and line.rewards:
        raise UserError(f"by={settings.by} names its reward; write by=gold with -r, or leave -r out")
    given = [f"{named}=1"] if named else list(line.rewards)
    if not given:
        if settings.by == JUDGE:
            return None
        raise UserError("by=gold needs a reward that says what is better: by=gold:question, or -r question=1")
    typed = f"by={GOLD}:" if named else TYPED
    rewards = build_rewards(chosen_rewards(settings.rewards, given, words=line.settings, typed=typed))
    roles = next(RunReader(folder).conversations()).scenario.roles if RunReader(folder).ids() else ()
    for weighted in rewards:
        check_role(weighted, roles, where=f"run {folder.name}")
    return Gold(name=named or ",".join(given), rewards=rewards)


def _labeller(settings: LabelBySettings, gold: Gold | None, folder: Path) -> AutoLabeller:
    if settings.by != JUDGE:
        assert gold is not None  # or it was refused
        return _gold_labeller(settings, gold)
    from selfplay.judge.pairs import LABELLING, PairJudge
    from selfplay.judge.verdicts import VERDICTS

    judge = PairJudge(
        model=settings.model,
        constitution=settings.constitution,
        few_shot=settings.few_shot,
        clamp=settings.clamp,
        seed=settings.seed,
        cache=folder / VERDICTS,
        runs=settings.runs,
        patience=LABELLING,
    )
    judge.prepare()
    return JudgeLabeller(judge)


def _gold_labeller(settings: LabelBySettings, gold: Gold) -> GoldLabeller:
    return GoldLabeller(
        gold.rewards,
        name=gold.name,
        noise=settings.gold_noise,
        temperature=settings.gold_temperature,
        seed=settings.seed,
        timeout_seconds=settings.reward_timeout_seconds,
    )


def _sampling(settings: LabelBySettings) -> Sampling:
    return Sampling(
        sampler=settings.sampler,
        unit=settings.unit,
        model=_members(settings),
        candidates=settings.candidates,
        focus=settings.focus,
        seed=settings.seed,
    )


def _members(settings: LabelBySettings) -> Members | None:
    if settings.sampler == "uniform":
        return None
    from selfplay.reward_model.folder import find, load

    return load(find(settings.rm))


def _kinships(settings: LabelBySettings, folder: Path) -> list[str]:
    """Return a warning for each model of the run that is the judge's kin."""
    if settings.by != JUDGE:
        return []
    from selfplay.judge.families import kinship

    first = next(RunReader(folder).conversations(), None)
    names = [] if first is None else dict.fromkeys(player.model for player in first.players.values() if player.model)
    return [warning for name in names if (warning := kinship(settings.model, name, runs=settings.runs))]


def _measures(folder: Path, by: str, gold: GoldLabeller | None) -> Measures | None:
    """Return how far a judge can be trusted; None: it was none."""
    if not by.startswith(f"{JUDGE}:"):
        return None
    from selfplay.judge.stored import measures_of_run

    return measures_of_run(folder, by, gold=gold)


# ----- what is shown -----


@dataclass(slots=True, kw_only=True)
class _Screen:
    """How far the labelling is: a bar on a terminal, a line now and then elsewhere."""

    console: Console
    by: str
    num_done: int = 0
    said_at: float = field(default_factory=time.monotonic)

    @contextmanager
    def shown(self) -> Iterator[OnProgress]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        is_live = self.console.is_terminal and not self.console.is_dumb_terminal
        with Bar(*columns, console=self.console, transient=True, disable=not is_live) as bar:
            task = bar.add_task(one_line(self.by), total=None)

            def on_progress(done: int, total: int) -> None:
                self.num_done = done
                bar.update(task, completed=done, total=total)
                if not is_live and time.monotonic() - self.said_at >= PATIENCE_SECONDS:
                    self.said_at = time.monotonic()
                    self.console.print(Text(f"{one_line(self.by)}: {done} of {plural(total, 'pair')}", "dim"))

            try:
                yield on_progress
            except KeyboardInterrupt:
                kept = f"{plural(self.num_done, 'pair')} done, and kept; the same command goes on with others"
                self.console.print(Text(kept, "dim"))
                raise


def _print(console: Console, summary: LabelSummary, measures: Measures | None, folder: Path) -> None:
    what = labels_text(summary.num_labels, summary.num_ties) + ("," if summary.num_ties else "")
    notes = [f"{summary.num_before} more were there before"] if summary.num_before else []
    notes += [f"{plural(summary.num_skipped, 'pair')} without an answer"] if summary.num_skipped else []
    about = f" ({', '.join(notes)})" if notes else ""
    console.print(Text(one_line(f"{what} by {summary.by} added to {folder / PREFERENCES}{about}")))
    num_pairs = summary.num_labels + summary.num_skipped
    if num_pairs < summary.num_wanted:
        text = f"n={summary.num_wanted}: there were no more than {plural(num_pairs, 'pair')} to label"
        console.print(Text(text, "yellow"))
    for line in _lines_of(measures):
        console.print(Text(one_line(line), "dim"))
    if is_mostly_ties(summary.num_labels, summary.num_ties):
        console.print(Text(one_line(_about_ties(summary)), "yellow"))
    if not summary.has_clear:
        return
    program = program_name()
    console.print(Text("next:"))
    console.print(Text(one_line(f"  {program} reward train {folder} by={summary.by}")), soft_wrap=True)


def _about_ties(summary: LabelSummary) -> str:
    if not summary.has_clear:
        found = "all of them are ties: nothing can be learnt from that"
    else:
        found = "over half of them are ties, from which little can be learnt"
    if summary.by.startswith(f"{JUDGE}:"):
        return f"{found}; try another model as the judge"
    return f"{found}; try another reward, or a run with more conversations on each scenario (group_size)"


def _lines_of(measures: Measures | None) -> list[str]:
    if measures is None:
        return []
    from selfplay.judge.measures import measures_text

    return measures_text(measures)


def _as_json(summary: LabelSummary, measures: Measures | None, folder: Path) -> dict[str, object]:
    return {
        "by": summary.by,
        "labels": summary.num_labels,
        "wanted": summary.num_wanted,
        "ties": summary.num_ties,
        "skipped": summary.num_skipped,
        "before": summary.num_before,
        "file": str(folder / PREFERENCES),
        "measures": None if measures is None else measures.to_json(),
    }
