"""What we know of some of TextArena's games: which moves a player has, and how one reads in a message.

The functions here are given a running game (TextArena's own object) and a player's number, and look at nothing that
the player does not know.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfplay.dialog import Reason

WON: tuple[Reason, ...] = ("goal_reached", "rule_violation")
DRAWN: tuple[Reason, ...] = ("goal_reached", "no_deal", "rule_violation")
UNDECIDED: tuple[Reason, ...] = ("goal_reached", "turn_limit", "rule_violation")

LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
RESOURCES = ("Wheat", "Wood", "Sheep", "Brick", "Ore")
JACK, QUEEN, KING = range(3)
# Column by column, a game of Connect Four that fills the board and that nobody wins.
DRAWN_CONNECT_FOUR = "436014551150160155104632660465204242223333"

Moves = Callable[[Any, int], Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownGame:
    """What the adapter knows of one game."""

    form: str  # regular expression of a move; its group tells moves apart; a named one, moves that may stand together
    moves: Moves  # a legal move of every kind; none: the player may say anything
    better: Moves | None = None  # those that a competent player chooses from, if any stands out; None: all
    ends: tuple[Reason, ...] = WON
    must_move: bool = False  # where a move is due, the game takes a message without one for a move
    breach: str = "?"  # a message that is against the rules where a move is due
    drawn: tuple[str, ...] = ()  # a whole game without a winner, where chance hardly ever plays one
    talk: tuple[str, ...] = ("Hello.",)  # what scripts say where a player may say anything


def moves_in(form: str, text: str) -> tuple[str, ...] | None:
    """Return the moves that a message holds, in brackets; None: it holds two different ones of a kind.

    A message without any bracket is read as if it stood in brackets, as TextArena does.
    """
    found: dict[str, dict[str, str]] = {}
    for match in re.finditer(form, text if "[" in text or "]" in text else f"[{text}]", re.IGNORECASE):
        moves = found.setdefault(match.lastgroup or "", {})
        moves.setdefault(_in_one_form(match[match.lastindex or 0]), match[0])
    if any(len(moves) > 1 for moves in found.values()):
        return None
    return tuple(move for moves in found.values() for move in moves.values())


def _in_one_form(move: str) -> str:
    words = unicodedata.normalize("NFKC", move).casefold().split()
    return " ".join(word.lstrip("0") or "0" if word.isdigit() else word for word in words)


# ----- board games -----


def _free_cells(game: Any, player: int) -> list[str]:
    cells = itertools.chain.from_iterable(game.state.game_state["board"])
    return [f"[{cell}]" for cell, mark in enumerate(cells) if mark == ""]


def _urgent_cells(game: Any, player: int) -> list[str]:
    """Return the cells that win, or else those that keep the other from winning, or else the middle."""
    cells = list(itertools.chain.from_iterable(game.state.game_state["board"]))
    own, other = ("X", "O") if player == 1 else ("O", "X")
    for mark in (own, other):
        wanted = [_gap(cells, line, mark) for line in LINES]
        if any(cell is not None for cell in wanted):
            return [f"[{cell}]" for cell in sorted({cell for cell in wanted if cell is not None})]
    return ["[4]"] if cells[4] == "" else []


def _gap(cells: Sequence[str], line: Sequence[int], mark: str) -> int | None:
    free = [cell for cell in line if cells[cell] == ""]
    return free[0] if len(free) == 1 and sum(cells[cell] == mark for cell in line) == 2 else None


def _open_columns(game: Any, player: int) -> list[str]:
    return [f"[col {column}]" for column, top in enumerate(game.state.game_state["board"][0]) if top == "."]


def _urgent_columns(game: Any, player: int) -> list[str]:
    """Return the columns that win, or else those in which the other would."""
    own, other = ("X", "O") if player == 0 else ("O", "X")
    board = game.state.game_state["board"]
    columns = [column for column, top in enumerate(board[0]) if top == "."]
    for disc in (own, other):
        wanted = [column for column in columns if _connects(board, column, disc)]
        if wanted:
            return [f"[col {column}]" for column in wanted]
    return []


def _connects(board: Sequence[Sequence[str]], column: int, disc: str) -> bool:
    row = max(row for row in range(len(board)) if board[row][column] == ".")
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        reach = _run(board, (row, column), (down, right), disc) + _run(board, (row, column), (-down, -right), disc)
        if reach >= 3:
            return True
    return False


def _run(board: Sequence[Sequence[str]], start: tuple[int, int], step: tuple[int, int], disc: str) -> int:
    row, column, length = start[0] + step[0], start[1] + step[1], 0
    while 0 <= row < len(board) and 0 <= column < len(board[0]) and board[row][column] == disc:
        row, column, length = row + step[0], column + step[1], length + 1
    return length


def _from_piles(game: Any, player: int) -> list[str]:
    piles = enumerate(game.state.game_state["piles"])
    return [f"[{pile} {number}]" for pile, size in piles for number in range(1, size + 1)]


def _to_nim_sum_zero(game: Any, player: int) -> list[str]:
    piles = game.state.game_state["piles"]
    total = 0
    for size in piles:
        total ^= size
    return [f"[{pile} {size - (size ^ total)}]" for pile, size in enumerate(piles) if size ^ total < size]


# ----- cards and choices -----


def _poker_moves(game: Any, player: int) -> list[str]:
    return [f"[{move}]" for move in game.state.game_state["current_legal_action_tree"]]


def _sensible_poker(game: Any, player: int) -> list[str]:
    card, moves = game.state.game_state["player_cards"][player], _poker_moves(game, player)
    wanted = {JACK: ("[check]", "[fold]"), QUEEN: ("[check]", "[call]", "[fold]"), KING: ("[bet]", "[call]")}[card]
    return [move for move in moves if move in wanted]


def _in_decisions(*moves: str) -> Moves:
    def legal(game: Any, player: int) -> Sequence[str]:
        return moves if game.state.game_state["phase"] == "decision" else ()

    return legal


def _always(*moves: str) -> Moves:
    def legal(game: Any, player: int) -> Sequence[str]:
        return moves

    return legal


def _guess(game: Any, player: int) -> Sequence[str]:
    return ("[Fact 1]", "[Fact 2]") if game.state.turn == game.state.max_turns - 1 else ()


# ----- negotiation -----


def _trades(game: Any, player: int) -> list[str]:
    """Return the answers to an offer, and all offers of one for one."""
    own = game.state.game_state["player_resources"][player]
    offers = [f"[Offer: 1 {give} -> 1 {take}]" for give, take in itertools.permutations(RESOURCES, 2) if own[give]]
    return [*_answers(game, player), *offers]


def _answers(game: Any, player: int) -> list[str]:
    offer, own = game.state.game_state["current_offer"], game.state.game_state["player_resources"][player]
    if not offer or offer["from_player"] == player:
        return []
    can_pay = all(own[name] >= number for name, number in offer["requested_resources"].items())
    return ["[Accept]", "[Deny]"] if can_pay else ["[Deny]"]


def _good_trades(game: Any, player: int) -> list[str]:
    """Return the acceptance of an offer that is worth it, or else the offers that would be."""
    values, offer = game.state.game_state["player_values"][player], game.state.game_state["current_offer"]
    answers = _answers(game, player)
    if "[Accept]" in answers and _worth(offer["offered_resources"], values) > _worth(
        offer["requested_resources"], values
    ):
        return ["[Accept]"]
    own = game.state.game_state["player_resources"][player]
    pairs = itertools.permutations(RESOURCES, 2)
    return [f"[Offer: 1 {give} -> 1 {take}]" for give, take in pairs if own[give] and values[take] > values[give]]


def _worth(resources: Mapping[str, int], values: Mapping[str, int]) -> int:
    return sum(number * values[name] for name, number in resources.items())


# ----- the table -----

CELL, COLUMN, PILE = r"\[\s*(\d+)\s*\]", r"\[\s*(?:col\s*)?(\d+)\s*\]", r"\[\s*(\d+\s+\d+)\s*\]"
TRADE = r"\[\s*(?P<answer>accept|deny)\s*\]|\[\s*offer:?(?P<offer>[^\[\]]*)\]"

GAMES: Mapping[str, KnownGame] = {
    "TicTacToe-v0": KnownGame(form=CELL, moves=_free_cells, better=_urgent_cells, ends=DRAWN),
    "ConnectFour-v0": KnownGame(
        form=COLUMN,
        moves=_open_columns,
        better=_urgent_columns,
        ends=DRAWN,
        drawn=tuple(f"[col {column}]" for column in DRAWN_CONNECT_FOUR),
    ),
    "Nim-v0": KnownGame(form=PILE, moves=_from_piles, better=_to_nim_sum_zero),
    "Nim-v0-medium": KnownGame(form=PILE, moves=_from_piles, better=_to_nim_sum_zero),
    "Nim-v0-large": KnownGame(form=PILE, moves=_from_piles, better=_to_nim_sum_zero),
    # TextArena's bets do not add to the pot: every round is worth 1, and an odd number of them has a winner.
    "KuhnPoker-v0": KnownGame(form=r"\[\s*(check|bet|call|fold)\s*\]", moves=_poker_moves, better=_sensible_poker),
    "IteratedRockPaperScissors-v0": KnownGame(
        form=r"\[\s*(r|p|s)(?:(?<=r)ock|(?<=p)aper|(?<=s)cissors)?\s*\]",
        moves=_always("[rock]", "[paper]", "[scissors]"),
        ends=DRAWN,
    ),
    "IteratedMatchingPennies-v0": KnownGame(
        form=r"\[\s*(h|t)(?:(?<=h)eads|(?<=t)ails)?\s*\]", moves=_always("[heads]", "[tails]"), ends=DRAWN
    ),
    "IteratedPrisonersDilemma-v0": KnownGame(
        form=r"\[\s*(cooperate|defect)\s*\]",
        moves=_in_decisions("[Cooperate]", "[Defect]"),
        better=_in_decisions("[Cooperate]"),
        ends=DRAWN,
        must_move=True,
        talk=("Let us both cooperate.", "I will cooperate if you do.", "We both gain more together."),
    ),
    "SimpleNegotiation-v0-short": KnownGame(
        form=TRADE, moves=_trades, better=_good_trades, ends=UNDECIDED, breach="[Offer: nothing]"
    ),
    "SimpleNegotiation-v0": KnownGame(
        form=TRADE, moves=_trades, better=_good_trades, ends=UNDECIDED, breach="[Offer: nothing]"
    ),
    "TruthAndDeception-v0": KnownGame(
        form=r"\[\s*(fact\s+[12])\s*\]",
        moves=_guess,
        must_move=True,
        talk=("Fact 1 is the right one.", "Fact 2 is the right one.", "Which one do you believe?", "Why that one?"),
    ),
}


def known_game(name: str) -> KnownGame | None:
    """Return what is known of a game; its versions for training and without wrappers have the same rules."""
    return GAMES.get(name.removesuffix("-train").removesuffix("-raw"))
