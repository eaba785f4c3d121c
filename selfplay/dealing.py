"""Who meets whom: the matches of each step, drawn from (seed, step, group, index) alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from selfplay.dialog import SPLITS, Split, conversation_id
from selfplay.interfaces import Env
from selfplay.play import DRAW_TRAINED_ROLE, Match, draw_seed, make_group
from selfplay.train_settings import Partner

if TYPE_CHECKING:
    from selfplay.league import League

LEARNER, FROZEN = "learner", "frozen"  # the policy that is trained, and the policy as it was before training


@dataclass(frozen=True, slots=True, kw_only=True)
class Dealer:
    """Deals the matches of a run; the same arguments give the same matches, whoever plays them.

    partner: "mirror" puts the policy in every role and trains them all; "frozen" trains one role a scenario, drawn so
    that its whole group shares it, against the policy as it was before training.  What a league draws is dealt by
    `LeagueDealer`; without it "league" is as "frozen".
    """

    env: Env
    seed: int
    conversations: int  # a step
    group_size: int = 1  # conversations that share a scenario
    partner: Partner = "mirror"
    fixed: Mapping[str, str] = field(default_factory=dict)  # role -> a player that is never the policy

    @property
    def free_roles(self) -> list[str]:
        """The roles that are no fixed player's, in speaking order."""
        return [role for role in self.env.roles if role not in self.fixed]

    @property
    def num_groups(self) -> int:
        """How many groups a step has."""
        return self.conversations // self.group_size

    def training(self, step: int) -> list[Match]:
        """Return the matches of one step, group by group."""
        size = self.group_size
        return [match for group in range(self.num_groups) for match in self.group("train", step, group, size=size)]

    def evaluation(self, version: int, *, conversations: int) -> list[Match]:
        """Return matches on held-out scenarios, each its own group: the same for every version but for their ids."""
        matches = [match for group in range(conversations) for match in self.group("held_out", 0, group, size=1)]
        return [
            replace(match, id=conversation_id(step=version, letter="e", group=group, index=0))
            for group, match in enumerate(matches)
        ]

    def players(self, split: Split, step: int, group: int, *, opponent: str | None = None) -> dict[str, str]:
        """Return role -> player's name in one group.

        opponent: whom the policy meets, in all free roles but one; LEARNER: itself, and every role is trained; None:
        whom `partner` says.
        """
        if opponent is None:
            opponent = LEARNER if self.partner == "mirror" else FROZEN
        trained = free = self.free_roles
        if opponent != LEARNER and free:
            place = (DRAW_TRAINED_ROLE, SPLITS.index(split), step, group)
            trained = [free[draw_seed(self.seed, place, bits=32) % len(free)]]
        return {role: self.fixed.get(role) or (LEARNER if role in trained else opponent) for role in self.env.roles}

    def group(self, split: Split, step: int, group: int, *, size: int, opponent: str | None = None) -> list[Match]:
        """Return the matches of one group; opponent: as in `players`."""
        players = self.players(split, step, group, opponent=opponent)
        return make_group(self.env, players, seed=self.seed, split=split, place=(step, group), size=size)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeagueDealer:
    """Deals what a league draws; has the methods of a `Dealer` that a run asks for.

    Each of a step's opponents meets an equal part of its groups; a part's groups follow each other, so that a block of
    matches names few players.
    """

    dealer: Dealer
    league: League

    def training(self, step: int) -> list[Match]:
        """Return the matches of one step, group by group."""
        dealer, opponents = self.dealer, self.league.opponents(step)
        drawn = [opponents[group * len(opponents) // dealer.num_groups] for group in range(dealer.num_groups)]
        return [
            match
            for group, opponent in enumerate(drawn)
            for match in dealer.group("train", step, group, size=dealer.group_size, opponent=opponent)
        ]

    def evaluation(self, version: int, *, conversations: int) -> list[Match]:
        """Return matches on held-out scenarios against the policy as it was before training, one role trained."""
        return replace(self.dealer, partner="frozen").evaluation(version, conversations=conversations)


def blocks(matches: list[Match], *, size: int) -> list[list[Match]]:
    """Return the matches in blocks: each is played in one piece, by one worker, and replayed whole if it is lost."""
    return [matches[start : start + size] for start in range(0, len(matches), size)]
