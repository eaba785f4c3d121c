"""Who is how good at a game: entries meet each other on the same held-out scenarios, each in each role.

Pure: conversations in, numbers out.  A conversation belongs to a cell of the matrix by who fills its roles: the player
of a role is named as its entry is.  Who plays what is `selfplay.tournament_play`'s.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

import numpy as np

from selfplay.dialog import Conversation, id_order
from selfplay.evaluate import Mean, ratio_means
from selfplay.filters import WORD, field_in_filter
from selfplay.game_numbers import Contest, Sums, add_up, contest_of, game_sums, is_scored, unfitting
from selfplay.league import Result
from selfplay.resampling import CONFIDENCE, NUM_RESAMPLES
from selfplay.score import has_failed
from selfplay.skill import Skill, places, rate

__all__ = [
    "Cell",
    "Entry",
    "Standing",
    "Tournament",
    "castings",
    "rate_games",
    "tournament_of",
]

PAYOFF = "game/payoff"
DRAW_ORDER = 5101  # first part of the spawn key
NUM_ORDERS = 8  # in which all games are rated
RESULTS = ("wins", "ties", "losses")
NOTHING = Mean(value=math.nan, low=math.nan, high=math.nan)

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Who takes part.

    Example: ``Entry(name="deals@20", model="runs/deals@20", version=20)``
    """

    name: str  # also its player's, in the transcripts
    model: str = ""  # as `selfplay.models.load` takes it; "": a script, or chance
    version: int = 0  # updates that its run had made


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What one entry got against another; on the diagonal, in all roles against itself.

    A scenario on which any conversation of the two failed is left out.
    """

    row: str  # whose numbers they are
    column: str  # who had the other roles
    num_scenarios: int  # counted
    num_conversations: int  # counted
    num_unpaid: int  # counted without a payoff, as what a limit of the engine cut: they are in no other number
    num_failed: int
    wins: int  # of the row's roles that were paid more than any other; on the diagonal every role counts
    ties: int
    losses: int
    # By name, see `selfplay.game_numbers.game_sums`: `game/payoff` is the mean over the row's roles, `game/payoff/ROLE`
    # that of one, `game/protocol_ok` how often everybody kept the form.  Intervals are drawn over scenarios.
    numbers: Mapping[str, Mean]
    filter: str  # what finds its conversations among all of the tournament
    role_filters: Mapping[str, str]  # the same for those in which the row has one role

    @property
    def payoff(self) -> Mean:
        """The row's mean payoff, env units; NaN: nothing was paid."""
        return self.numbers.get(PAYOFF, NOTHING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How good one entry is, against all others."""

    entry: Entry
    skill: Skill
    role_skills: Mapping[str, Skill]  # on a scale of their own: that of all entries in all roles
    numbers: Mapping[str, Mean]  # as a cell's, over all conversations with others
    wins: int  # against others, as the cells have them
    ties: int
    losses: int

    @property
    def payoff(self) -> Mean:
        """The mean payoff against others, env units; NaN: nothing was paid."""
        return self.numbers.get(PAYOFF, NOTHING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tournament:
    """All that was found."""

    env: str
    roles: tuple[str, ...]
    seed: int
    contest: Contest  # "none": all roles were always paid the same, so that skills and results say nothing
    standings: tuple[Standing, ...]  # the best first, by skill, or by payoff where skills say nothing
    cells: tuple[Cell, ...]  # row by row, both in the order of the standings
    confidence: float = CONFIDENCE  # of the intervals of means; a skill's is mu +- 2 sigma
    _cells: Mapping[tuple[str, str], Cell] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Make cells quick to find."""
        object.__setattr__(self, "_cells", {(cell.row, cell.column): cell for cell in self.cells})

    @property
    def names(self) -> list[str]:
        """The entries' names, in the order of the standings."""
        return [standing.entry.name for standing in self.standings]

    def cell(self, row: str, column: str) -> Cell:
        """Return one cell; raises KeyError if there is no such entry."""
        return self._cells[row, column]


def castings(roles: Sequence[str], row: str, column: str) -> dict[str, dict[str, str]]:
    """Return role of `row` -> who fills each role when `column` has all the others."""
    return {own: {role: row if role == own else column for role in roles} for own in roles}


def tournament_of(
    conversations: Iterable[Conversation],
    entries: Sequence[Entry],
    *,
    env: str,
    roles: Sequence[str],
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> Tournament:
    """Return what conversations between entries say of them; their order makes no difference.

    seed: of what is drawn here, resamples and orders of games.
    """
    table = _Table(conversations, entries, roles=roles, seed=seed, num_resamples=num_resamples)
    found = {(row, column): table.cell(row, column) for row in table.names for column in table.names}
    skills, role_skills = table.skills()
    standings = [
        _standing(
            entry,
            [cell for (row, column), cell in found.items() if row == entry.name != column],
            skill=skills[entry.name],
            role_skills={role: role_skills[entry.name, role] for role in roles},
            numbers=table.overall(entry.name),
        )
        for entry in entries
    ]
    standings.sort(key=_by_payoff if table.contest == "none" else _by_skill)
    order = [standing.entry.name for standing in standings]
    return Tournament(
        env=env,
        roles=tuple(roles),
        seed=seed,
        contest=table.contest,
        standings=tuple(standings),
        cells=tuple(found[row, column] for row in order for column in order),
    )


def rate_games(games: Sequence[Mapping[Key, int]], players: Iterable[Key], *, seed: int) -> dict[Key, Skill]:
    """Return each player's skill after games, of which each gives player -> place.

    `selfplay.skill.rate` hears one game after the other, and what came late moves a skill less.  So all games are rated
    in several orders drawn from the seed: mu is the mean over the orders, and sigma holds both what an order believes
    and how far the orders lie apart.  Games count as independent of each other.
    """
    found: dict[Key, list[Skill]] = {player: [] for player in players}
    for order in range(NUM_ORDERS):
        generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(DRAW_ORDER, order)))
        skills = dict.fromkeys(found, Skill())
        for number in generator.permutation(len(games)).tolist():
            skills |= rate(skills, games[number])
        for player, skill in skills.items():
            found[player].append(skill)
    return {player: _mean_skill(skills) for player, skills in found.items()}


def _mean_skill(skills: Sequence[Skill]) -> Skill:
    num = len(skills)
    mu = math.fsum(skill.mu for skill in skills) / num
    variance = math.fsum(skill.sigma**2 + (skill.mu - mu) ** 2 for skill in skills) / num
    return Skill(mu=mu, sigma=math.sqrt(variance))


def _by_skill(standing: Standing) -> tuple[float, str]:
    return -standing.skill.mu, standing.entry.name


def _by_payoff(standing: Standing) -> tuple[float, str]:
    value = standing.payoff.value
    return -value if math.isfinite(value) else math.inf, standing.entry.name


def _standing(
    entry: Entry,
    cells: Sequence[Cell],
    *,
    skill: Skill,
    role_skills: Mapping[str, Skill],
    numbers: Mapping[str, Mean],
) -> Standing:
    return Standing(
        entry=entry,
        skill=skill,
        role_skills=role_skills,
        numbers=numbers,
        **{name: sum(getattr(cell, name) for cell in cells) for name in RESULTS},
    )


# ----- cells -----

Scenario = tuple[str, int]  # split, seed
Cast = tuple[str, ...]  # who fills each role, in the order of roles


class _Table:
    """The conversations by who met whom."""

    def __init__(
        self,
        conversations: Iterable[Conversation],
        entries: Sequence[Entry],
        *,
        roles: Sequence[str],
        seed: int,
        num_resamples: int,
    ) -> None:
        self.names = [entry.name for entry in entries]
        self._roles, self._seed, self._num_resamples = list(roles), seed, num_resamples
        self._by_cast: dict[Cast, list[Conversation]] = {}
        self._failed: dict[frozenset[str], set[Scenario]] = {}  # of each pair
        for one in sorted(conversations, key=lambda one: id_order(one.id)):
            cast = tuple(one.players[role].policy for role in roles)
            if not set(cast) <= set(self.names):
                raise ValueError(f"conversation {one.id} is of {', '.join(cast)}; the entries are {self.names}")
            self._by_cast.setdefault(cast, []).append(one)
            if has_failed(one):
                self._failed.setdefault(frozenset(cast), set()).add(_scenario(one))
        self._whole = {
            cast: [one for one in played if _scenario(one) not in self._failed.get(frozenset(cast), ())]
            for cast, played in self._by_cast.items()
        }
        counted = list(chain(*self._whole.values()))
        self.contest: Contest = contest_of(counted)
        self._unfit = unfitting(counted, contest=self.contest)

    def cell(self, row: str, column: str) -> Cell:
        casts = self._casts(row, column)
        counted = [one for cast in casts for one in self._whole.get(cast, ())]
        result = self._result(casts)
        filters = {cast: self._filter(cast) for cast in casts}
        either = [f"({text})" for text in filters.values()] if len(filters) > 1 else filters.values()
        return Cell(
            row=row,
            column=column,
            num_scenarios=len({_scenario(one) for one in counted}),
            num_conversations=len(counted),
            num_unpaid=sum(not is_scored(one) for one in counted),
            num_failed=sum(has_failed(one) for cast in casts for one in self._by_cast.get(cast, ())),
            wins=result.wins,
            ties=result.ties,
            losses=result.losses,
            numbers=self._means(self._sums(casts).values()),
            filter=" | ".join(either),
            role_filters={role: filters[cast] for cast, own in casts.items() for role in own},
        )

    def overall(self, row: str) -> dict[str, Mean]:
        """Return an entry's numbers against all others."""
        sums: dict[Scenario, list[Sums]] = {}
        for column in self.names:
            if column != row:
                for scenario, one in self._sums(self._casts(row, column)).items():
                    sums.setdefault(scenario, []).append(one)
        return self._means(add_up(sums[scenario]) for scenario in sorted(sums))

    def skills(self) -> tuple[dict[str, Skill], dict[tuple[str, str], Skill]]:
        """Return the skill of each entry, and of each entry in each role.

        Of an entry that has several roles of a game, the best paid one counts.  How it did against itself says
        something of its roles alone.
        """
        games: list[dict[str, int]] = []
        role_games: list[dict[tuple[str, str], int]] = []
        scored = [one for played in self._whole.values() for one in played if is_scored(one)]
        for one in sorted(scored, key=lambda one: id_order(one.id)):
            assert one.outcome is not None
            paid = {role: one.outcome.payoff[role] for role in self._roles if role in one.outcome.payoff}
            names = {role: one.players[role].policy for role in paid}
            role_games.append(places({(names[role], role): value for role, value in paid.items()}))
            best = {name: max(paid[role] for role in paid if names[role] == name) for name in names.values()}
            if len(best) > 1:
                games.append(places(best))
        everyone = [(name, role) for name in self.names for role in self._roles]
        return rate_games(games, self.names, seed=self._seed), rate_games(role_games, everyone, seed=self._seed)

    def _casts(self, row: str, column: str) -> dict[Cast, list[str]]:
        """Return who fills the roles in a cell's conversations -> the roles among them that count as the row's."""
        if row == column:
            return {(row,) * len(self._roles): self._roles}
        found = castings(self._roles, row, column)
        return {tuple(players[role] for role in self._roles): [own] for own, players in found.items()}

    def _filter(self, cast: Cast) -> str:
        named = zip(self._roles, cast, strict=True)
        return " & ".join(f"{field_in_filter(f'player.{role}')}={_value(name)}" for role, name in named)

    def _sums(self, casts: Mapping[Cast, Sequence[str]]) -> dict[Scenario, Sums]:
        """Return each counted scenario's sums, in the order of the scenarios."""
        found: dict[Scenario, list[Sums]] = {}
        played = [(one, own) for cast, own in casts.items() for one in self._whole.get(cast, ())]
        for one, own in sorted(played, key=lambda pair: id_order(pair[0].id)):
            found.setdefault(_scenario(one), []).append(game_sums(one, own))
        return {scenario: add_up(several) for scenario, several in found.items()}

    def _means(self, scenarios: Iterable[Sums]) -> dict[str, Mean]:
        found = ratio_means(list(scenarios), seed=self._seed, num_resamples=self._num_resamples)
        return {name: mean for name, mean in found.items() if name not in self._unfit}

    def _result(self, casts: Mapping[Cast, Sequence[str]]) -> Result:
        result = Result()
        for cast, own in casts.items():
            for one in self._whole.get(cast, ()):
                payoff = one.outcome.payoff if one.outcome is not None and is_scored(one) else {}
                for role in own:
                    others = [value for other, value in payoff.items() if other != role]
                    if role in payoff and others:
                        result = result.and_game(payoff[role], others)
        return result


def _scenario(conversation: Conversation) -> Scenario:
    return conversation.scenario.split, conversation.scenario.seed


def _value(name: str) -> str:
    """Return a name as a filter reads it."""
    return name if WORD.fullmatch(name) and name != "null" else json.dumps(name, ensure_ascii=False)
