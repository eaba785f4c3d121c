"""`selfplay tournament by=...`: who is preferred, where the game itself pays nothing, in Elo points."""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfplay.bradley_terry import EloTable
from selfplay.commands.terminal import one_line, open_console, plural
from selfplay.commands.tournament import Held, TournamentSettings
from selfplay.commands.words import CommandLine, program_name
from selfplay.config import resolve
from selfplay.dialog import Conversation, id_order
from selfplay.errors import UserError
from selfplay.interfaces import Game
from selfplay.judge.verdicts import VERDICTS
from selfplay.label_by import AutoLabeller, JudgeLabeller
from selfplay.players import CHANCE
from selfplay.run_reader import find_run
from selfplay.store import RunWriter
from selfplay.tournament_by import (
    EloTournament,
    RewardModelLabeller,
    elo_tournament_of,
    judge_measures,
    pairs_of,
    said_of,
    store_said,
    talk_matches,
)
from selfplay.tournament_json import ELO, elo_tournament_to_json, judged_pairs_to_json, pair_filter
from selfplay.tournament_labels import PEOPLE, elo_of_labels
from selfplay.tournament_play import play_matches
from selfplay.whole_files import write_whole
from selfplay.written import nearest

if TYPE_CHECKING:
    from selfplay.judge.measures import Measures

__all__ = ["run_by"]

JUDGE, LABELS, REWARD_MODEL = "judge", "labels", "rm:"
OF_JUDGE = ("model", "constitution", "few_shot")
OF_LABELS = ("by", "anchor", "seed", "runs")  # the only settings where nothing is played
PROGRESS_SECONDS = 10.0
MOST_PAIRS = 15  # shown, of six entries; all are in the JSON


def run_by(line: CommandLine) -> int:
    """Hold a tournament whose games are comparisons, and print its table; by= says who compares."""
    settings = resolve(TournamentSettings, line.settings)
    _check(settings, line.settings)
    console = open_console(is_stderr=line.as_json)
    measures = None
    if settings.by.partition(":")[0] == LABELS:
        found = _of_labels(line, settings)
    else:
        found, measures = _of_talks(line, settings, console)
    if line.as_json:
        shown = {"run": None if settings.out is None else str(settings.out), **elo_tournament_to_json(found)}
        judged = judged_pairs_to_json(found)
        print(json.dumps({**shown, "judged": judged, "measures": None if measures is None else measures.to_json()}))
    else:
        _print(console, found, measures, out=settings.out)
    return 0


def _check(settings: TournamentSettings, words: Sequence[str]) -> None:
    """Raise UserError for what nobody can judge by, and for settings that then mean nothing."""
    kind = settings.by.partition(":")[0]
    if settings.by != JUDGE and kind != LABELS and not (kind == REWARD_MODEL[:-1] and settings.by != kind):
        raise UserError(f"by={settings.by}: must be judge with model=NAME, rm:PATH of a reward model, or labels")
    if settings.by == JUDGE and not settings.model:
        raise UserError("by=judge needs the language model that judges: model=NAME")
    given = [word.partition("=")[0].partition(".")[0] for word in words]
    for name in given if kind == LABELS else ():
        if name not in OF_LABELS:
            raise UserError(f"{name}= means nothing with by={settings.by}: stored talks count, and nothing is played")
    for name in OF_JUDGE:
        if name in given and settings.by != JUDGE:
            raise UserError(f"{name}= means nothing with by={settings.by}; it is the judge's")


def _of_labels(line: CommandLine, settings: TournamentSettings) -> EloTournament:
    folders = [find_run(name, settings.runs) for name in line.names or [""]]
    by = settings.by.partition(":")[2] or PEOPLE
    return elo_of_labels(list(dict.fromkeys(folders)), seed=settings.seed, by=by, anchor=settings.anchor)


# ----- talks that are played for it -----


def _of_talks(
    line: CommandLine, settings: TournamentSettings, console: Console
) -> tuple[EloTournament, Measures | None]:
    def say(text: str) -> None:
        console.print(Text(one_line(text), style="dim"))

    held = Held.of(line, say=say)
    _check_entries(held)
    if warning := _kinship(held):
        console.print(Text(one_line(warning), style="yellow"))
    with held.open() as writer:
        labeller = _labeller(held, cache=None if writer is None else writer.folder / VERDICTS)
        talks = _play(held, writer)
        pairs = pairs_of(talks)
        num_asked = sum(not pair.is_same for pair in pairs)
        held.say(f"{labeller.by} compares {plural(num_asked, 'pair')}")
        said = said_of(pairs, labeller, on_progress=_Patience(held))
        found = elo_tournament_of(talks, labeller, said, seed=held.settings.seed, anchor=settings.anchor)
        if writer is not None:
            store_said(writer.folder, said, labeller)
            shown = json.dumps(elo_tournament_to_json(found), indent=2)
            write_whole(writer.folder / ELO, shown.encode() + b"\n")
    return found, judge_measures(pairs, said) if settings.by == JUDGE else None


def _check_entries(held: Held) -> None:
    names = held.names
    if len(names) < 2:
        given = f"only {names[0]}" if names else "nobody"
        raise UserError(f"a tournament needs two entries, and {given} takes part: add against=base")
    if CHANCE in names and not isinstance(held.env, Game):
        raise UserError(f"env {held.env.name} has no player by chance; leave chance out")
    anchor = held.settings.anchor
    if anchor and anchor not in names:
        raise UserError(f"anchor={anchor}: no entry has that name{nearest(anchor, names)}")


def _kinship(held: Held) -> str:
    """Return one warning if entries are the judge's kin, else ""."""
    settings = held.settings
    if settings.by != JUDGE:
        return ""
    from selfplay.judge.families import kinship

    found = [kinship(settings.model, entry.model, runs=settings.runs) for entry in held.entries if entry.model]
    warnings = [warning for warning in found if warning]
    more = len(warnings) - 1
    return "".join(warnings[:1]) + (f" (so with {more} more of the entries)" if more > 0 else "")


def _labeller(held: Held, *, cache: Path | None) -> AutoLabeller:
    """Return who compares, ready to; what cannot be had is refused before anything is played."""
    settings = held.settings
    if settings.by.startswith(REWARD_MODEL):
        from selfplay.reward_model.folder import find, load

        folder = find(settings.by.removeprefix(REWARD_MODEL))
        return RewardModelLabeller(load(folder), name=folder.resolve().name)
    from selfplay.judge.pairs import LABELLING, PairJudge

    judge = PairJudge(
        model=settings.model,
        constitution=settings.constitution,
        few_shot=settings.few_shot,
        seed=settings.seed,
        cache=cache,
        runs=settings.runs,
        patience=LABELLING,
    )
    judge.prepare()
    return JudgeLabeller(judge)


def _play(held: Held, writer: RunWriter | None) -> dict[str, list[Conversation]]:
    """Return entry -> the talks in which it has all roles."""
    settings, env = held.settings, held.env
    matches = talk_matches(env, held.names, seed=settings.seed, num_scenarios=settings.conversations)
    whose = {match.id: match.players[env.roles[0]] for match in matches}
    players = held.make_players(writer)
    held.say(f"{plural(len(matches), 'conversation')} on {plural(settings.conversations, 'held-out scenario')}")
    talks: dict[str, list[Conversation]] = {name: [] for name in held.names}
    for one in play_matches(
        matches,
        env=env,
        players=players,
        settings=held.player_settings,
        concurrency=settings.engine.concurrency,
        say=held.say,
    ):
        talks[whose[one.id]].append(one)
        if writer is not None:
            writer.append(one)
    # In the order of their ids, for they end in any order.
    return {name: sorted(own, key=lambda one: id_order(one.id)) for name, own in talks.items()}


class _Patience:
    """Says now and then how far the comparing is."""

    def __init__(self, held: Held) -> None:
        self._say, self._said_at = held.say, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._said_at >= PROGRESS_SECONDS:
            self._said_at = time.monotonic()
            self._say(f"{done} of {plural(total, 'pair')} compared")


# ----- what is shown -----


def _print(console: Console, found: EloTournament, measures: Measures | None, *, out: Path | None) -> None:
    table = found.table
    console.print()
    console.print(_entries(table))
    console.print(Text(one_line(_counts(found)), style="dim"))
    if 1 < len(table.pairs) <= MOST_PAIRS:
        console.print(_pairs(table))
        console.print(Text("bold: the interval excludes 0", style="dim"))
    for text in _notes(found, measures):
        console.print(Text(one_line(text), style="dim"))
    for text in _where(found, out):
        console.print(Text(one_line(text)), soft_wrap=True)
    if out is not None:
        where = f"people compare the same conversations with: {program_name()} label {out}"
        console.print(Text(one_line(where), style="dim"))


def _entries(table: EloTable) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    shown.add_column("")
    for column in ("Elo", f"{table.confidence:.0%} interval", "preferred", "ties", "comparisons"):
        shown.add_column(column, justify="right", no_wrap=True)
    for entry in table.entries:
        bounds = "0 by choice" if entry.name == table.anchor else _interval(entry.low, entry.high)
        shares = f"{entry.win_share:.1%}", f"{entry.tie_share:.1%}"
        shown.add_row(
            Text(one_line(entry.name)), f"{entry.elo:+z.0f}", Text(bounds, style="dim"), *shares, str(entry.num)
        )
    return shown


def _pairs(table: EloTable) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    shown.add_column("")
    for column in ("more", f"{table.confidence:.0%} interval", "preferred", "tied", "not preferred"):
        shown.add_column(column, justify="right", no_wrap=True)
    for pair in table.pairs:
        style = "bold" if pair.is_clear else ""
        counts = (f"{weight:.1f}" for weight in (pair.first_won, pair.tied, pair.second_won))
        shown.add_row(
            Text(one_line(f"{pair.first} over {pair.second}")),
            Text(f"{pair.difference:+z.0f}", style=style),
            Text(_interval(pair.low, pair.high), style=style or "dim"),
            *counts,
        )
    return shown


def _interval(low: float, high: float) -> str:
    return f"{low:+z.0f} to {high:+z.0f}" if math.isfinite(low) else "-"


def _counts(found: EloTournament) -> str:
    table = found.table
    zero = table.anchor or "the mean of all entries"
    counted = f"{plural(table.num, 'comparison')} on {plural(table.num_scenarios, 'scenario')} by {found.by}"
    return f"{counted}; 0 is {zero}; 100 more: preferred in 64% of what is no tie"


def _where(found: EloTournament, out: Path | None) -> list[str]:
    """Return how to find what was compared; nothing where it is not stored."""
    best = next((pair for pair in found.table.pairs if pair.num), None)
    if best is None or (found.talks and out is None):
        return []
    if out is not None:
        wanted = pair_filter(best.first, best.second)
        return [
            f"stored in {out}; {ELO} says for each two what finds their conversations, such as:",
            f"  {program_name()} ls {out} where={shlex.quote(wanted)}",
            f"the page lists each comparison, with both conversations and what was said: {program_name()} view {out}",
        ]
    judged = next(one for one in found.judged if {one.first, one.second} == {best.first, best.second})
    return [
        f"--json says what each comparison rests on, such as {judged.first} and {judged.second} as {judged.role}:",
        f"  {program_name()} ls {judged.run} where={shlex.quote(judged.filter)}",
    ]


def _notes(found: EloTournament, measures: Measures | None) -> list[str]:
    notes = [f"{plural(found.num_same, 'tie')}, for both talks read the same"] if found.num_same else []
    if found.left_out:
        notes.append("left out: " + ", ".join(f"{num} ({why})" for why, num in found.left_out.items()))
    if measures is not None and measures.num:
        from selfplay.judge.measures import measures_text

        notes += measures_text(measures)
    return notes
