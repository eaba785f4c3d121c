"""Held-out games before and after imitation: how often the form is kept, the aim reached, and what it pays.

Legend: N games.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from selfplay.cluster.model_files import ModelFiles
from selfplay.cluster.play_worker import PlayPlan, PlayWorker
from selfplay.dealing import Dealer
from selfplay.dialog import Conversation, id_order
from selfplay.generate.scripted import ScriptedGenerator
from selfplay.interfaces import Env, Sampling, Weights
from selfplay.play import Match, play
from selfplay.players import SCRIPTED, Player
from selfplay.score import has_failed
from selfplay.sft_settings import SftSettings

__all__ = ["Games", "Tally", "tally_of", "tally_to_json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What games came to; NaN: the game does not say.

    A game that failed, as by an empty reply, or that a limit of the engine cut, kept no form, reached no aim, and pays
    nothing that could be counted.
    """

    games: int
    failed: int
    protocol: float  # share of the games whose form was kept
    success: float  # share that reached the aim
    payoff: float  # mean over games and roles, env units
    turns: float  # mean
    cut: float  # share of the turns that a limit ended
    payoffs: Mapping[str, float] = field(default_factory=dict)  # role -> mean over games


def tally_of(games: Sequence[Conversation]) -> Tally:
    """Return what games that ended came to."""
    played = [game for game in games if not has_failed(game)]
    outcomes = [game.outcome for game in played if game.outcome and game.outcome.status == "terminated"]
    reached = [outcome.facts["success"] for outcome in outcomes if "success" in outcome.facts]
    roles = dict.fromkeys(role for outcome in outcomes for role in outcome.payoff)
    payoffs = {role: _mean([outcome.payoff[role] for outcome in outcomes if role in outcome.payoff]) for role in roles}
    turns = [turn for game in games for turn in game.turns]
    return Tally(
        games=len(games),
        failed=len(games) - len(played),
        protocol=_mean([float(outcome.protocol_ok) for outcome in outcomes], num=len(games)),
        success=_mean([float(bool(one)) for one in reached], num=len(games)) if reached else math.nan,
        payoff=_mean(list(payoffs.values())),
        turns=_mean([float(game.num_turns) for game in games]),
        cut=_mean([float(turn.is_cut) for turn in turns]),
        payoffs=payoffs,
    )


def tally_to_json(tally: Tally) -> dict[str, Any]:
    """Return a tally as JSON values; what the game does not say is None."""
    return {name: _plain(value) for name, value in asdict(tally).items()}


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _mean(values: Sequence[float], *, num: int | None = None) -> float:
    count = len(values) if num is None else num
    return math.fsum(values) / count if count else math.nan


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
