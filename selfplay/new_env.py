"""The files that `env new` writes: a game that works, to be changed, its test and its golden game."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from selfplay.errors import UserError
from selfplay.interfaces import Env
from selfplay.new_files import check_free, check_module_name, is_word_of_python, names_in, write_files
from selfplay.plugins import PluginSpec, build_plugin

__all__ = ["NewEnv", "write_env"]

GAME = '''"""The game {name}: one role knows where the key is, the other has to open the right place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from envs.alternation import last_heard, whose_turn
from envs.drawing import Draw, draw_position, move_draw
from envs.reading import moves_in, says
from selfplay.dialog import Action, Conversation, Outcome, Reason, Scenario, Split
from selfplay.errors import UserError
from selfplay.interfaces import GameSheet

GUIDE, SEEKER = "guide", "seeker"
MOVES = ("open",)
PLACES = ("kitchen", "garden", "cellar", "attic", "garage", "bedroom", "library", "hallway", "bathroom", "shed")
HINTS = ("The key is in the {{place}}.", "Look in the {{place}}.", "Try the {{place}}.", "I saw it in the {{place}}.")
ANSWERS = ("Thank you.", "I see.", "Good.", "All right.")


@dataclass(frozen=True, slots=True, kw_only=True)
class {kind}:
    """One role knows in which of several places a key is; the other has to open that place.

    Roles: `guide` knows the place and begins; `seeker` opens one with [open] PLACE.
    Ends: with the first [open] ("goal_reached", "gave_up"), or with one against the form ("rule_violation"): the
    guide's, of two places, or of a place that is not there.  After max_turns without any ("turn_limit") the form was
    not kept either, and that is the seeker's fault.
    Payoff: 1 to both where the place is right, else 0.
    Chance: 1 / places.
    Best: 1.
    Source: write down where your game comes from.
    """

    # Change everything below, a method at a time, and run `env check` after each.
    name: ClassVar[str] = "{name}"  # what transcripts record
    roles: ClassVar[tuple[str, str]] = (GUIDE, SEEKER)  # in speaking order
    zero_sum: ClassVar[bool] = False  # True: the payoffs of every game sum to 0

    # Settings are fields: env.places=3 on the command line.
    places: int = 4
    max_turns: int = 4

    def __post_init__(self) -> None:
        """Refuse settings that cannot be played."""
        if not 2 <= self.places <= len(PLACES):
            raise UserError(f"places={{self.places}} must be from 2 to {{len(PLACES)}}")
        if self.max_turns < 2:
            raise UserError(f"max_turns={{self.max_turns}} must be at least 2")

    def scenario(self, seed: int, split: Split) -> Scenario:
        """Draw the places and where the key is."""
        # All chance is drawn here.  The key of a position decides its split, so that the two share none.
        places, place = draw_position(seed, split, self._draw, key=str)
        return Scenario(
            env=self.name,
            seed=seed,
            split=split,
            roles=self.roles,
            public={{"places": places}},  # what every role may know
            private={{GUIDE: {{"place": place}}}},  # what one role alone knows
        )

    def next_role(self, conversation: Conversation) -> str | None:
        """Return whose turn it is; None: the game is over."""
        if conversation.num_turns >= self.max_turns or self._last_move(conversation) is not None:
            return None
        return whose_turn(conversation)

    def brief(self, scenario: Scenario, role: str) -> str:
        """Return what a role is told: short, with the form of a move shown once."""
        if role == GUIDE:
            return f"The key is in the {{scenario.private[GUIDE]['place']}}. Tell your partner where it is."
        places = ", ".join(scenario.public["places"])
        return f"A key is in one of: {{places}}. Your partner knows where. Open one place. Write: [open] PLACE"

    def hears(self, conversation: Conversation, role: str) -> str:
        """Return the partner's last message."""
        return last_heard(conversation, role, opener="Begin.")

    def parse(self, conversation: Conversation, turn: int) -> Action | None:
        """Return the move of a turn; None: it has none, and is only talk."""
        spoken, places = conversation.turns[turn], conversation.scenario.public["places"]
        moves = moves_in(spoken.text, MOVES)
        if not moves:
            return None
        # Forgiving about form, but never guessing: every move of the message must name one place, and the same.
        opened = {{places_in(move.argument, places) for move in moves}}
        if spoken.role != SEEKER or len(opened) > 1 or len(found := opened.pop()) != 1:
            return Action(kind="open", legal=False)
        return Action(kind="open", value=found[0])

    def outcome(self, conversation: Conversation) -> Outcome:
        """Return how it ended; of an unfinished game, as if its last turn had been the limit."""
        move, place = self._last_move(conversation), conversation.scenario.private[GUIDE]["place"]
        is_right = move is not None and move.value == place
        reason: Reason = "turn_limit" if move is None else "goal_reached" if is_right else "gave_up"
        is_legal = move is not None and move.legal
        return Outcome(
            status="terminated",
            reason=reason if is_legal or move is None else "rule_violation",
            by=None if is_legal else SEEKER if move is None else conversation.turns[-1].role,  # whose fault it is
            protocol_ok=is_legal,  # whether the form was kept, apart from success
            facts={{"success": is_right}},
            payoff=dict.fromkeys(self.roles, float(is_right)),
        )

    def scripted(self, conversation: Conversation, role: str) -> str:
        """Return what a competent, honest player says."""
        draw = move_draw(conversation)
        if role == GUIDE:
            return draw.choose(HINTS).format(place=conversation.scenario.private[GUIDE]["place"])
        heard = last_heard(conversation, role)
        named = places_in(heard, conversation.scenario.public["places"])
        if len(named) != 1 and conversation.num_turns + 2 < self.max_turns:
            return "Where is it?"
        place = named[0] if len(named) == 1 else draw.choose(conversation.scenario.public["places"])
        return f"{{draw.choose(ANSWERS)}} [open] {{place}}"

    def chance(self, conversation: Conversation, role: str) -> str:
        """Return what a player says that knows the form and nothing else."""
        draw = move_draw(conversation)
        place = draw.choose(conversation.scenario.public["places"])
        return draw.choose(HINTS).format(place=place) if role == GUIDE else f"[open] {{place}}"

    def sheet(self) -> GameSheet:
        """Return what the game promises; `env check` measures all of it."""
        ends: tuple[Reason, ...] = ("goal_reached", "gave_up", "rule_violation", "turn_limit")
        return GameSheet(payoffs=(0.0, 1.0), ends=ends, chance=1 / self.places, best=1.0)

    def endings(self, scenario: Scenario) -> Mapping[Reason, tuple[str, ...]]:
        """Return a whole game for each end of the sheet, turn by turn."""
        place = scenario.private[GUIDE]["place"]
        other = next(one for one in scenario.public["places"] if one != place)
        return {{
            "goal_reached": (f"In the {{place}}.", f"[open] {{place}}"),
            "gave_up": (f"In the {{place}}.", f"[open] {{other}}"),
            "rule_violation": (f"In the {{place}}.", f"[open] {{place}} or [open] {{other}}"),
            "turn_limit": ("Hm.",) * self.max_turns,
        }}

    def _draw(self, draw: Draw) -> tuple[list[str], str]:
        places = draw.some(PLACES, self.places)
        return places, draw.choose(places)

    def _last_move(self, conversation: Conversation) -> Action | None:
        """Return the move that ended the game: every move does, and nothing follows it."""
        return self.parse(conversation, conversation.num_turns - 1) if conversation.turns else None


def places_in(text: str, places: Sequence[str]) -> tuple[str, ...]:
    """Return the places that a text names, as whole words in any case."""
    return tuple(place for place in places if says(text, place, inflected=False))
'''

TEST = '''"""The game {name}.  To record its golden game again: `python test_{name}.py` in this folder.

What must change with the game is marked CHANGE; the rest fits every game.
"""

from pathlib import Path

import pytest

from selfplay.contracts import check_game, golden_game
from selfplay.dialog import Conversation, Scenario, Turn
from {name} import {kind}

GOLDEN = Path(__file__).with_name("golden_{name}.txt")
# CHANGE with the game: a starting position as `scenario` draws it, with an answer that you know.
PLACES = ["kitchen", "garden", "cellar", "attic"]
START = Scenario(
    env="{name}",
    seed=0,
    split="train",
    roles=("guide", "seeker"),
    public={{"places": PLACES}},
    private={{"guide": {{"place": "garden"}}}},
)


# CHANGE if the roles do not alternate.
def said(*texts):
    turns = [Turn(role=START.roles[n % 2], text=text, heard_text="", player="human") for n, text in enumerate(texts)]
    return Conversation(id="000000-g00-0", scenario=START, turns=tuple(turns))


def test_{name}_keeps_the_contract_of_a_game():
    check_game({kind}(), games=20)


def test_{name}_golden_game_is_played_as_recorded():
    assert golden_game({kind}()) == GOLDEN.read_text(encoding="utf-8")


# CHANGE with the moves: what a role may say, and what `parse` makes of it.
# Here the place that a seeker opens; None: it is only talk; "refused": it is no legal move.
@pytest.mark.parametrize(
    ("text", "opened"),
    [
        ("[open] garden", "garden"),
        ("**[Open: the Garden]** please", "garden"),
        ("I think so. (open) GARDEN!", "garden"),
        ("[open] garden, yes: [open] garden", "garden"),
        ("[open] garden or [open] attic", "refused"),
        ("[open] garden attic", "refused"),
        ("[open] gardener", "refused"),
        ("[open]", "refused"),
        ("[open] bathroom", "refused"),
        ("I would open the garden.", None),
        ("[guess] garden", None),
        ("...", None),
    ],
)
def test_{name}_reads_a_message(text, opened):
    action = {kind}().parse(said("Try the garden.", text), 1)
    assert opened == (None if action is None else action.value if action.legal else "refused")


# CHANGE with the ends and payoffs: a whole game for each end, and what it pays by your own reckoning.
@pytest.mark.parametrize(
    ("texts", "reason", "payoff"),
    [
        (["Try the garden.", "[open] garden"], "goal_reached", 1),
        (["Try the attic.", "[open] attic"], "gave_up", 0),
        (["[open] garden"], "rule_violation", 0),
        (["Hm.", "Where?", "Hm.", "Where?"], "turn_limit", 0),
    ],
)
def test_{name}_pays_both_for_the_right_place(texts, reason, payoff):
    conversation = said(*texts)
    outcome = {kind}().outcome(conversation)
    assert {kind}().next_role(conversation) is None
    assert (outcome.reason, outcome.payoff) == (reason, {{"guide": payoff, "seeker": payoff}})


if __name__ == "__main__":
    GOLDEN.write_text(golden_game({kind}()), encoding="utf-8")
'''


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEnv:
    """The files that were written."""

    env: Path
    test: Path
    golden: Path
    kind: str  # the name of the class


def write_env(name: str, folder: Path, *, taken: Sequence[str] = ()) -> NewEnv:
    """Write NAME.py, test_NAME.py and golden_NAME.txt into a folder, which is made if need be.

    Raises UserError for a name that a module cannot have or that is taken, and where a file exists.
    """
    check_module_name(name, what="environment", example="lost_key", taken=taken)
    kind = "".join(part.capitalize() for part in name.split("_"))
    _check_kind(name, kind)
    written = NewEnv(
        env=folder / f"{name}.py",
        test=folder / f"test_{name}.py",
        golden=folder / f"golden_{name}.txt",
        kind=kind,
    )
    check_free((written.env, written.test, written.golden))
    game = GAME.format(name=name, kind=kind)
    golden = _golden_game_of(game, name, kind)
    write_files({written.env: game, written.test: TEST.format(name=name, kind=kind), written.golden: golden})
    return written


def _check_kind(name: str, kind: str) -> None:
    sources = (GAME.format(name="x", kind="X"), TEST.format(name="x", kind="X"))
    if is_word_of_python(kind) or any(kind in names_in(source) - {"X"} for source in sources):
        raise UserError(
            f"{name!r} would make a class {kind}, a name that Python or the files that are written use already; "
            "give the environment another name"
        )


def _golden_game_of(game: str, name: str, kind: str) -> str:
    """Return the golden game of a program that is not written yet."""
    from selfplay.contracts import golden_game

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.py"
        file.write_text(game, encoding="utf-8")
        return golden_game(cast("Env", build_plugin(PluginSpec(name=f"{file}:{kind}"), {})))
