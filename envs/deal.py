"""Deal: two roles that value things differently share out items, or settle the terms of a job."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from envs.alternation import last_heard, other_role, whose_turn
from envs.deal_messages import ISSUES, ITEMS, Counts, Reading, read_message, wishes_in
from envs.deal_positions import (
    MOST_ISSUE_POINTS,
    MOST_ITEM_POINTS,
    Division,
    Points,
    conceded,
    draw_issues,
    draw_items,
    is_pareto_optimal,
    item_points,
    most_joint_points,
    points_of,
)
from envs.drawing import draw_position, move_draw
from selfplay.dialog import Action, Conversation, Outcome, Reason, Scenario, Split
from selfplay.errors import UserError
from selfplay.interfaces import GameSheet

Terms = tuple[int, ...]  # a proposal as who speaks sees it: how many of each item it keeps, or each issue's option

MAX_STRIKES = 2  # messages of one role in a row against the rules that end the talks
# Half of the greatest joint payoff: for items the mean over `item_pools` of the means over `item_values`, for issues
# the mean over `issue_weights`.  A split has a part of these, chosen by hash.
BEST = {"items3": 0.7586, "issues8": 0.7396}
# The share of its own best that the script asks for at the beginning, and how much less at the end.
ASPIRATION, CONCESSION = 0.9, 0.4
NAMED_WEIGHT = 2.0  # how much more a thing counts that the partner said it wants

WISHES = (
    "I care most about the {wish}.",
    "What I want most is the {wish}.",
    "I could really use the {wish}.",
    "I am mostly after the {wish}.",
    "My heart is set on the {wish}.",
)
STEPS = (
    "I can move a little.",
    "How about this?",
    "Let me come closer.",
    "Would this be better?",
    "Here is another idea.",
)
STANDS = (
    "That is not quite enough for me.",
    "I still need this.",
    "Sorry, I have to ask again.",
    "I cannot go lower yet.",
    "Please think about it once more.",
)
AGREEMENTS = ("That works for me.", "Agreed.", "Good, we have it.", "I can live with that.", "Fine, let us do that.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deal:
    """Two roles agree on one of many deals, and each has values that the other is not told.

    `items3`: 5 to 7 books, hats and balls, and what each is worth to a role: the whole pool is worth 10 to either, each
    thing something to one of them, and at least one to both.  `issues8`: a job with 8 issues of 5 options each, and
    points of 0 to 100 in all; two issues are a plain conflict, four matter more to one role than to the other, and in
    two both want the same.  Which issues those are is drawn anew.

    Roles: `first` and `second` (items3), `recruiter` and `candidate` (issues8); the one named first begins.
    Ends: [accept] of the partner's open proposal ("agreement"); [walk] ("no_deal", by who walks); a role's second
    message in a row against the rules ("rule_violation", by it); otherwise "turn_limit".
    Moves: `[propose] 2 books 1 hat 0 balls` is what who says it would keep (a thing left out: none), `[propose] salary
    3, bonus 1, ...` lists all eight issues.  A proposal replaces the one before, [reject] takes the partner's away, and
    words without a move are legal talk.  Against the rules is a message that says nothing, has different moves, denies
    its move or asks about it, asks for what there is not, can be read in several ways, or accepts or rejects where
    there is nothing to: it is no move, the form is broken (`at_fault` names by whom), and the talks go on.
    Payoff: the role's points by 10 (items3) or by 100 (issues8), from 0 to 1; without an agreement 0 to both.
    Chance: half of all points, where somebody accepts: 0.5 * (1 - 2 ** (1 - max_turns)).
    Best: half of the greatest joint points, on average (see BEST).
    Source: Deal or No Deal (Lewis et al. 2017, arXiv:1706.05125) and New Recruit (Neale & Northcraft 1986); all
    positions are drawn here.  A position and its mirror image are in the same split.
    """

    name: ClassVar[str] = "deal"
    zero_sum: ClassVar[bool] = False

    variant: Literal["items3", "issues8"] = "items3"
    max_turns: int = 6

    def __post_init__(self) -> None:
        """Refuse a variant that does not exist, and talks too short for all ends."""
        if self.variant not in BEST:
            raise UserError(f"variant={self.variant!r} must be {' or '.join(BEST)}")
        if self.max_turns < 3:
            raise UserError(f"max_turns={self.max_turns} must be at least 3: to propose, to answer and to accept")

    @property
    def roles(self) -> tuple[str, str]:
        """Who talks, in speaking order."""
        return ("first", "second") if self.variant == "items3" else ("recruiter", "candidate")

    def scenario(self, seed: int, split: Split) -> Scenario:
        """Draw the pool, or the kinds of the issues, and the values of both."""
        make = draw_items if self.variant == "items3" else draw_issues
        public, values = draw_position(seed, split, make, key=lambda position: f"{position[0]}{sorted(position[1])}")
        word = "values" if self.variant == "items3" else "points"
        private = {
            role: {word: dict(zip(public, own, strict=True))} for role, own in zip(self.roles, values, strict=True)
        }
        where = "pool" if self.variant == "items3" else "issues"
        return Scenario(
            env=self.name, seed=seed, split=split, roles=self.roles, public={where: public}, private=private
        )

    def next_role(self, conversation: Conversation) -> str | None:
        """Return whose turn it is; None once the talks have ended."""
        is_over = self._talks(conversation).reason is not None or conversation.num_turns >= self.max_turns
        return None if is_over else whose_turn(conversation)

    def brief(self, scenario: Scenario, role: str) -> str:
        """Return the role's values, and how to propose and to accept."""
        if self.variant == "items3":
            pool, values = scenario.public["pool"], scenario.private[role]["values"]
            worth = ", ".join(f"a {ITEMS[name][0]} {values[name]}" for name in ITEMS)
            return (
                f"You and a partner share {_spoken_items(pool)}. Worth to you: {worth}. Your partner has other values. "
                "Talk, then agree. Write [propose] 1 book 0 hats 1 ball to say what you keep, [accept] to agree, or "
                "[reject], or [walk]. Without a deal you get nothing."
            )
        points = scenario.private[role]["points"]
        table = ", ".join(f"{name} {'/'.join(map(str, points[name]))}" for name in ISSUES)
        example = ", ".join(f"{name} 3" for name in ISSUES)
        return (
            f"You are the {role} and agree on a job. Your points for options 1 to 5: {table}. Talk, then write "
            f"[propose] {example}, or [accept], [reject] or [walk]. Without a deal you get nothing."
        )

    def hears(self, conversation: Conversation, role: str) -> str:
        """Return the partner's last message."""
        return last_heard(conversation, role)

    def parse(self, conversation: Conversation, turn: int) -> Action | None:
        """Return the move of a turn, "talk" where it has none; what is against the rules says why."""
        return self._talks(conversation).actions[turn]

    def outcome(self, conversation: Conversation) -> Outcome:
        """Return the points of both and how they compare with the best that was possible."""
        talks = self._talks(conversation)
        tables = self._tables(conversation.scenario)
        is_deal = talks.reason == "agreement" and talks.offer is not None
        points = [points_of(table, talks.offer) if is_deal and talks.offer else 0 for table in tables]
        most = most_joint_points(*tables)
        return Outcome(
            status="terminated",
            reason=talks.reason or "turn_limit",
            by=talks.by,
            protocol_ok=not talks.at_fault,
            facts={
                "at_fault": [role for role in self.roles if role in talks.at_fault],
                "success": is_deal,
                "points": dict(zip(self.roles, points, strict=True)),
                "joint": sum(points),
                "max_joint": most,
                "efficiency": sum(points) / most,
                "pareto_optimal": is_deal and is_pareto_optimal(*tables, points=(points[0], points[1])),
            },
            payoff={role: own / self._most_points for role, own in zip(self.roles, points, strict=True)},
        )

    def scripted(self, conversation: Conversation, role: str) -> str:
        """Return the move of an honest player that says what it wants and asks for less with every turn."""
        talks = self._talks(conversation)
        own = self._tables(conversation.scenario)[self.roles.index(role)]
        is_last = conversation.num_turns >= self.max_turns - 1
        wanted = self._counter(conversation, role)
        offer = talks.offer if talks.offered_by != role else None
        gain = points_of(own, offer) if offer else 0
        if offer and (gain >= points_of(own, wanted) or (is_last and gain > 0)):
            return f"{move_draw(conversation).choose(AGREEMENTS)} [accept]"
        return f"{self._talk(conversation, role, own, wanted)} {self._proposal(conversation.scenario, role, wanted)}"

    def chance(self, conversation: Conversation, role: str) -> str:
        """Return a random proposal, or an acceptance half of the times that there is something to accept."""
        talks, draw = self._talks(conversation), move_draw(conversation)
        if talks.offer is not None and talks.offered_by != role and draw.below(2):
            return "[accept]"
        table = self._tables(conversation.scenario)[0]
        return self._proposal(conversation.scenario, role, tuple(draw.below(len(options)) for options in table))

    def sheet(self) -> GameSheet:
        """Return the promises of the variant."""
        ends: tuple[Reason, ...] = ("agreement", "no_deal", "rule_violation", "turn_limit")
        chance = 0.5 * (1 - 2.0 ** (1 - self.max_turns))
        return GameSheet(payoffs=(0.0, 1.0), ends=ends, chance=chance, best=BEST[self.variant])

    def endings(self, scenario: Scenario) -> Mapping[Reason, tuple[str, ...]]:
        """Return an agreement, a walk, two acceptances of nothing and idle talk."""
        proposal = self._proposal(scenario, scenario.roles[0], tuple(0 for _ in self._tables(scenario)[0]))
        return {
            "agreement": (proposal, "Agreed. [accept]"),
            "no_deal": ("Not with me. [walk]",),
            "rule_violation": ("[accept]", "There is no proposal yet.", "[accept]"),
            "turn_limit": ("Let us think about it.",) * self.max_turns,
        }

    def _counts(self, scenario: Scenario) -> Counts:
        return tuple(scenario.public["pool"][name] for name in ITEMS) if self.variant == "items3" else ()

    def _tables(self, scenario: Scenario) -> tuple[Points, Points]:
        first, second = (scenario.private[role] for role in self.roles)
        if self.variant == "items3":
            values = (tuple(own["values"][name] for name in ITEMS) for own in (first, second))
            return item_points(self._counts(scenario), *values)
        return tuple(tuple(first["points"][name]) for name in ISSUES), tuple(
            tuple(second["points"][name]) for name in ISSUES
        )

    def _proposal(self, scenario: Scenario, role: str, division: Division) -> str:
        terms = _terms_of(division, self._counts(scenario), is_first=role == self.roles[0])
        if self.variant == "items3":
            return "[propose] " + " ".join(_counted(name, count) for name, count in zip(ITEMS, terms, strict=True))
        return "[propose] " + ", ".join(f"{name} {option}" for name, option in zip(ISSUES, terms, strict=True))

    def _talks(self, conversation: Conversation) -> Talks:
        said = tuple((turn.role, turn.text) for turn in conversation.turns)
        return follow(said, self.roles, self._counts(conversation.scenario))

    def _counter(self, conversation: Conversation, role: str) -> Division:
        """Return what the script would propose now."""
        scenario = conversation.scenario
        own, partner = self._tables(scenario)[self.roles.index(role)], other_role(scenario, role)
        counts = self._counts(scenario)
        named = {thing for turn in conversation.turns_of(partner) for thing in wishes_in(turn.text, counts)}
        weights = tuple(NAMED_WEIGHT if thing in named else 1.0 for thing in range(len(own)))
        # Before the partner proposes, the worst is supposed: that it wants the opposite.
        wished = self._talks(conversation).asked.get(partner) or self._opposite(own, role)
        progress = conversation.num_turns / (self.max_turns - 1)
        return conceded(own, wished, weights, self._most_points * (ASPIRATION - CONCESSION * progress))

    def _opposite(self, own: Points, role: str) -> Division:
        # Of items that are worth nothing to a role the partner may have all.
        is_first = role == self.roles[0]
        return tuple(0 if (row[0] < row[-1] or (row[0] == row[-1] and is_first)) else len(row) - 1 for row in own)

    def _talk(self, conversation: Conversation, role: str, own: Points, wanted: Division) -> str:
        draw, before = move_draw(conversation), self._talks(conversation).proposed.get(role)
        # What a role says first is what it wants: the partner reads that.
        if not conversation.turns_of(role):
            return draw.choose(WISHES).format(wish=self._wish(conversation.scenario, own))
        return draw.choose(STANDS if wanted == before else STEPS)

    def _wish(self, scenario: Scenario, own: Points) -> str:
        spans = [max(row) - min(row) for row in own]
        thing = spans.index(max(spans))
        counts = self._counts(scenario)
        if not counts:
            return list(ISSUES)[thing]
        name, (singular, *_) = list(ITEMS.items())[thing]
        return singular if counts[thing] == 1 else name

    @property
    def _most_points(self) -> int:
        return MOST_ITEM_POINTS if self.variant == "items3" else MOST_ISSUE_POINTS


@dataclass(slots=True, kw_only=True)
class Talks:
    """Where the talks stand after some turns."""

    actions: list[Action] = field(default_factory=list)  # one a turn
    offer: Division | None = None  # what the partner of the role that proposed it may accept
    offered_by: str = ""
    asked: dict[str, Division] = field(default_factory=dict)  # role -> its first proposal
    proposed: dict[str, Division] = field(default_factory=dict)  # role -> its last proposal
    at_fault: set[str] = field(default_factory=set)  # roles with a message against the rules
    strikes: dict[str, int] = field(default_factory=dict)  # role -> messages in a row against the rules
    reason: Reason | None = None  # None: they go on
    by: str | None = None


@functools.lru_cache(maxsize=2048)
def follow(said: tuple[tuple[str, str], ...], roles: tuple[str, str], counts: Counts) -> Talks:
    """Return where the talks stand after roles said texts, to be read only: it is shared between all who ask."""
    talks = Talks()
    for role, text in said:
        _add(talks, role, read_message(text, counts), counts, is_first=role == roles[0])
    return talks


def _add(talks: Talks, role: str, reading: Reading, counts: Counts, *, is_first: bool) -> None:
    fault = reading.fault or _fault(talks, role, reading, counts)
    talks.strikes[role] = talks.strikes.get(role, 0) + 1 if fault else 0
    value: Any = fault or None
    if fault:
        talks.at_fault.add(role)
        if talks.strikes[role] == MAX_STRIKES:
            talks.reason, talks.by = "rule_violation", role
    elif reading.kind == "propose":
        terms = tuple(amount for _, amount in reading.pairs)
        talks.offer, talks.offered_by = _division_of(terms, counts, is_first=is_first), role
        talks.asked.setdefault(role, talks.offer)
        talks.proposed[role] = talks.offer
        value = _named(terms, counts)
    elif reading.kind == "accept":
        talks.reason = "agreement"
        value = _named(_terms_of(talks.offer or (), counts, is_first=is_first), counts)
    elif reading.kind == "reject":
        talks.offer = None
    elif reading.kind == "walk":
        talks.reason, talks.by = "no_deal", role
    talks.actions.append(Action(kind=reading.kind, value=value, legal=not fault))


def _fault(talks: Talks, role: str, reading: Reading, counts: Counts) -> str:
    if reading.kind not in ("accept", "reject"):
        return ""
    if talks.offer is None or talks.offered_by == role:
        return f"there is nothing to {reading.kind}"
    # What is accepted may be named as either of the two says it, but nothing else.
    views = [set(enumerate(_terms_of(talks.offer, counts, is_first=is_first))) for is_first in (True, False)]
    return "" if any(view.issuperset(reading.pairs) for view in views) else "it is not what was proposed"


def _division_of(terms: Terms, counts: Counts, *, is_first: bool) -> Division:
    if not counts:
        return tuple(option - 1 for option in terms)
    return terms if is_first else tuple(map(int.__sub__, counts, terms))


def _terms_of(division: Division, counts: Counts, *, is_first: bool) -> Terms:
    return _division_of(division, counts, is_first=is_first) if counts else tuple(place + 1 for place in division)


def _named(terms: Terms, counts: Counts) -> dict[str, int]:
    return dict(zip(ITEMS if counts else ISSUES, terms, strict=True))


def _counted(name: str, count: int) -> str:
    return f"{count} {ITEMS[name][0] if count == 1 else name}"


def _spoken_items(pool: Mapping[str, int]) -> str:
    *most, last = (_counted(name, pool[name]) for name in ITEMS)
    return f"{', '.join(most)} and {last}"
