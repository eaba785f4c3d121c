"""Haggling: a seller and a buyer settle the price of one used thing, each with a limit that only it knows."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

from envs.alternation import last_heard, other_role, whose_turn
from envs.drawing import Draw, draw_position, move_draw
from envs.haggle_tables import CONDITIONS, ITEMS, LINES
from envs.haggle_words import read
from selfplay.dialog import SPLITS, Action, Conversation, Outcome, Reason, Scenario, Split
from selfplay.errors import UserError
from selfplay.interfaces import GameSheet

SELLER, BUYER = "seller", "buyer"
First = Literal["seller", "buyer"]
LAST_TURN_RESERVE = 20  # percent that a script keeps back in its offers if it can still accept in the last turn
CHARACTER = 2  # what a draw is for, beside those of `envs.drawing`
MAX_TIMES_LIST = 10  # an offer above so many list prices is a slip, and refused

BROKEN_LIMIT = -1.0  # payoff of a role that agreed to a price beyond its limit
VIOLATION = -0.5  # payoff of a role that broke the form twice in a row
STALLED = -0.1  # payoff of both where the turns run out
FAIR_SHARE = 0.5  # mean payoff of the roles in a deal that both limits allow
MAX_ILLEGAL = 2  # illegal messages in a row by one role that end the game

# Of the prices that the chance player offers: how often they lie in the zone, and, where there is none, between the
# two limits.  Measured over 80,000 positions.
CHANCE_IN_ZONE = 0.313
CHANCE_BETWEEN = 0.253


@dataclass(frozen=True, slots=True, kw_only=True)
class Haggle:
    """One thing, one price: what the seller gains the buyer loses, but both lose without a deal.

    Roles: `seller` knows its floor, the least it may take; `buyer` knows its ceiling, the most it may pay; both know
    the thing and its list price.  A move is `[offer] 120`, `[accept]` (the partner's last offer, which stands until it
    makes another) or `[reject]`.  Talk without a move costs its turn.
    Ends: with an accepted offer ("agreement"), a rejection ("no_deal", by whom), after `max_turns` turns
    ("turn_limit"), or with the second message in a row of one role that is illegal ("rule_violation", by whom): two
    different moves, a move denied or asked about, an offer without one clear price, an acceptance of nothing or of
    another price, an answer with a condition.  After the first illegal message the talk goes on, protocol_ok is False
    and `at_fault` names who broke the form.
    Payoff: with the zone from floor to ceiling, the seller gets (price - floor) / (ceiling - floor) and the buyer the
    rest, which sum to 1.  Who agreed beyond its limit gets -1, its partner 1 as at the limit itself.  No deal is 0
    for both; running out of turns -0.1 for both; breaking the form -0.5 for who did, 0 for the other.  In a scenario
    without a zone (`no_zone_share`; floor above ceiling) every deal breaks a limit: -1 for whose limit it breaks, 0
    for the other; walking away, 0, is right.
    Chance: every legal kind of move as likely, prices uniform from 0.3 to 1.3 of the list price; 0.04 by default.
    Best: 0.5 in a scenario with a zone, 0 in one without.
    Source: CraigslistBargain (He et al. 2018, arXiv:1808.09637) and CHAI (Verma et al. 2022, arXiv:2204.08426), with
    our own things and prices, and limits instead of targets.  Pressure pays here, as it does there, so `fairness` and
    `agreement` are recorded beside the payoff.  The held-out split has no (list price, floor, ceiling) of train.
    """

    name: ClassVar[str] = "haggle"
    zero_sum: ClassVar[bool] = False

    max_turns: int = 6  # turns of both roles together, at least 3
    first: First = "seller"  # who begins
    no_zone_share: float = 0.0  # share of scenarios in which no price suits both, from 0 to 1

    def __post_init__(self) -> None:
        """Refuse settings that cannot be played."""
        if self.max_turns < 3:
            raise UserError(f"max_turns={self.max_turns} must be at least 3")
        if self.first not in get_args(First):
            raise UserError(f"first={self.first!r} must be seller or buyer")
        if not 0.0 <= self.no_zone_share <= 1.0:
            raise UserError(f"no_zone_share={self.no_zone_share} must be from 0 to 1")

    @property
    def roles(self) -> tuple[str, str]:
        """Both roles, who begins first."""
        return (SELLER, BUYER) if self.first == SELLER else (BUYER, SELLER)

    def scenario(self, seed: int, split: Split) -> Scenario:
        """Draw the thing, its list price and the two limits."""
        position = draw_position(seed, split, self._position, key=_prices)
        return Scenario(
            env=self.name,
            seed=seed,
            split=split,
            roles=self.roles,
            public={"item": position.item, "list_price": position.list_price},
            private={SELLER: {"floor": position.floor}, BUYER: {"ceiling": position.ceiling}},
        )

    def next_role(self, conversation: Conversation) -> str | None:
        """Return whose turn it is; the roles alternate."""
        if conversation.num_turns >= self.max_turns or _course(conversation).reason != "turn_limit":
            return None
        return whose_turn(conversation)

    def brief(self, scenario: Scenario, role: str) -> str:
        """Return the thing, the role's own limit and the form of the moves."""
        list_price, limit = scenario.public["list_price"], _limit(scenario, role)
        if role == SELLER:
            part, bound, better, partner, example = "sell", f"Never go below ${limit}", "higher", BUYER, list_price
        else:
            # An example at the list price would be copied, and is beyond most ceilings.
            example = _rounded_down(list_price * 50, list_price)
            part, bound, better, partner = "want to buy", f"Never go above ${limit}", "lower", SELLER
        return (
            f"You {part}: {scenario.public['item']}. List price ${list_price}. {bound}; keep that secret. "
            f"A {better} price is better for you. Write one short sentence and one move: [offer] {example} names a "
            f"price, [accept] takes the {partner}'s offer, [reject] ends it without a deal."
        )

    def hears(self, conversation: Conversation, role: str) -> str:
        """Return the partner's last message."""
        return last_heard(conversation, role)

    def parse(self, conversation: Conversation, turn: int) -> Action | None:
        """Return the move of a turn, or "talk" where it has none; "unclear" is a message that could be two."""
        upto = replace(conversation, turns=conversation.turns[: turn + 1])
        return _course(upto).actions[turn]

    def outcome(self, conversation: Conversation) -> Outcome:
        """Return who got what; of an unfinished conversation, as if its last turn had been the limit."""
        course = _course(conversation)
        scenario = conversation.scenario
        floor, ceiling = _limit(scenario, SELLER), _limit(scenario, BUYER)
        return Outcome(
            status="terminated",
            reason=course.reason,
            by=course.by,
            protocol_ok=not course.at_fault,
            facts={
                "at_fault": [role for role in scenario.roles if role in course.at_fault],
                **_facts_of_price(course.price, floor=floor, ceiling=ceiling),
                "success": _is_success(course, floor=floor, ceiling=ceiling),
                "offers": course.offers,
            },
            payoff=_payoff(course, floor=floor, ceiling=ceiling),
        )

    def scripted(self, conversation: Conversation, role: str) -> str:
        """Return the next message of a player that concedes step by step and never breaks its limit.

        How far apart it starts and how soon it gives way depends on the scenario's seed.
        """
        course = _course(conversation)
        offered = course.standing(other_role(conversation.scenario, role))
        aim = self._aim(conversation, role)
        is_last = conversation.num_turns >= self.max_turns - 1
        draw = move_draw(conversation)
        if offered is not None and _is_at_least(role, offered, _limit(conversation.scenario, role) if is_last else aim):
            return draw.choose(LINES[role]["accept"])
        if is_last:
            return draw.choose(LINES[role]["reject"])
        own = course.standing(role)
        situation = "open" if own is None else "stay" if own == aim else "counter"
        return f"{draw.choose(LINES[role][situation])} [offer] {aim}"

    def chance(self, conversation: Conversation, role: str) -> str:
        """Return a legal move of any kind, with any price from 0.3 to 1.3 of the list price."""
        list_price = conversation.scenario.public["list_price"]
        draw = move_draw(conversation)
        has_offer = _course(conversation).standing(other_role(conversation.scenario, role)) is not None
        kind = draw.choose(("offer", "reject", "accept") if has_offer else ("offer", "reject"))
        return f"[offer] {draw.choose(_chance_prices(list_price))}" if kind == "offer" else f"[{kind}]"

    def sheet(self) -> GameSheet:
        """Return the promises under these settings."""
        # The first turn offers or rejects; from the second on a third of the games each accepts, rejects or goes on.
        to_the_end = 3.0 ** (1 - self.max_turns)
        with_zone = FAIR_SHARE * CHANCE_IN_ZONE
        without = (BROKEN_LIMIT + CHANCE_BETWEEN * BROKEN_LIMIT) / 2
        a_deal = (1.0 - self.no_zone_share) * with_zone + self.no_zone_share * without
        return GameSheet(
            payoffs=(BROKEN_LIMIT, 1.0),
            ends=("agreement", "no_deal", "rule_violation", "turn_limit"),
            chance=(1.0 - to_the_end) / 4 * a_deal + to_the_end / 2 * STALLED,
            best=FAIR_SHARE * (1.0 - self.no_zone_share),
        )

    def endings(self, scenario: Scenario) -> Mapping[Reason, tuple[str, ...]]:
        """Return a quick deal, a refusal, a player that breaks the form twice, and mere talk."""
        return {
            "agreement": (f"How about [offer] {_limit(scenario, SELLER)}", "[accept]"),
            "no_deal": ("[reject]",),
            "rule_violation": ("[offer] a fair price", "What price?", "[offer] 50 or [accept]"),
            "turn_limit": ("Let me think about it.",) * self.max_turns,
        }

    def _position(self, draw: Draw) -> _Position:
        things, cheapest, dearest = draw.choose(ITEMS)
        item = f"{draw.choose(things)}, {draw.choose(CONDITIONS)}"
        list_price = cheapest + 5 * draw.below((dearest - cheapest) // 5 + 1)
        list_price -= list_price % _step(list_price)
        has_zone = draw.below(1000) >= round(1000 * self.no_zone_share)
        low = _rounded_down(list_price * (40 + draw.below(31)), list_price)
        width = max(4 * _step(list_price), _rounded_down(list_price * (20 + draw.below(21)), list_price))
        high = min(list_price, low + width)
        floor, ceiling = (low, high) if has_zone else (high, low)
        return _Position(item=item, list_price=list_price, floor=floor, ceiling=ceiling)

    def _aim(self, conversation: Conversation, role: str) -> int:
        """Return the price that the script is after in this turn."""
        scenario = conversation.scenario
        # The game's last turn can answer an offer and no more: whoever has it makes its last offer one turn earlier.
        last_offer = (self.max_turns - 2 - scenario.roles.index(role)) // 2
        progress = min(1.0, len(conversation.turns_of(role)) / last_offer) if last_offer else 1.0
        has_last_turn = (self.max_turns - 1) % 2 == scenario.roles.index(role)
        list_price, limit = scenario.public["list_price"], _limit(scenario, role)
        curve, opening, reserve = _character(scenario.seed, scenario.split, role)
        reserve += LAST_TURN_RESERVE if has_last_turn else 0
        gone = {"early": progress * (2.0 - progress), "steady": progress, "late": progress * progress}[curve]
        if role == SELLER:
            start = max(limit, list_price * (100 - opening) / 100)
            price = start + (limit + (start - limit) * reserve / 100 - start) * gone
            return max(limit, -_rounded_down(-100 * price, list_price))
        start = min(limit, list_price * (40 + opening) / 100)
        price = start + (limit - (limit - start) * reserve / 100 - start) * gone
        return min(limit, _rounded_down(100 * price, list_price))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Position:
    item: str
    list_price: int
    floor: int
    ceiling: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Course:
    """What the turns of a conversation come to."""

    actions: tuple[Action, ...]  # a turn
    offers: Mapping[str, list[float]]  # role -> its legal offers, in order
    at_fault: frozenset[str]  # roles with an illegal message
    reason: Reason  # "turn_limit" also while the game goes on
    by: str | None = None
    price: float | None = None  # what was agreed

    def standing(self, role: str) -> float | None:
        """Return the offer of a role that its partner may accept."""
        return self.offers[role][-1] if self.offers[role] else None


def _course(conversation: Conversation) -> _Course:
    scenario = conversation.scenario
    offers: dict[str, list[float]] = {role: [] for role in scenario.roles}
    illegal = dict.fromkeys(scenario.roles, 0)  # messages in a row
    actions = []
    reason: Reason = "turn_limit"
    by, price = None, None
    for turn in conversation.turns:
        theirs = offers[other_role(scenario, turn.role)]
        action = _judged(read(turn.text), theirs[-1] if theirs else None, scenario.public["list_price"])
        actions.append(action)
        illegal[turn.role] = 0 if action.legal else illegal[turn.role] + 1
        if reason != "turn_limit":
            continue
        if illegal[turn.role] == MAX_ILLEGAL:
            reason, by = "rule_violation", turn.role
        elif action.legal and action.kind == "offer":
            offers[turn.role].append(action.value)
        elif action.legal and action.kind == "accept":
            reason, price = "agreement", action.value
        elif action.legal and action.kind == "reject":
            reason, by = "no_deal", turn.role
    at_fault = frozenset(
        turn.role for turn, action in zip(conversation.turns, actions, strict=True) if not action.legal
    )
    return _Course(actions=tuple(actions), offers=offers, at_fault=at_fault, reason=reason, by=by, price=price)


def _judged(action: Action, standing: float | None, list_price: int) -> Action:
    """Return the action with its legality at this point; an acceptance gets the price that it accepts."""
    if action.kind == "offer" and action.legal:
        return replace(action, legal=action.value <= MAX_TIMES_LIST * list_price)
    if action.kind != "accept" or not action.legal:
        return action
    is_legal = standing is not None and action.value in (None, standing)
    return Action(kind="accept", value=standing if is_legal else action.value, legal=is_legal)


def _is_success(course: _Course, *, floor: int, ceiling: int) -> bool:
    if floor > ceiling:
        return course.reason == "no_deal"
    return course.price is not None and floor <= course.price <= ceiling


def _payoff(course: _Course, *, floor: int, ceiling: int) -> dict[str, float]:
    if course.price is not None:
        return payoff_of_price(course.price, floor=floor, ceiling=ceiling)
    if course.reason == "rule_violation":
        return {role: VIOLATION if role == course.by else 0.0 for role in (SELLER, BUYER)}
    return dict.fromkeys((SELLER, BUYER), STALLED if course.reason == "turn_limit" else 0.0)


def payoff_of_price(price: float, *, floor: int, ceiling: int) -> dict[str, float]:
    """Return what a deal at a price is worth to each role."""
    margins = {SELLER: price - floor, BUYER: ceiling - price}
    surplus = ceiling - floor
    if surplus < 0:
        return {role: BROKEN_LIMIT if margin < 0 else 0.0 for role, margin in margins.items()}
    return {role: BROKEN_LIMIT if margin < 0 else min(1.0, margin / surplus) for role, margin in margins.items()}


def _facts_of_price(price: float | None, *, floor: int, ceiling: int) -> dict[str, object]:
    """Return what is known of a deal; utility in money, fairness 1 at the middle of the zone and 0 at its ends."""
    has_zone = floor <= ceiling
    if price is None:
        return {"agreement": False, "price": None, "utility": dict.fromkeys((SELLER, BUYER), 0), "fairness": None} | {
            "efficiency": float(not has_zone)
        }
    share = min(1.0, max(0.0, (price - floor) / (ceiling - floor))) if has_zone else 0.0
    return {
        "agreement": True,
        "price": price,
        "utility": {SELLER: price - floor, BUYER: ceiling - price},
        "fairness": 1.0 - 2.0 * abs(share - 0.5),
        "efficiency": float(has_zone),
    }


def _prices(position: _Position) -> str:
    return f"{position.list_price} {position.floor} {position.ceiling}"


def _limit(scenario: Scenario, role: str) -> int:
    return int(scenario.private[SELLER]["floor"] if role == SELLER else scenario.private[BUYER]["ceiling"])


def _is_at_least(role: str, price: float, wanted: float) -> bool:
    return price >= wanted if role == SELLER else price <= wanted


def _step(list_price: int) -> int:
    return 5 if list_price < 200 else 10


def _rounded_down(hundredths: float, list_price: int) -> int:
    """Return a price in hundredths as a multiple of the step of the list price, towards minus infinity."""
    step = _step(list_price)
    return int(hundredths // (100 * step)) * step


@functools.cache
def _chance_prices(list_price: int) -> tuple[int, ...]:
    step = _step(list_price)
    return tuple(step * n for n in range(1, 2 * list_price // step) if 0.3 * list_price <= step * n <= 1.3 * list_price)


@functools.lru_cache(maxsize=4096)
def _character(seed: int, split: Split, role: str) -> tuple[str, int, int]:
    """Return how a scripted player concedes, how far from the far end it opens and what it keeps back, in percent."""
    draw = Draw(seed, (CHARACTER, SPLITS.index(split), (SELLER, BUYER).index(role)))
    return draw.choose(("early", "steady", "late")), draw.below(11), draw.below(21)
