"""The league of a policy's past: whom it meets next, how it did against each of them, and how good all of them are.

A league knows names and numbers only; where the snapshots' weights lie is others' business.  A past snapshot is the
player "past:VERSION"; the other opponents are the policy itself, the policy as it was before training, and the
environment's scripted player.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from selfplay.dealing import FROZEN, LEARNER
from selfplay.dialog import Conversation
from selfplay.errors import UserError
from selfplay.game_numbers import is_scored
from selfplay.play import draw_seed
from selfplay.players import SCRIPTED
from selfplay.skill import EQUAL, Skill, after_update, places, rate
from selfplay.train_settings import LeagueGroup

__all__ = ["PAST", "League", "Result", "past_name", "past_version"]

PAST = "past:"  # what the names of past snapshots begin with
DRAW_OPPONENT = 4101  # first part of the spawn key
PRIOR = 0.5, 1.0  # points and games that every opponent has beforehand: one tie

Results = dict[str, dict[str, "Result"]]  # opponent -> role of the policy -> what it came to


def past_name(version: int) -> str:
    """Return the name of a past snapshot, such as "past:10"."""
    return f"{PAST}{version}"


def past_version(player: str) -> int | None:
    """Return the version of the snapshot that a name means; None: it means no snapshot."""
    return int(player.removeprefix(PAST)) if player.startswith(PAST) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the policy came to in one role against one opponent."""

    wins: int = 0
    ties: int = 0
    losses: int = 0
    payoff: float = 0.0  # sum over the games, env units
    opponent_payoff: float = 0.0  # the same of the opponent, over several roles their mean

    @property
    def num_games(self) -> int:
        """How many conversations with payoffs there were."""
        return self.wins + self.ties + self.losses

    @property
    def points(self) -> float:
        """1 for a win and a half for a tie."""
        return self.wins + self.ties / 2

    def and_game(self, payoff: float, paid: Sequence[float]) -> Result:
        """Return the result after one more game; paid: of each of the opponent's roles, of which the best counts."""
        lead = payoff - max(paid)
        return Result(
            wins=self.wins + (lead > EQUAL),
            ties=self.ties + (abs(lead) <= EQUAL),
            losses=self.losses + (lead < -EQUAL),
            payoff=self.payoff + payoff,
            opponent_payoff=self.opponent_payoff + math.fsum(paid) / len(paid),
        )


class League:
    """Draws opponents and keeps results and ratings.

    Draws depend on (seed, step // swap_steps, slot) and on what was recorded before them; once drawn they stand for
    their steps, and are part of what `to_json` keeps.  So a league that is read back goes on as if nothing had been.
    """

    def __init__(self, settings: LeagueGroup, *, seed: int, roles: Sequence[str]) -> None:
        """Begin with no snapshot and no game; roles: those that are no fixed player's."""
        if len(roles) < 2:
            raise UserError(
                "partner=league needs a role for the policy and one for its opponent, and players.* takes too many; "
                "free one, or use partner=mirror"
            )
        self._settings = settings
        self._seed = seed
        self._roles = tuple(roles)
        self._snapshots: list[int] = []
        self._standing: dict[int, list[str]] = {}  # step // swap_steps -> who was drawn, by slot
        self._ratings: dict[str, dict[str, Skill]] = {}
        self._results: Results = {}
        self._newest: Results = {}  # of the step that was recorded last
        self._met: Counter[str] = Counter()  # opponent -> conversations of that step
        self._has_winners = False  # whether two roles of a conversation were ever paid differently

    # ----- who may be met -----

    @property
    def snapshots(self) -> tuple[int, ...]:
        """The versions of all snapshots, the oldest first."""
        return tuple(self._snapshots)

    @property
    def pool(self) -> tuple[int, ...]:
        """The versions that may be drawn."""
        window = self._settings.window
        return tuple(self._snapshots[-window:] if window else self._snapshots)

    def add(self, version: int) -> None:
        """Let a snapshot of the policy as it is now join; it is believed to be as good as the policy."""
        if version in self._snapshots:
            raise ValueError(f"version {version} is in the league already; it has {self._snapshots}")
        self._snapshots = sorted([*self._snapshots, version])
        self._ratings[past_name(version)] = dict(self._ratings.get(LEARNER, {}))

    def drop(self, version: int) -> None:
        """Let a snapshot that has vanished leave: draws that named it are drawn again; its results stay on record."""
        if version not in self._snapshots:
            raise ValueError(f"version {version} is not in the league; it has {self._snapshots}")
        self._snapshots.remove(version)
        for period, players in self._standing.items():
            for slot, player in enumerate(players):
                if past_version(player) == version:
                    players[slot] = self._draw(period, slot)

    # ----- draws -----

    def opponents(self, step: int) -> tuple[str, ...]:
        """Return who is met in a step, one for each slot; LEARNER: the policy meets itself."""
        period = step // self._settings.swap_steps
        if period not in self._standing:
            self._standing[period] = [self._draw(period, slot) for slot in range(self._settings.opponents)]
        return tuple(self._standing[period])

    def _draw(self, period: int, slot: int) -> str:
        kind, which = (draw_seed(self._seed, (DRAW_OPPONENT, period, slot, n), bits=53) / 2**53 for n in (0, 1))
        settings = self._settings
        shares = {
            LEARNER: settings.play_against_latest_model_ratio,
            FROZEN: settings.frozen_ratio,
            SCRIPTED: settings.scripted_ratio,
        }
        for player, share in shares.items():
            if kind < share:
                return player
            kind -= share
        pool = self.pool
        if not pool:
            return FROZEN
        return past_name(pool[_place(which, [self._weight(version) for version in pool])])

    def _weight(self, version: int) -> float:
        """Return how likely a snapshot is drawn, up to a factor.

        Source: Vinyals et al. 2019, Grandmaster level in StarCraft II using multi-agent reinforcement learning,
        Methods, prioritized fictitious self-play, f_hard with p = 2.
        """
        return 1.0 if self._settings.choose == "uniform" else (1.0 - self.win_rate(past_name(version))) ** 2

    # ----- results -----

    @property
    def results(self) -> Mapping[str, Mapping[str, Result]]:
        """Opponent -> role of the policy -> what it came to since the run began."""
        return self._results

    @property
    def ratings(self) -> Mapping[str, Mapping[str, Skill]]:
        """Player -> role -> its skill; LEARNER: the policy as it is now.  Only what has played, or is a snapshot."""
        return self._ratings

    def win_rate(self, opponent: str) -> float:
        """Return the policy's points a game against an opponent: the mean over its roles, each after one tie more."""
        points, games = PRIOR
        rates = [(one.points + points) / (one.num_games + games) for one in self._results.get(opponent, {}).values()]
        return math.fsum(rates) / len(rates) if rates else points / games

    def record(self, conversations: Sequence[Conversation]) -> None:
        """Take in a step's conversations, in the order of their ids; to be called once a step.

        Those that failed, or that nobody was paid for, say nothing about results and ratings.  Nobody is rated before
        the first step in which roles were paid differently: until then a tie may be all that the game has.
        """
        names = [self._names(conversation) for conversation in conversations]
        self._newest, self._met = {}, Counter(_opponent(one.values()) for one in names)
        games = [_Game.of(one, by) for one, by in zip(conversations, names, strict=True) if is_scored(one)]
        self._has_winners = self._has_winners or any(game.has_winner for game in games)
        for game in games:
            self._take_in(game)
        # The policy that played is about to be another.
        learner = self._ratings.get(LEARNER, {})
        self._ratings |= {LEARNER: {role: after_update(skill) for role, skill in learner.items()}} if learner else {}
        self._forget_draws(conversations)

    def metrics(self) -> dict[str, float]:
        """Return numbers of the newest step by their paths.

        Ratings are the policy's, by role; absent while all roles have always been paid the same.  `league/win_rate`:
        points a game against others than itself, over `league/games`, and `league/win_rate/PAST` and so on by their
        kind; absent if there was no game.
        """
        num = self._met.total()
        numbers = {"league/pool": float(len(self.pool)), "league/snapshots": float(len(self._snapshots))}
        learner = self._ratings.get(LEARNER, {}) if self._has_winners else {}
        for role, skill in learner.items():
            numbers[f"league/rating/{role}"] = skill.mu
            numbers[f"league/rating_sigma/{role}"] = skill.sigma
        for kind in _KINDS.values():
            met = sum(times for player, times in self._met.items() if _kind(player) == kind)
            numbers |= {f"league/{kind}_share": met / num} if num else {}
            if kind != "mirror":
                numbers |= _score(self._newest, [kind], f"league/win_rate/{kind}")
        others = [kind for kind in _KINDS.values() if kind != "mirror"]
        numbers |= _score(self._newest, others, "league/win_rate")
        numbers["league/games"] = float(sum(result.num_games for result in _of_kinds(self._newest, others)))
        return numbers

    def _names(self, conversation: Conversation) -> dict[str, str]:
        """Return role -> player; the policy has one name, whatever its version."""
        players = {role: conversation.players[role] for role in self._roles if role in conversation.players}
        return {role: LEARNER if player.trained else player.policy for role, player in players.items()}

    def _take_in(self, game: _Game) -> None:
        names, paid = game.names, game.paid
        for role in paid:
            if names[role] == LEARNER:
                self._count(role, paid, names)
        if not self._has_winners:
            return
        ranks = places({(names[role], role): paid[role] for role in paid})
        rated = rate({(name, role): self._skill(name, role) for name, role in ranks}, ranks)
        for (name, role), skill in rated.items():
            self._ratings.setdefault(name, {})[role] = skill

    def _count(self, own: str, paid: Mapping[str, float], names: Mapping[str, str]) -> None:
        theirs: dict[str, list[float]] = {}
        for role in paid:
            if role != own:
                theirs.setdefault(names[role], []).append(paid[role])
        for opponent, payoffs in theirs.items():
            for results in (self._results, self._newest):
                roles = results.setdefault(opponent, {})
                roles[own] = roles.get(own, Result()).and_game(paid[own], payoffs)

    def _skill(self, name: str, role: str) -> Skill:
        return self._ratings.get(name, {}).get(role, Skill())

    def _forget_draws(self, conversations: Sequence[Conversation]) -> None:
        """Forget the draws of steps that are over."""
        if conversations:
            now = (max(conversation.step for conversation in conversations) + 1) // self._settings.swap_steps
            self._standing = {period: players for period, players in self._standing.items() if period >= now}

    # ----- for checkpoints -----

    def to_json(self) -> dict[str, Any]:
        """Return everything that `from_json` needs to go on exactly."""
        return {
            "roles": list(self._roles),
            "snapshots": list(self._snapshots),
            "standing": {str(period): list(players) for period, players in self._standing.items()},
            "ratings": {
                name: {role: [skill.mu, skill.sigma] for role, skill in roles.items()}
                for name, roles in self._ratings.items()
            },
            "results": _results_to_json(self._results),
            "newest": _results_to_json(self._newest),
            "met": dict(self._met),
            "has_winners": self._has_winners,
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any], *, settings: LeagueGroup, seed: int) -> Self:
        """Return the league that `to_json` described; settings and seed are those of its run.

        Raises ValueError, KeyError or TypeError if it is none.
        """
        league = cls(settings, seed=seed, roles=list(tree["roles"]))
        league._snapshots = [int(version) for version in tree["snapshots"]]
        league._standing = {int(period): list(players) for period, players in dict(tree["standing"]).items()}
        league._ratings = {
            name: {role: Skill(mu=mu, sigma=sigma) for role, (mu, sigma) in dict(skills).items()}
            for name, skills in dict(tree["ratings"]).items()
        }
        league._results = _results_from_json(tree["results"])
        league._newest = _results_from_json(tree["newest"])
        league._met = Counter({name: int(times) for name, times in dict(tree["met"]).items()})
        # A league that was stored without it has rated ties too.
        won = any(one.wins or one.losses for roles in league._results.values() for one in roles.values())
        league._has_winners = bool(tree.get("has_winners", won))
        return league


@dataclass(frozen=True, slots=True, kw_only=True)
class _Game:
    """One conversation that was paid for."""

    names: Mapping[str, str]  # role -> player
    paid: Mapping[str, float]  # role -> payoff, env units

    @classmethod
    def of(cls, conversation: Conversation, names: Mapping[str, str]) -> _Game:
        assert conversation.outcome is not None
        payoff = conversation.outcome.payoff
        return cls(names=names, paid={role: payoff[role] for role in names if role in payoff})

    @property
    def has_winner(self) -> bool:
        return bool(self.paid) and max(self.paid.values()) - min(self.paid.values()) > EQUAL


_KINDS: Mapping[str, str] = {LEARNER: "mirror", FROZEN: "frozen", SCRIPTED: "scripted", PAST: "past"}


def _kind(player: str) -> str:
    return _KINDS[PAST if player.startswith(PAST) else player]


def _opponent(names: Iterable[str]) -> str:
    """Return whom the policy met; LEARNER: only itself."""
    return next((name for name in names if name != LEARNER), LEARNER)


def _place(number: float, weights: Sequence[float]) -> int:
    """Return the place that a number in [0, 1) falls into, where each is as wide as its weight."""
    left = number * math.fsum(weights)
    for place, weight in enumerate(weights):
        if left < weight:
            return place
        left -= weight
    return len(weights) - 1  # rounding


def _of_kinds(results: Results, kinds: Sequence[str]) -> list[Result]:
    return [one for opponent, roles in results.items() if _kind(opponent) in kinds for one in roles.values()]


def _score(results: Results, kinds: Sequence[str], path: str) -> dict[str, float]:
    found = _of_kinds(results, kinds)
    num = sum(result.num_games for result in found)
    return {path: math.fsum(result.points for result in found) / num} if num else {}


def _results_to_json(results: Results) -> dict[str, dict[str, dict[str, float]]]:
    return {name: {role: asdict(result) for role, result in roles.items()} for name, roles in results.items()}


def _results_from_json(tree: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Results:
    return {
        name: {role: Result(**result) for role, result in dict(roles).items()} for name, roles in dict(tree).items()
    }
