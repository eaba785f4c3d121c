"""Games of TextArena for two players, by their name there: ``env=textarena env.game=TicTacToe-v0``."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from envs.drawing import Draw, check_split, move_draw
from envs.textarena_moves import KnownGame, known_game
from envs.textarena_replay import Heard, Position, replays_of
from selfplay.dialog import SPLITS, Action, Conversation, Outcome, Reason, Scenario, Split
from selfplay.errors import UserError
from selfplay.interfaces import GameSheet

ROLES = ("player_0", "player_1")
MAX_TURNS = 200  # of a game that TextArena itself lets go on
MAX_GAMES = 500  # of chance players, in search of an end
ENDS = 2  # what a draw is for, beside those of envs.drawing
LISTED = re.compile(r"\b(?:available|valid|legal|possible)\b[^\n:]*:(?P<moves>.*)", re.IGNORECASE)
NOTHING_LISTED = re.compile(r"\bno (?:available|valid|legal|possible) moves\b", re.IGNORECASE)
BRACKETED = re.compile(r"\[[^\[\]\n]+\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextArenaEnv:
    """A game of TextArena: its rules, prompts and rewards, replayed from a seed.

    Roles: `player_0` and `player_1`, as TextArena numbers them; the scenario lists first who begins.
    Ends: with a winner ("goal_reached"), without one ("turn_limit" where the game's turns are used up, else
    "no_deal"), or when a message is no legal move.  TextArena usually asks the same role once more; a second time in
    a row ends the game ("rule_violation").  After 200 turns it ends anyway ("turn_limit").
    Payoff: TextArena's rewards, as a rule 1 to the winner and -1 to the loser; 0 where the game goes on.
    Chance: for the games of `envs.textarena_moves`, which are zero-sum, 0.  Such a game is a `Game`; for it, a
    message with two different moves is no legal move.  In any other, TextArena decides what a message means.
    Best: 0.
    Source: Guertler et al., TextArena (2025), https://github.com/LeonGuertler/TextArena, version 0.7.4.

    Training draws from TextArena's even seeds and held-out from the odd ones.  A game without chance, such as
    TicTacToe, starts the same whatever the seed: its held-out games are no others.  A message that makes TextArena
    raise an error loses the game, and ``facts["ending"]`` has the error.  Of a long message the game is shown the last
    1,000 characters.
    Refused are games for another number of players, those that ask a hosted model, and those that fetch files.
    """

    roles: ClassVar[tuple[str, str]] = ROLES

    game: str  # TextArena's name for it, such as TicTacToe-v0

    def __new__(cls, game: str = "") -> TextArenaEnv:
        """Make a `Game` of a game that is known."""
        return object.__new__(TextArenaGame if cls is TextArenaEnv and known_game(game) else cls)

    def __post_init__(self) -> None:
        """Refuse a game that does not exist, or that cannot be played here."""
        replays_of(self.game)

    @property
    def name(self) -> str:
        """TextArena's name of the game behind "textarena:"."""
        return f"textarena:{self.game}"

    @property
    def zero_sum(self) -> bool:
        """Whether the game is known to be: nothing is claimed of the others."""
        return known_game(self.game) is not None

    def scenario(self, seed: int, split: Split) -> Scenario:
        """Choose TextArena's seed: even ones are for training."""
        check_split(split)
        if seed < 0:
            raise UserError(f"seed={seed} must be 0 or more")
        number = 2 * seed + SPLITS.index(split)
        first = replays_of(self.game).position(number, ()).next_player or 0
        return Scenario(
            env=self.name,
            seed=seed,
            split=split,
            roles=(ROLES[first], ROLES[1 - first]),
            public={"game": self.game, "textarena_seed": number},
        )

    def next_role(self, conversation: Conversation) -> str | None:
        """Return whose turn TextArena says it is: the same role's again, if its message was refused."""
        position = self._position(conversation)
        if position.next_player is None or conversation.num_turns >= MAX_TURNS:
            return None
        return ROLES[position.next_player]

    def brief(self, scenario: Scenario, role: str) -> str:
        """Return the game's prompt."""
        opening = replays_of(self.game).position(scenario.public["textarena_seed"], ())
        prompts = [heard.text for heard in opening.heard[ROLES.index(role)] if heard.kind == "PROMPT"]
        return "\n\n".join(prompts) or f"You are Player {ROLES.index(role)} in {self.game}."

    def hears(self, conversation: Conversation, role: str) -> str:
        """Return what the game told the role since it spoke: of several boards the last, and nothing twice."""
        player, heard = ROLES.index(role), _since_spoken(self._position(conversation), ROLES.index(role))
        boards = [one for one in heard if one.kind == "GAME_BOARD"]
        kept = [one for one in heard if one.kind != "GAME_BOARD" or one is boards[-1]]
        told = [one.text for one in kept if one.kind != "PROMPT" and (one.by, one.kind) != (player, "PLAYER_ACTION")]
        return "\n".join(dict.fromkeys(text for text in told if text))

    def parse(self, conversation: Conversation, turn: int) -> Action | None:
        """Return the move, as far as it is known, and whether TextArena took it; "say": no move was due."""
        position = self._position(conversation, turn + 1)
        if position.before is None or turn >= conversation.num_turns:
            return None
        value = " ".join(move.strip("[] ") for move in position.moves) or None
        is_move = bool(value) or position.is_refused or not (known_game(self.game) and not position.before.legal)
        return Action(kind="move" if is_move else "say", value=value, legal=not position.is_refused)

    def outcome(self, conversation: Conversation) -> Outcome:
        """Return TextArena's rewards; for an unfinished game none yet, and "turn_limit"."""
        position = self._position(conversation)
        rewards = position.ending.rewards if position.ending else (0.0, 0.0)
        reason = _reason(position)
        winner = max(range(2), key=rewards.__getitem__) if rewards[0] != rewards[1] else None
        violator = position.ending.violator if position.ending else None
        by = violator if reason == "rule_violation" else winner
        return Outcome(
            status="terminated",
            reason=reason,
            by=None if by is None else ROLES[by],
            protocol_ok=not any(one.is_refused for one in _line(position)),
            facts={
                "success": reason == "goal_reached",
                "winner": None if winner is None else ROLES[winner],
                "ending": position.ending.note if position.ending else "",
            },
            payoff=dict(zip(ROLES, rewards, strict=True)),
        )

    def scripted(self, conversation: Conversation, role: str) -> str:
        """Return a legal move, for some games a good one; raises UserError where the game lists none."""
        position, draw, known = self._position(conversation), move_draw(conversation), known_game(self.game)
        if known is not None:
            return draw.choose(position.better or position.legal or known.talk)
        return draw.choose(self._told_moves(conversation, role))

    def _told_moves(self, conversation: Conversation, role: str) -> Sequence[str]:
        """Return the bracketed moves that the game lists as legal in what the role heard last."""
        heard = self.hears(conversation, role)
        listed = LISTED.findall(heard)
        moves = BRACKETED.findall(listed[-1]) if listed else []
        if not moves and NOTHING_LISTED.search(heard):
            return ("[pass]",)
        if not moves:
            right = "let a model or a person play it"
            raise UserError(f"no script can play TextArena's {self.game}, which lists no legal moves; {right}")
        return moves

    def _position(self, conversation: Conversation, num_turns: int | None = None) -> Position:
        texts = tuple(turn.text for turn in conversation.turns[:num_turns])
        return replays_of(self.game).position(conversation.scenario.public["textarena_seed"], texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextArenaGame(TextArenaEnv):
    """A game of TextArena whose moves are known: see `TextArenaEnv`, which makes one of it."""

    def __post_init__(self) -> None:
        """Refuse a game whose moves are not known."""
        replays_of(self.game)
        if known_game(self.game) is None:
            raise UserError(f"the moves of TextArena's {self.game} are not known here; use TextArenaEnv")

    def sheet(self) -> GameSheet:
        """Return the promises of a game that one role wins and the other loses."""
        return GameSheet(payoffs=(-1.0, 1.0), ends=self._known.ends, chance=0.0, best=0.0)

    def chance(self, conversation: Conversation, role: str) -> str:
        """Return any legal move."""
        return move_draw(conversation).choose(self._position(conversation).legal or self._known.talk)

    def endings(self, scenario: Scenario) -> Mapping[Reason, tuple[str, ...]]:
        """Return games of chance players that end so, and one that is lost by breaking the rules."""
        return dict(_endings(self.game, scenario.public["textarena_seed"]))

    @property
    def _known(self) -> KnownGame:
        known = known_game(self.game)
        assert known is not None
        return known


@functools.lru_cache(maxsize=256)
def _endings(game: str, seed: int) -> tuple[tuple[Reason, tuple[str, ...]], ...]:
    known = known_game(game)
    assert known is not None
    found: dict[Reason, tuple[str, ...]] = {"rule_violation": _played(game, seed, known, None)}
    if known.drawn:
        found["no_deal"] = known.drawn
    for attempt in range(MAX_GAMES):
        if len(found) == len(known.ends):
            break
        texts = _played(game, seed, known, Draw(seed, (ENDS, attempt)))
        found.setdefault(_reason(replays_of(game).position(seed, texts)), texts)
    return tuple(found.items())


def _played(game: str, seed: int, known: KnownGame, draw: Draw | None) -> tuple[str, ...]:
    """Return a whole game of chance players, or (None) of players that break the rules where they can."""
    texts: tuple[str, ...] = ()
    while (position := replays_of(game).position(seed, texts)).ending is None:
        texts += (known.breach if draw is None else draw.choose(position.legal or known.talk),)
    return texts


def _reason(position: Position) -> Reason:
    ending = position.ending
    if ending is None:
        return "turn_limit"
    if ending.violator is not None:
        return "rule_violation"
    if ending.rewards[0] != ending.rewards[1]:
        return "goal_reached"
    return "turn_limit" if ending.is_at_limit else "no_deal"


def _line(position: Position) -> list[Position]:
    """Return the positions of a game, the last first."""
    line = [position]
    while (before := line[-1].before) is not None:
        line.append(before)
    return line


def _since_spoken(position: Position, player: int) -> list[Heard]:
    """Return what a player was given since it last spoke, the answer to its own message included."""
    heard: list[Heard] = []
    for here in _line(position):
        heard = [*here.heard[player], *heard]
        if here.player == player:
            break
    return heard
