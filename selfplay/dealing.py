"""Who meets whom: the matches of each step, drawn from (seed, step, group, index) alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from selfplay.dialog import SPLITS, Split, conversation_id
from selfplay.interfaces import Env
from selfplay.play import DRAW_TRAINED_ROLE, Match, draw_seed, make_group
from selfplay.train_settings import Partner

LEARNER, FROZEN = "learner", "frozen"  # the policy that is trained, and the policy as it was before training


@dataclass(frozen=True, slots=True, kw_only=True)
class Dealer:
    """Deals the matches of a run; the same arguments give the same matches, whoever plays them.

    partner: "mirror" puts the policy in every role and trains them all; "frozen" trains one role a scenario, drawn so
    that its whole group shares it, against the policy as it was before training.  Opponents of other kinds join here.
    """

    env: Env
    seed: int
    conversations: int  # a step
    group_size: int = 1  # conversations that share a scenario
    partner: Partner = "mirror"
    fixed: Mapping[str, str] = field(default_factory=dict)  # role -> a player that is never the policy

    def training(self, step: int) -> list[Match]:
        """Return the matches of one step, group by group."""
        groups = range(self.conversations // self.group_size)
        return [match for group in groups for match in self._group("train", step, group, size=self.group_size)]

    def evaluation(self, version: int, *, conversations: int) -> list[Match]:
        """Return matches on held-out scenarios, each its own group: the same for every version but for their ids."""
        matches = [match for group in range(conversations) for match in self._group("held_out", 0, group, size=1)]
        return [
            replace(match, id=conversation_id(step=version, letter="e", group=group, index=0))
            for group, match in enumerate(matches)
        ]

    def players(self, split: Split, step: int, group: int) -> dict[str, str]:
        """Return role -> player's name in one group."""
        free = [role for role in self.env.roles if role not in self.fixed]
        trained = free
        if self.partner == "frozen" and free:
            place = (DRAW_TRAINED_ROLE, SPLITS.index(split), step, group)
            trained = [free[draw_seed(self.seed, place, bits=32) % len(free)]]
        return {role: self.fixed.get(role) or (LEARNER if role in trained else FROZEN) for role in self.env.roles}

    def _group(self, split: Split, step: int, group: int, *, size: int) -> list[Match]:
        players = self.players(split, step, group)
        return make_group(self.env, players, seed=self.seed, split=split, place=(step, group), size=size)


def blocks(matches: list[Match], *, size: int) -> list[list[Match]]:
    """Return the matches in blocks: each is played in one piece, by one worker, and replayed whole if it is lost."""
    return [matches[start : start + size] for start in range(0, len(matches), size)]
