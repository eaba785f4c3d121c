"""TextArena's games as values: what a game is like after some messages, found by replaying them from its seed.

A game of TextArena is an object that changes with every step and draws from the process's own random state.  Here
the same game, seed and messages give the same `Position`, whatever was asked before; the process's random state stays
as it was.  A game that goes on where it was asked about last is not replayed: it takes one step.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import random
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from envs.textarena_moves import KnownGame, known_game, moves_in
from selfplay.errors import UserError
from selfplay.written import nearest

EXTRA = "pip install 'selfplay-dialog[textarena]'"
MAX_POSITIONS, MAX_RUNNING = 8192, 64  # of one game: positions remembered, and games that can go on
# By the folder of the game's code: what asks a hosted model for answers or a verdict, and what fetches a list of
# words when it starts.
HOSTED = frozenset(("Debate", "GuessWho", "ScenarioPlanning", "TwentyQuestions"))
FETCHING = frozenset(
    (
        "Codenames",
        "DontSayIt",
        "Hangman",
        "LetterAuction",
        "SpellingBee",
        "WordChains",
        "WordLadder",
        "WordSearch",
        "Wordle",
    )
)
# TextArena itself cuts talk so.  Some of its patterns take minutes for a few thousand blanks.
MAX_CHARACTERS = 1000
BLANKS = re.compile(r"\s{9,}")
LOCK = threading.Lock()  # the random state is the process's


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One observation that a player was given."""

    by: int  # the player it is about; -1: the game
    text: str
    kind: str  # the name of TextArena's ObservationType


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a game ended."""

    rewards: tuple[float, float]
    violator: int | None = None  # whose message TextArena did not accept a last time
    is_at_limit: bool = False  # it took all the turns that TextArena gives it
    note: str = ""  # why, in TextArena's words


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Position:
    """A game after some messages.

    Example: after "[4]" of TicTacToe: ``Position(before=..., player=0, moves=("[4]",), heard=((...), (...)),
    next_player=1, legal=("[0]", "[1]", ...))``
    """

    before: Position | None = field(default=None, repr=False)  # None: nobody has spoken
    player: int | None = None  # whose message led here
    moves: tuple[str, ...] = ()  # what was read in that message, where the game's moves are known
    is_refused: bool = False  # whether that message was no legal move
    heard: tuple[tuple[Heard, ...], ...]  # player -> what it was given since the position before
    next_player: int | None  # None: the game is over
    legal: tuple[str, ...] = ()  # what the next player may do; none: it just talks, or the game is not known
    better: tuple[str, ...] = ()  # what a competent player would choose from; none: nothing stands out
    ending: Ending | None = None  # None: the game goes on


class Replays:
    """One game's positions, remembered by seed and messages."""

    def __init__(self, game: str) -> None:
        """Remember nothing yet."""
        self._game = game
        self._known: OrderedDict[tuple[int, tuple[str, ...]], Position] = OrderedDict()
        self._running: OrderedDict[tuple[int, tuple[str, ...]], _Running] = OrderedDict()

    def position(self, seed: int, texts: tuple[str, ...]) -> Position:
        """Return the game after the messages; messages after its end change nothing."""
        with LOCK:
            found = self._known.get((seed, texts))
            if found is not None:
                self._known.move_to_end((seed, texts))
                return found
            running = self._running.pop((seed, texts[:-1]), None) if texts else None
            if running is None:
                running = _Running(self._game, seed)
                self._remember(seed, (), running.position)
            for text in texts[running.num_texts :]:
                running.say(text)
                self._remember(seed, texts[: running.num_texts], running.position)
            self._keep(seed, texts, running)
            return running.position

    def _remember(self, seed: int, texts: tuple[str, ...], position: Position) -> None:
        self._known[seed, texts] = position
        if len(self._known) > MAX_POSITIONS:
            self._known.popitem(last=False)

    def _keep(self, seed: int, texts: tuple[str, ...], running: _Running) -> None:
        if running.position.ending is None:
            self._running[seed, texts] = running
        if len(self._running) > MAX_RUNNING:
            self._running.popitem(last=False)


@functools.lru_cache(maxsize=64)
def replays_of(game: str) -> Replays:
    """Return the positions of a game; raises UserError for a game that cannot be played here."""
    arena = _textarena()
    specs = arena.envs.registration.ENV_REGISTRY
    if game not in specs:
        raise UserError(f"TextArena has no game {game!r}{nearest(game, list(specs), is_list_shown=False)}")
    folder = str(specs[game].entry_point).split(".")[2]
    if folder in HOSTED:
        raise UserError(f"TextArena's {game} asks a hosted language model to answer or to judge; it cannot be played")
    if folder in FETCHING:
        raise UserError(f"TextArena's {game} fetches words over the network; it cannot be played")
    replays = Replays(game)
    try:
        replays.position(0, ())
    except Exception as error:
        # Some of its games need a later Python, some lack their files, and the others say how many players they need.
        what = next(iter(str(error).splitlines()), "")
        problem = f"TextArena's {game} cannot be started for two players ({type(error).__name__}{what and f': {what}'})"
        raise UserError(problem) from error
    return replays


def _textarena() -> Any:
    # By its name, because the package has no types.
    if importlib.util.find_spec("textarena") is None:
        raise UserError(f"TextArena is not installed: {EXTRA}")
    with _aside(_Chance()):
        return importlib.import_module("textarena")


# ----- the random state -----


@dataclass(slots=True)
class _Chance:
    """The random state that belongs to one game."""

    python: Any = None  # None: not drawn from yet
    numpy: Any = None


@contextlib.contextmanager
def _aside(chance: _Chance) -> Iterator[None]:
    """Let TextArena draw from a game's own random state, and keep what it prints from the terminal."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (what TextArena draws from)
    if chance.python is not None:
        random.setstate(chance.python)
        np.random.set_state(chance.numpy)  # noqa: NPY002
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        chance.python, chance.numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


# ----- a running game -----


class _Running:
    """A game of TextArena that is going on, and the position it has come to."""

    def __init__(self, game: str, seed: int) -> None:
        self.num_texts = 0
        self._known = known_game(game)
        self._chance = _Chance()
        with _aside(self._chance):
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            self._env = _textarena_env(game)
            self._env.reset(num_players=2, seed=seed)
        self._bare = self._env
        while hasattr(self._bare, "env"):
            self._bare = self._bare.env
        self.position = self._taken(before=None, player=None)

    def say(self, text: str) -> None:
        self.num_texts += 1
        if self.position.ending is not None:
            return
        player = self.position.next_player
        state = self._bare.state
        moves, shown = self._read(BLANKS.sub(" ", text)[-MAX_CHARACTERS:])
        errors = getattr(state, "error_count", 0)
        crash = ""
        with _aside(self._chance):
            try:
                if shown is None:
                    state.set_invalid_move(reason="The message must hold exactly one move.")
                    state.step()
                else:
                    self._env.step(shown)
            except Exception as error:  # noqa: BLE001 (what a message makes of somebody else's game)
                crash = f"{type(error).__name__}: {error}"
        self.position = self._taken(before=self.position, player=player, moves=moves, errors=errors, crash=crash)

    def _read(self, text: str) -> tuple[tuple[str, ...], str | None]:
        """Return the moves in a message, and what the game is told; None: the message is refused."""
        known = self._known
        if known is None or not self.position.legal:
            return (), text
        moves = moves_in(known.form, text)
        if moves is None:
            return (), None
        if known.must_move:
            return moves, " ".join(moves) or None
        return moves, text

    def _taken(
        self,
        *,
        before: Position | None,
        player: int | None,
        moves: tuple[str, ...] = (),
        errors: int = 0,
        crash: str = "",
    ) -> Position:
        state = self._bare.state
        heard = tuple(_heard(state.observations[player]) for player in range(2))
        state.observations.update({0: [], 1: []})
        ending = _ending(state, player, crash)
        next_player = None if ending else int(state.current_player_id)
        is_refused = bool(crash) or (
            player is not None
            and (getattr(state, "error_count", 0) > errors or bool(state.game_info[player]["invalid_move"]))
        )
        return Position(
            before=before,
            player=player,
            moves=moves,
            is_refused=is_refused,
            heard=heard,
            next_player=next_player,
            legal=self._listed(next_player, is_better=False),
            better=self._listed(next_player, is_better=True),
            ending=ending,
        )

    def _listed(self, player: int | None, *, is_better: bool) -> tuple[str, ...]:
        known: KnownGame | None = self._known
        list_moves = None if known is None else known.better if is_better else known.moves
        return () if player is None or list_moves is None else tuple(list_moves(self._bare, player))


def _textarena_env(game: str) -> Any:
    return importlib.import_module("textarena").make(game)


def _heard(observations: list[Any]) -> tuple[Heard, ...]:
    return tuple(Heard(by=by, text=str(text).strip(), kind=kind.name) for by, text, kind in observations)


def _ending(state: Any, player: int | None, crash: str) -> Ending | None:
    if crash and player is not None:
        lost = (-1.0, 1.0) if player == 0 else (1.0, -1.0)
        return Ending(rewards=lost, violator=player, note=f"The message stopped the game with {crash}"[:200])
    if not state.done:
        return None
    rewards = state.rewards or {}
    violators = [player for player in range(2) if state.game_info[player]["invalid_move"]]
    return Ending(
        rewards=(float(rewards.get(0, 0.0)), float(rewards.get(1, 0.0))),
        violator=violators[0] if violators else None,
        is_at_limit=bool(state.max_turns) and state.turn >= state.max_turns,
        note=str(state.game_info[0].get("reason") or ""),
    )
