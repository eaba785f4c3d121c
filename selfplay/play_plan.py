"""What the settings of a training say of its play: who deals, who is fixed, what a play worker needs."""

from __future__ import annotations

from collections.abc import Sequence

from selfplay.cluster.model_files import ModelFiles
from selfplay.cluster.play_worker import PlayPlan
from selfplay.dealing import Dealer
from selfplay.interfaces import Env, Sampling
from selfplay.players import SCRIPTED
from selfplay.score import WeightedReward
from selfplay.train_settings import TrainSettings

__all__ = ["dealer_of", "fixed_players", "play_plan"]


def play_plan(settings: TrainSettings, *, env: Env, model: ModelFiles, rewards: Sequence[WeightedReward]) -> PlayPlan:
    """Return what a play worker of these settings needs."""
    cheap = tuple(weighted for weighted in rewards if weighted.is_cheap)
    return PlayPlan(
        env=env,
        model=model,
        rewards=cheap,
        reward_timeout_seconds=settings.reward_timeout_seconds,
        fixed=fixed_players(settings) | _scripted_opponents(settings),
        has_frozen=settings.partner != "mirror",
        uses_adapters=settings.learner.method == "lora",
        plays_adapters=settings.partner == "league" and settings.learner.method == "lora",
        view=settings.view,
        sampling=Sampling(**settings.sampling.model_dump()),
        device=settings.engine.device,
        dtype=settings.engine.dtype,
        threads=settings.engine.threads,
        max_batch=settings.engine.max_batch,
        concurrency=settings.engine.concurrency,
    )


def _scripted_opponents(settings: TrainSettings) -> dict[str, str]:
    """Return the scripted player under a name that is no role's, where the league draws it."""
    is_drawn = settings.partner == "league" and settings.league.scripted_ratio > 0
    return {"a league's opponent": SCRIPTED} if is_drawn else {}


def dealer_of(settings: TrainSettings, env: Env) -> Dealer:
    """Return who deals the matches of these settings, in training and in evaluation."""
    return Dealer(
        env=env,
        seed=settings.seed,
        conversations=settings.conversations,
        group_size=settings.group_size,
        partner=settings.partner,
        fixed=fixed_players(settings),
    )


def fixed_players(settings: TrainSettings) -> dict[str, str]:
    """Return role -> player for the roles that are never the policy's."""
    return {role: name for role, name in settings.players.items() if name != "policy"}
