"""Elo of policies from what people, or others, said of stored talks: nothing is played, and nobody asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from selfplay.bradley_terry import PairResult, fit_elo
from selfplay.dealing import FROZEN, LEARNER
from selfplay.dialog import Conversation, PlayerInfo
from selfplay.errors import UserError
from selfplay.evaluate_play import BASE
from selfplay.preferences import Preference, Ranking, read_preferences
from selfplay.run_reader import RunReader
from selfplay.score import has_failed
from selfplay.tournament_by import EloTournament, JudgedPair, check_connected, pair_result, scenario_of

__all__ = ["PEOPLE", "elo_of_labels"]

PEOPLE = "person"  # what stands before the colon in the names of people who label


def elo_of_labels(runs: Sequence[Path], *, seed: int, by: str = PEOPLE, anchor: str = "") -> EloTournament:
    """Return the table of all policies whose talks were compared in these runs; nothing is played or asked.

    by: whose labels count, a name as in preferences.jsonl or what stands before its colon.  A policy is named by the
    run that trained it and its version, as in "chat@30", or by its model; the player of the role that was asked about
    counts.  Choices and rankings count, ratings do not; nor does what says neither is worth having, repeats with sides
    swapped, and comparisons of a policy with itself.
    Raises UserError if there is no label of two policies, or labels do not connect all of them.
    """
    reading = _Labels(by=by)
    for folder in runs:
        reading.read(folder)
    results = reading.results
    if not results:
        raise UserError(_why_no_result(runs, reading))
    check_connected(results, [], why=f"no label of {by} compares one with another")
    table = fit_elo(results, seed=seed, anchor=anchor)
    return EloTournament(by=by, table=table, judged=tuple(reading.judged), left_out=dict(reading.left_out))


@dataclass(slots=True, kw_only=True)
class _Labels:
    """The labels read so far."""

    by: str
    judged: list[JudgedPair] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)  # who else said something -> how much
    num: int = 0

    @property
    def results(self) -> list[PairResult]:
        return [pair_result(one.first, one.second, one.scenario, one.probability_first) for one in self.judged]

    def read(self, folder: Path) -> None:
        lines = read_preferences(folder)
        labels = [one for one in lines.entries if isinstance(one, Preference | Ranking)]
        own = [one for one in labels if self.by in (one.by, one.by.partition(":")[0])]
        self.others.update(one.by.partition(":")[0] for one in labels if one not in own)
        self.num += len(own)
        self.left_out.update({"line that cannot be read": len(lines.problems)} if lines.problems else {})
        talks = _Talks.of(folder)
        known = {one.id for one in own}
        for label in own:
            if isinstance(label, Ranking):
                self._add_ranking(label, talks)
            elif label.probability_left is None:
                self.left_out["both bad"] += 1
            elif label.swap_of in known:
                self.left_out["repeat with sides swapped"] += 1
            else:
                self._add(label, (label.left, label.right), label.probability_left, talks)

    def _add_ranking(self, ranking: Ranking, talks: _Talks) -> None:
        for (left, one), (right, other) in combinations(zip(ranking.ids, ranking.ranks, strict=True), 2):
            # The first of a ranking has rank 1.
            self._add(ranking, (left, right), 0.5 + 0.5 * ((one < other) - (one > other)), talks)

    def _add(self, label: Preference | Ranking, ids: tuple[str, str], probability: float, talks: _Talks) -> None:
        focus = label.focus
        found = [talks.conversations.get(id) for id in ids]
        sides = [one for one in found if one is not None and focus in one.players]
        if len(sides) < 2:
            self.left_out["conversation that is not there"] += 1
            return
        if any(has_failed(side) for side in sides):
            self.left_out["failed conversation"] += 1
            return
        first, second = (talks.entry(side, focus) for side in sides)
        if first == second:
            self.left_out["one policy with itself"] += 1
            return
        self.judged.append(
            JudgedPair(
                first=first,
                second=second,
                first_id=ids[0],
                second_id=ids[1],
                role=focus,
                scenario=scenario_of(sides[0]),
                probability_first=probability,
                by=label.by,
                question=label.question,
                principle=label.principle,
                detail=label.detail if isinstance(label, Preference) else {},
                run=talks.run,
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Talks:
    """The conversations of a run, and whose they are."""

    conversations: Mapping[str, Conversation]
    trained: str  # the run whose versions play as the learner
    run: str  # the folder they are in

    @classmethod
    def of(cls, folder: Path) -> _Talks:
        reader = RunReader(folder)
        manifest = reader.manifest
        # An evaluation names the checkpoint that it played, as RUN@STEP.
        model = str(manifest.get("model", "")) if manifest.get("kind") == "eval" else ""
        name = Path(model.rpartition("@")[0]).name or reader.name
        conversations = {one.id: one for one in reader.conversations()}
        return cls(conversations=conversations, trained=name, run=str(folder))

    def entry(self, conversation: Conversation, role: str) -> str:
        return _name_of(conversation.players[role], self.trained)


def _name_of(player: PlayerInfo, run: str) -> str:
    if not player.model:
        return player.policy
    if player.policy == LEARNER or player.policy.startswith("past:"):
        return f"{run}@{player.version}" if player.version else player.model
    return player.model if player.policy in (FROZEN, BASE) else player.policy


def _why_no_result(runs: Sequence[Path], labels: _Labels) -> str:
    where = f"run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} runs"
    if labels.num:
        why = ", ".join(f"{why} {num}" for why, num in labels.left_out.items())
        return f"none of the {labels.num} labels by {labels.by} in {where} compares two policies ({why})"
    others = ", ".join(f"{num} by {by}" for by, num in labels.others.items())
    there = f"it holds {others}, which by=labels:NAME takes" if others else "`label RUN` asks people for some"
    return f"{where} holds no label by {labels.by}; {there}"
