"""Held-out games before and after imitation: how often the form is kept, the aim reached, and what it pays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfplay.cluster.model_files import ModelFiles
from selfplay.cluster.play_worker import PlayPlan, PlayWorker
from selfplay.dealing import Dealer
from selfplay.dialog import Conversation, id_order
from selfplay.evaluate import Difference, Mean, ratio_means
from selfplay.game_numbers import Sums, game_sums, is_scored
from selfplay.generate.scripted import ScriptedGenerator
from selfplay.interfaces import Env, Sampling, Weights
from selfplay.play import Match, play
from selfplay.players import SCRIPTED, Player
from selfplay.score import has_failed
from selfplay.sft_settings import SftSettings

__all__ = ["BASE", "TRAINED", "GameTally", "Games", "Tally", "changes_to_json", "sides_to_json", "tally_of"]

BASE, TRAINED = "base", "trained"  # sides; scripts are a third
FORM, AIM, PAYOFF, TURNS, CUT = "game/protocol_ok", "game/success", "game/payoff", "game/turns", "play/cut_share"
ORDER = (FORM, AIM, PAYOFF, TURNS, CUT)
UNKNOWN = Mean(value=math.nan, low=math.nan, high=math.nan)
CHANGE = "change"  # stands for a side: from base to trained
KEYS = {"protocol": FORM, "success": AIM, "payoff": PAYOFF, "turns": TURNS, "cut": CUT}  # in JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What one side's games came to.  Example: ``Tally(failed=3, numbers={"game/protocol_ok": Mean(...)})``."""

    failed: int  # games
    numbers: Mapping[str, Mean]  # by name, as `selfplay.evaluate.compare` names them, where the game says anything


@dataclass(frozen=True, slots=True, kw_only=True)
class GameTally:
    """What all sides' games came to, on the same scenarios.

    The form, the aim, turns and turns that a limit cut are over all games: one that failed, as by an empty reply, or
    that a limit of the engine cut, kept no form and reached no aim.  Payoffs, the mean over roles and each role's, are
    over the scenarios where every side was paid.
    """

    games: int  # of each side, one on each scenario
    paid: int  # scenarios that payoffs are over
    partly_paid: int  # scenarios where only some sides were paid
    sides: Mapping[str, Tally]  # base, trained, scripted
    changes: tuple[Difference, ...]  # from base to trained, with intervals paired by scenario


def tally_of(games: Mapping[str, Sequence[Conversation]], *, seed: int) -> GameTally:
    """Return what games of several sides, base and trained among them, came to; each scenario has one of every side."""
    sides = [sorted(played, key=lambda game: game.scenario.seed) for played in games.values()]
    scenarios = [dict(zip(games, row, strict=True)) for row in zip(*sides, strict=True)]
    has_aim = any("success" in game.outcome.facts for side in sides for game in side if game.outcome is not None)
    means = ratio_means([_sums(scenario, has_aim=has_aim) for scenario in scenarios], seed=seed)
    return GameTally(
        games=len(scenarios),
        paid=sum(_is_paid(scenario) for scenario in scenarios),
        partly_paid=sum(any(map(is_scored, one.values())) and not _is_paid(one) for one in scenarios),
        sides={
            side: Tally(failed=sum(map(has_failed, played)), numbers=_of_side(means, side))
            for side, played in games.items()
        },
        changes=tuple(_changes(means)),
    )


def sides_to_json(tally: GameTally) -> dict[str, Any]:
    """Return what each side's games came to as JSON values; what the game does not say is None."""
    return {name: _side_to_json(side, games=tally.games) for name, side in tally.sides.items()}


def changes_to_json(tally: GameTally) -> dict[str, Any]:
    """Return what changed as JSON values."""
    ends = ("base", "trained", "difference", "low", "high")
    return {row.name: {end: _plain(getattr(row, end)) for end in ends} for row in tally.changes}


def _changes(means: Mapping[str, Mean]) -> Iterator[Difference]:
    base, trained, changes = (_of_side(means, side) for side in (BASE, TRAINED, CHANGE))
    # In the order of a table, whatever the first scenario says.
    for name in sorted(trained, key=lambda name: [name.startswith(start) for start in ORDER], reverse=True):
        change = changes.get(name, UNKNOWN)
        difference = trained[name].value - base[name].value
        yield Difference(
            name=name,
            base=base[name].value,
            trained=trained[name].value,
            difference=difference,
            low=change.low,
            high=change.high,
        )


def _sums(scenario: Mapping[str, Conversation], *, has_aim: bool) -> Sums:
    """Return the numbers of one scenario by side and name, and what changed.

    The difference of two means over the same scenarios is the mean of their differences, which resampling scenarios
    gives an interval, paired.
    """
    assert len({game.scenario.seed for game in scenario.values()}) == 1, "sides of other scenarios"
    is_paid = _is_paid(scenario)
    found = {side: _numbers(game, has_aim=has_aim, is_paid=is_paid) for side, game in scenario.items()}
    before, after = found[BASE], found[TRAINED]
    found[CHANGE] = {name: after[name] - value for name, value in before.items() if name in after}
    sums = {(side, name): (value, 1.0) for side, numbers in found.items() for name, value in numbers.items()}
    for side, game in scenario.items():
        sums[side, CUT] = float(sum(turn.is_cut for turn in game.turns)), float(game.num_turns)
    return {_of(side, name): pair for (side, name), pair in sums.items()}


def _numbers(game: Conversation, *, has_aim: bool, is_paid: bool) -> dict[str, float]:
    outcome = game.outcome if game.outcome is not None and game.outcome.status == "terminated" else None
    numbers = {FORM: float(outcome is not None and outcome.protocol_ok)}
    if has_aim:
        numbers[AIM] = float(outcome is not None and bool(outcome.facts.get("success")))
    if is_paid:
        sums = game_sums(game, game.scenario.roles)
        numbers |= {name: top for name, (top, _) in sums.items() if name == PAYOFF or name.startswith(f"{PAYOFF}/")}
    return numbers | {TURNS: float(game.num_turns)}


def _is_paid(scenario: Mapping[str, Conversation]) -> bool:
    return all(is_scored(game) for game in scenario.values())


def _of(side: str, name: str) -> str:
    return f"{side}:{name}"


def _of_side(means: Mapping[str, Mean], side: str) -> dict[str, Mean]:
    prefix = _of(side, "")
    return {name.removeprefix(prefix): mean for name, mean in means.items() if name.startswith(prefix)}


def _side_to_json(side: Tally, *, games: int) -> dict[str, Any]:
    roles = {name.removeprefix(f"{PAYOFF}/"): mean for name, mean in side.numbers.items() if f"{PAYOFF}/" in name}
    found = {key: side.numbers[name] for key, name in KEYS.items() if name in side.numbers}
    return {
        "games": games,
        "failed": side.failed,
        **{key: _plain(found[key].value) if key in found else None for key in KEYS},
        "payoffs": {role: _plain(mean.value) for role, mean in roles.items()},
        "intervals": {key: [_plain(mean.low), _plain(mean.high)] for key, mean in found.items()},
    }


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


class Games:
    """Plays the same held-out scenarios with whatever the policy is now."""

    def __init__(self, settings: SftSettings, env: Env, model: ModelFiles, *, roles: Sequence[str]) -> None:
        """Load the model.  roles: those that it plays; scripts play the others.

        Raises UserError if it cannot be had.
        """
        fixed = {role: SCRIPTED for role in env.roles if role not in roles}
        self._env = env
        self._num = settings.evaluation.conversations
        self._dealer = Dealer(env=env, seed=settings.seed, conversations=1, fixed=fixed)
        self._worker = PlayWorker(
            PlayPlan(
                env=env,
                model=model,
                fixed=fixed,
                uses_adapters=settings.method == "lora",
                sampling=Sampling(**settings.sampling.model_dump()),
                device=settings.engine.device,
                dtype=settings.engine.dtype,
                threads=settings.engine.threads,
                max_batch=settings.engine.max_batch,
                concurrency=settings.engine.concurrency,
            )
        )
        self.facts: Mapping[str, Any] = self._worker.start()  # for the run's manifest

    @property
    def tokenizers(self) -> Mapping[str, str]:
        """Hash -> description, for the run folder."""
        return self._worker.tokenizers

    def play(self, version: int, weights: Weights | None = None) -> Iterator[Conversation]:
        """Yield the games of a version as they end; weights: its own, None: those that the model began with."""
        if weights is not None:
            self._worker.load(weights)
        for played in self._worker.play(self._matches(version)):
            yield played.conversation

    def by_scripts(self) -> list[Conversation]:
        """Return the games on the same scenarios that scripts play in every role."""
        players = {SCRIPTED: Player(policy=SCRIPTED, generator=ScriptedGenerator(self._env))}
        matches = [
            Match(id=one.id, scenario=one.scenario, players=dict.fromkeys(one.players, SCRIPTED), seed=one.seed)
            for one in self._matches(0)
        ]
        return sorted(play(matches, env=self._env, players=players), key=lambda game: id_order(game.id))

    def _matches(self, version: int) -> list[Match]:
        return self._dealer.evaluation(version, conversations=self._num)
