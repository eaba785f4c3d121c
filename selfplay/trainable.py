"""Which settings cannot be trained with at an environment, as far as it shows before a model loads."""

from __future__ import annotations

from collections.abc import Sequence

from selfplay.dialog import SPLITS, Conversation, Split
from selfplay.errors import UserError
from selfplay.interfaces import Env, Game, View
from selfplay.play import make_group, play
from selfplay.players import CHANCE, SCRIPTED, PlayerSettings, make_players
from selfplay.train_settings import TrainSettings
from selfplay.written import nearest

__all__ = ["check_trainable", "played_by_own"]

NUM_SHARED = 2  # scenarios of each split that are looked at for what one stream cannot hold


def check_trainable(settings: TrainSettings, env: Env, *, goes_on: bool = False) -> None:
    """Raise UserError if roles, opponents or the view of these settings cannot be had at the environment.

    goes_on: whether a run goes on that began with these settings; it keeps those that only have no effect.
    """
    for role, name in settings.players.items():
        if role not in env.roles:
            raise UserError(f"players.{role}: env {env.name} has no such role{nearest(role, list(env.roles))}")
        if name == "human":
            raise UserError(f"players.{role}=human: a person plays with `play`; nobody can sit through training")
    free = [role for role in env.roles if settings.players.get(role, "policy") == "policy"]
    if not free:
        raise UserError(f"players: every role of env {env.name} is taken, so no policy would be trained; free one")
    if len(free) == 1:
        _check_one_role(settings, env, goes_on=goes_on)
    if settings.view == "shared":
        _check_shared(settings, env)


def played_by_own(
    env: Env, *, seed: int, num: int, splits: Sequence[Split] = SPLITS, view: View = "perspective"
) -> list[Conversation]:
    """Return conversations of an environment's own players, scripts and, in a game, chance: num of each and each split.

    The scenarios are the first ones that a training of that seed plays.
    """
    players = [SCRIPTED, CHANCE] if isinstance(env, Game) else [SCRIPTED]
    table = make_players(players, env=env, settings=PlayerSettings(), say=_silent, write=_silent)
    found: list[Conversation] = []
    for player in players:
        for split in splits:
            seats = dict.fromkeys(env.roles, player)
            groups = (make_group(env, seats, seed=seed, split=split, place=(0, n), size=1) for n in range(num))
            matches = [match for group in groups for match in group]
            found += play(matches, env=env, players=table.players, view=view)
    return found


def _check_one_role(settings: TrainSettings, env: Env, *, goes_on: bool) -> None:
    left = f"env {env.name} has one role" if len(env.roles) == 1 else "players.* takes too many"
    advice = "use partner=mirror" if len(env.roles) == 1 else "free one, or use partner=mirror"
    if settings.partner == "league":
        raise UserError(f"partner=league needs a role for the policy and one for its opponent, and {left}; {advice}")
    if settings.partner == "frozen" and not goes_on:
        raise UserError(
            f"partner=frozen needs a role for the policy and one for the policy before training, and {left}; {advice}"
        )


def _check_shared(settings: TrainSettings, env: Env) -> None:
    """Refuse an environment whose roles one stream cannot hold; `play` itself looks at briefs and private parts."""
    for one in played_by_own(env, seed=settings.seed, num=NUM_SHARED, view="shared"):
        for before, turn in zip(one.turns, one.turns[1:], strict=False):
            if turn.role == before.role:
                raise UserError(
                    f"view=shared: in env {env.name} {turn.role} speaks twice in a row, which one stream for both "
                    "roles cannot show; use view=perspective"
                )
            if turn.heard_text != before.text:
                raise UserError(
                    f"view=shared: env {env.name} tells {turn.role} more than its partner said, which one stream for "
                    "both roles cannot hold; use view=perspective"
                )


def _silent(_text: str) -> None:
    """Say nothing."""
