"""What was typed for `train` and does nothing: refused where it can never be meant, else told in a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rewards.outcome import Payoff, SharedPayoff
from selfplay.errors import UserError
from selfplay.game_numbers import contest_of, is_scored
from selfplay.interfaces import Env
from selfplay.score import WeightedReward, has_failed
from selfplay.train_settings import LeagueGroup, TrainSettings
from selfplay.trainable import played_by_own

__all__ = ["check_league_words", "check_payoffs", "idle_settings"]

LEAGUE, RAY = "league.", "ray."  # what the words of a group begin with
NUM_PLAYED = 8  # scenarios that each of an environment's own players plays to show what it pays


def check_league_words(words: Sequence[str], settings: TrainSettings) -> None:
    """Raise UserError for words about a league where there is none."""
    typed = _keys(words, LEAGUE)
    if typed and settings.partner != "league":
        raise UserError(
            f"{typed[0]} has no effect with partner={settings.partner}: add partner=league, or leave it out"
        )


def check_payoffs(rewards: Sequence[WeightedReward], env: Env, *, seed: int) -> None:
    """Raise UserError if a reward is the payoff, and the environment pays nothing; weight 0 only measures."""
    of_payoffs = [
        weighted.name
        for weighted in rewards
        if isinstance(weighted.reward, Payoff | SharedPayoff) and (weighted.weight or weighted.is_gate)
    ]
    if of_payoffs and _pays(env, seed=seed) is False:
        raise UserError(
            f"env {env.name} pays nothing, so the reward {of_payoffs[0]} would never apply; leave it out, or choose "
            "a game (`list envs`)"
        )


def idle_settings(words: Sequence[str], settings: TrainSettings, env: Env, *, goes_on: bool) -> Iterator[str]:
    """Yield a warning for each setting that may be meant, and does nothing here.

    words: as they were typed; goes_on: whether the other settings are those of a run that goes on.
    """
    idle = [key for key in _keys(words, RAY) if key != "ray.address"]
    if idle and settings.cluster == "local":
        yield f"{', '.join(idle)}: no effect with cluster=local, which does everything in this process"
    if goes_on:
        return
    if settings.partner != "league" and settings.league != LeagueGroup():
        yield f"league: what the file says of it has no effect with partner={settings.partner}"
    if settings.partner == "league":
        yield from _league_without_winners(settings, env)


def _league_without_winners(settings: TrainSettings, env: Env) -> Iterator[str]:
    played = [one for one in played_by_own(env, seed=settings.seed, num=NUM_PLAYED) if not has_failed(one)]
    if not played or contest_of(played) != "none":
        return
    why = "all roles are always paid the same" if any(map(is_scored, played)) else "nothing is paid"
    draws = ", and league.choose=prioritised draws as uniform does" if settings.league.choose == "prioritised" else ""
    yield f"env {env.name}, as its own players show: {why}, so nobody wins: this league has no ratings{draws}"


def _pays(env: Env, *, seed: int) -> bool | None:
    """Whether an environment pays its roles, as its own players show; None: all that they played failed."""
    played = [one for one in played_by_own(env, seed=seed, num=1, splits=("train",)) if not has_failed(one)]
    return any(map(is_scored, played)) if played else None


def _keys(words: Sequence[str], prefix: str) -> list[str]:
    return [key for word in words if (key := word.partition("=")[0]).startswith(prefix)]
