"""A run's policy, at any of its versions, played on held-out scenarios on the run's own terms."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from selfplay import checkpoint, models
from selfplay.cluster.model_files import ModelFiles
from selfplay.cluster.play_worker import PlayWorker
from selfplay.dealing import FROZEN, LEARNER
from selfplay.dialog import Conversation, conversation_id, id_order
from selfplay.errors import UserError
from selfplay.evaluate import Measured
from selfplay.experience import trace
from selfplay.interfaces import Env, Game, Likelihood, Weights
from selfplay.play import Match, make_group
from selfplay.play_plan import fixed_players, play_plan
from selfplay.players import CHANCE, HUMAN, POLICY, SCRIPTED
from selfplay.run_reader import RunReader
from selfplay.score import WeightedReward, score
from selfplay.train_settings import TrainSettings

__all__ = ["BASE", "SELF", "Evaluated", "check_opponents", "game_matches", "reference_matches", "reference_players"]

PROGRESS_SECONDS = 10.0
TOKENS_PER_MICROBATCH = 2048
SELF, BASE = "self", "base"  # opponents: the very version that is evaluated, and the policy before training
MATCHED, REFERENCE = "e", "r"  # the letters in the ids of conversations


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """One run's policy, the policy before training, and the terms on which they are compared."""

    settings: TrainSettings  # the run's, with this evaluation's seed and size
    found: Path  # the checkpoint
    env: Env
    rewards: Sequence[WeightedReward]
    say: Callable[[str], None]

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.found.parent.parent

    @property
    def version(self) -> int:
        """How many updates the checkpoint's policy has had."""
        return checkpoint.version_of(self.found)

    @property
    def roles(self) -> list[str]:
        """The roles that the run leaves to the policy, in speaking order."""
        return [role for role in self.env.roles if role not in fixed_players(self.settings)]

    def start(self, players: Iterable[str] = (), *, meets_base: bool = False) -> PlayWorker:
        """Return a worker whose policy is the one before training.

        players: scripted, chance, and models that it must know besides those of the run; meets_base: whether the
        policy before training plays against the policy.  Raises UserError if a model cannot be had, or the run's own
        has changed since.
        """
        settings = self.settings
        model = ModelFiles.of(settings.model, runs=settings.runs, say=self.say)
        before = RunReader(self.run).manifest.get("start_weights")
        if before and before != model.start_weights:
            raise UserError(
                f"model={settings.model} has other weights than when run {self.run} began, so it is not its base; "
                "give the old ones back to compare with them"
            )
        plan = play_plan(settings, env=self.env, model=model, rewards=())
        # The worker makes whoever is named here; which role they have is each match's.
        others = {f"against {name}": name for name in players if name not in (SELF, BASE)}
        fixed, has_frozen = {**plan.fixed, **others}, plan.has_frozen or meets_base
        # `use` gives it whole models, whatever the run itself played with.
        worker = PlayWorker(replace(plan, fixed=fixed, has_frozen=has_frozen, plays_adapters=False))
        worker.start()
        return worker

    def use(self, worker: PlayWorker, version: int) -> None:
        """Let a later version answer as the policy from now on."""
        trained = models.load(f"{self.run}@{version}", device="cpu", dtype="float32", runs=self.settings.runs)
        worker.load(Weights(version=version, state=trained.model.state_dict()))

    def play(self, name: str, worker: PlayWorker, matches: Sequence[Match]) -> list[Conversation]:
        """Play matches and return the conversations in the order of their ids; name: of who plays, for people."""
        count = f"{len(matches)} conversation{'' if len(matches) == 1 else 's'}"
        self.say(f"{name}: {count} on held-out scenarios")
        finished: list[Conversation] = []
        said = time.monotonic()
        for played in worker.play(matches):
            finished.append(played.conversation)
            if time.monotonic() - said >= PROGRESS_SECONDS:
                said = time.monotonic()
                self.say(f"{name}: {len(finished)} of {len(matches)} finished")
        return sorted(finished, key=lambda conversation: id_order(conversation.id))

    def measure(self, sides: Sequence[Sequence[Conversation]]) -> list[list[Measured]]:
        """Return each side with its rewards, and with what the policy before training says of its words.

        What the policy said nothing in has no likelihood: it counts no token.
        """
        from selfplay.learn.likelihood import likelihoods

        settings = self.settings
        timeout_seconds = settings.reward_timeout_seconds
        scored = [score(side, self.rewards, timeout_seconds=timeout_seconds) if side else [] for side in sides]
        self.say("scoring what was said under the base")
        base = models.load(settings.model, device=settings.engine.device, dtype="float32", runs=settings.runs)
        found = likelihoods(
            base.model,
            [trajectory for side in scored for one in side for trajectory in trace(one)],
            temperature=settings.sampling.temperature,
            tokens_per_microbatch=TOKENS_PER_MICROBATCH,
        )
        known = {likelihood.conversation: likelihood for likelihood in found}

        def likelihood_of(id: str) -> Likelihood:
            return known.get(id) or Likelihood(conversation=id, num_tokens=0, nll=0.0, kl=0.0)

        return [
            [Measured(scored=one, likelihood=likelihood_of(one.conversation.id)) for one in side] for side in scored
        ]


def game_matches(evaluated: Evaluated, opponents: Sequence[str], *, version: int) -> dict[str, list[Match]]:
    """Return opponent -> a version's matches on the run's held-out scenarios.

    On every scenario the policy has each of its roles in turn, and the opponent all the others; with "self" it has all
    of its roles at once, and the run's fixed players have theirs.  Scenarios and draws are the same for every version
    and every opponent.
    """
    env, settings, roles = evaluated.env, evaluated.settings, evaluated.roles
    found: dict[str, list[Match]] = {name: [] for name in opponents}
    for group in range(settings.evaluation.conversations):
        drawn = make_group(env, {}, seed=settings.seed, split="held_out", place=(0, group), size=len(roles))
        for number, name in enumerate(opponents):
            for index, players in enumerate(_castings(evaluated, name)):
                id = conversation_id(step=version, letter=MATCHED, group=group, index=number * len(roles) + index)
                found[name].append(replace(drawn[index], id=id, players=players))
    return found


def _castings(evaluated: Evaluated, opponent: str) -> list[dict[str, str]]:
    """Return role -> player for each conversation that a scenario has against one opponent."""
    roles, own = evaluated.env.roles, evaluated.roles
    if opponent == SELF:
        return [{**dict.fromkeys(own, LEARNER), **fixed_players(evaluated.settings)}]
    other = FROZEN if opponent == BASE else opponent
    return [{role: LEARNER if role == taken else other for role in roles} for taken in own]


def reference_matches(evaluated: Evaluated, players: Sequence[str]) -> list[Match]:
    """Return matches on the same scenarios in which each of these players has every role."""
    env, settings = evaluated.env, evaluated.settings
    return [
        replace(
            make_group(env, dict.fromkeys(env.roles, name), seed=settings.seed, split="held_out", place=(0, group))[0],
            id=conversation_id(step=0, letter=REFERENCE, group=group, index=index),
        )
        for group in range(settings.evaluation.conversations)
        for index, name in enumerate(players)
    ]


def reference_players(env: Env) -> list[str]:
    """Return which players of the environment's own make its reference lines: a game has both."""
    return [SCRIPTED, CHANCE] if isinstance(env, Game) else [SCRIPTED]


def check_opponents(names: Sequence[str], env: Env, *, runs: Path) -> None:
    """Raise UserError for what can be no opponent in this environment; nothing is loaded."""
    for name in names:
        if name in (HUMAN, POLICY):
            right = "`play` lets a person take a role" if name == HUMAN else "the policy itself is against=self"
            raise UserError(f"against={name}: {right}")
        if name != SELF and len(env.roles) == 1:
            raise UserError(f"against={name}: env {env.name} has one role, so nobody is met there; use against=self")
        if name == CHANCE and not isinstance(env, Game):
            raise UserError(f"against=chance: env {env.name} has no player by chance; use base, scripted or a model")
        if name not in (SELF, BASE, SCRIPTED, CHANCE):
            models.check_name(name, key="against", runs=runs)
