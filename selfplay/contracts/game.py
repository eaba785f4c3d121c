"""The proof of a game: everything that its sheet promises is played for, measured and compared."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from selfplay.contracts.env import (
    check_end,
    check_env,
    check_message,
    check_position,
    check_turn,
    endless,
    play_scripted,
    spot_of,
)
from selfplay.contracts.hostile import SILENCE, hostile_texts, some_turns
from selfplay.contracts.measured import Measured, measure
from selfplay.contracts.sheet import check_game_outcome, check_sheet
from selfplay.contracts.spot import Spot, call_twice, check_attributes, check_text, kind_of, plugin_label
from selfplay.contracts.starts import opening
from selfplay.dialog import SPLITS, Conversation, Outcome, Scenario, Split
from selfplay.errors import UserError
from selfplay.interfaces import Env, Game, GameSheet, PluginError
from selfplay.time_limit import TimeLimitError, call_within

__all__ = ["GameReport", "Proof", "check_game"]

MIN_CHANCE_GAMES = 400
NUM_ERRORS, SLACK = 4.0, 0.02  # a mean may be so many standard errors and env units away from what the sheet says
EXACT = 1e-6  # env units
NUM_SCENARIOS = 4  # of each split, on which every end is brought about and hostile messages are said
NUM_LAZY = 40  # of each split, for players that do nothing
SECONDS_A_GAME = 10.0  # a message that holds a game up for longer is a defect
TIMED_SECONDS, TIMED_SEEDS = 0.5, 1_000_000  # how long the script is timed, and on which scenarios

Lazy = Literal["silence", "echo"]
LAZY: tuple[Lazy, ...] = ("silence", "echo")
# Adds a role's next message: called with where the proof stands, the game so far and the role.
Speak = Callable[[Spot, Conversation, str], Conversation]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A promise that was kept; or, as a warning, something that a person should know.

    Example: ``Proof(name="chance", text="pays 0.253 (400 games), success 25%; the sheet says 0.25")``
    """

    name: str
    text: str
    is_warning: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GameReport:
    """What `check_game` found of an environment that keeps every promise."""

    env: str
    roles: tuple[str, ...]
    sheet: GameSheet | None  # None: the env has no ground truth
    played: Mapping[str, Measured]  # "scripted", "chance", "silence", "echo": all roles; "echo/buyer": one, and scripts
    turns_per_second: float  # scripted, a second of one core
    proofs: tuple[Proof, ...]  # in the order in which they were made


def check_game(
    env: Env, *, games: int = 100, seed: int = 0, max_turns: int = 200, tell: Callable[[Proof], None] | None = None
) -> GameReport:
    """Prove that an environment keeps the promises of `Env` and, if it has a ground truth, those of `Game`.

    games: scripted games, half on each split, on the seeds from `seed` on; tell: is given each proof once it is made.
    Raises PluginError for the first promise that is broken.
    """
    if games < 2 or seed < 0:
        raise UserError(
            f"games={games} must be at least 2, for half of them are on each split, and seed={seed} 0 or more"
        )
    examiner = _Examiner(env=env, num_seeds=(games + 1) // 2, first_seed=seed, max_turns=max_turns)
    proofs = []
    for proof in examiner.proofs():
        proofs.append(proof)
        if tell is not None:
            tell(proof)
    return GameReport(
        env=env.name,
        roles=env.roles,
        sheet=examiner.sheet,
        played=examiner.played,
        turns_per_second=examiner.turns_per_second,
        proofs=tuple(proofs),
    )


class _Examiner:
    """Makes the proofs one after another; keeps what later ones need of the earlier."""

    def __init__(self, *, env: Env, num_seeds: int, first_seed: int, max_turns: int) -> None:
        self.env = env
        self.num_seeds = num_seeds  # of each split
        self.first_seed = first_seed
        self.max_turns = max_turns
        self.label = Spot(plugin=plugin_label(env, "env"))
        self.game: Game | None = None
        self.sheet: GameSheet | None = None
        self.played: dict[str, Measured] = {}
        self.own_texts: list[str] = []  # briefs and messages of the game
        self.scripted: dict[tuple[int, Split], Conversation] = {}  # by seed and split
        self.turns_per_second = 0.0

    def proofs(self) -> Iterator[Proof]:
        yield from self.contract()
        yield self.claims()
        yield self.scripts()
        if self.game is not None and self.sheet is not None:
            yield self.ends(self.game, self.sheet)
            yield self.chance(self.sheet)
            yield self.best(self.sheet)
            yield self.laziness(self.sheet)
        yield self.hostility()
        yield self.speed()

    # ----- the proofs -----

    def contract(self) -> Iterator[Proof]:
        compared = check_env(
            self.env, num_scenarios=self.num_seeds, max_turns=self.max_turns, first_seed=self.first_seed
        )
        if any(hasattr(self.env, method) for method in ("sheet", "chance", "endings")):
            check_attributes(self.env, Game, "env")
        text = f"{2 * self.num_seeds} scripted games, half on each split: same answers twice, arguments untouched"
        yield Proof(name="contract", text="; ".join([text, *compared.kept()]))
        for name, text in compared.doubts().items():
            yield Proof(name=name, text=text, is_warning=True)

    def claims(self) -> Proof:
        if not isinstance(self.env, Game):
            text = "no ground truth: payoffs, ends, chance and best do not apply"
            return Proof(name="sheet", text=text)
        self.game, sheet = self.env, call_twice(self.label, "sheet", self.env.sheet)
        check_sheet(self.label, sheet, is_zero_sum=self.env.zero_sum)
        self.sheet = sheet
        (low, high), kind = sheet.payoffs, "zero-sum" if self.env.zero_sum else "general-sum"
        return Proof(
            name="sheet", text=f"payoffs {low:g} to {high:g}, {kind}; chance {sheet.chance:.3g}, best {sheet.best:.3g}"
        )

    def scripts(self) -> Proof:
        conversations = [self._scripted(scenario) for scenario in self._scenarios(self.num_seeds)]
        self.own_texts = _own_texts(conversations)
        played = self.played["scripted"] = measure(conversations)
        for conversation in conversations if self.sheet else ():
            outcome = conversation.outcome
            if outcome is not None and not outcome.protocol_ok:
                spot = spot_of(self.env, conversation.scenario, conversation.num_turns)
                problem = f"did not keep the form ({outcome.reason}{f' by {outcome.by}' if outcome.by else ''})"
                raise spot.broken("scripted", problem, "protocol_ok must be True where scripts fill every role")
        return Proof(name="scripts", text=_line(played))

    def ends(self, game: Game, sheet: GameSheet) -> Proof:
        for scenario in self._scenarios(NUM_SCENARIOS):
            spot = spot_of(game, scenario)
            endings = call_twice(spot, "endings", game.endings, scenario)
            if not isinstance(endings, Mapping) or set(endings) != set(sheet.ends):
                found = ", ".join(endings) if isinstance(endings, Mapping) else kind_of(endings)
                right = f"it must have a game for each end of the sheet: {', '.join(sheet.ends)}"
                raise spot.broken("endings", f"has {found or 'nothing'}", right)
            for reason, texts in endings.items():
                self._bring_about(scenario, reason, texts)
        return Proof(name="ends", text=f"each was brought about, and there was no other: {', '.join(sheet.ends)}")

    def chance(self, sheet: GameSheet) -> Proof:
        num = max(MIN_CHANCE_GAMES // 2, self.num_seeds)
        played = self.played["chance"] = measure([self._play(one, self._by_chance) for one in self._scenarios(num)])
        slack = NUM_ERRORS * played.error + SLACK
        if abs(played.mean - sheet.chance) > slack:
            problem = f"says chance={sheet.chance:.4g}, but {played.games} games by chance paid {played.mean:.4g}"
            raise self.label.broken("sheet", problem, f"the mean over roles must be within {slack:.2g} of it")
        return Proof(name="chance", text=f"{_line(played)}; the sheet says {sheet.chance:.3g}")

    def best(self, sheet: GameSheet) -> Proof:
        scripted, chance = self.played["scripted"], self.played["chance"]
        for name, played in (("scripted", scripted), ("chance", chance)):
            if played.mean > sheet.best + NUM_ERRORS * played.error + EXACT:
                problem = f"says best={sheet.best:.4g}, but {name} games paid {played.mean:.4g}"
                raise self.label.broken("sheet", problem, "nothing may be better than the best")
        slack = NUM_ERRORS * math.hypot(scripted.error, chance.error) + SLACK
        if scripted.mean < chance.mean - slack:
            problem = f"is paid {scripted.mean:.4g}, less than chance's {chance.mean:.4g}"
            raise self.label.broken("scripted", problem, "a script must be a competent player")
        return Proof(
            name="best", text=f"{sheet.best:.3g}, which nobody exceeded; the scripts reach {scripted.mean:.3g}"
        )

    def laziness(self, sheet: GameSheet) -> Proof:
        """Measure players that do nothing: in all roles, and in one role where scripts fill the others."""
        scenarios, gains = list(self._scenarios(NUM_LAZY)), []
        scripted = [self._scripted(scenario) for scenario in scenarios]
        roles = self.env.roles if len(self.env.roles) > 1 else ()
        for kind in LAZY:
            self._check_lazy_together(kind, scenarios, sheet)
            for role in roles:
                alone = [self._play(scenario, self._lazily(kind, (role,))) for scenario in scenarios]
                self.played[f"{kind}/{role}"] = measure(alone)
                gain = _gain(alone, scripted, role)
                gains += [f"{kind} pays {role} {gain:.2g} more than its script does"] if gain > 0 else []
        paid = ", ".join(f"{kind} of all pays {self.played[kind].mean:.3g}" for kind in LAZY)
        text = f"{paid}; {'; '.join(gains) or 'nobody gains by it against scripts'}"
        return Proof(name="laziness", text=text, is_warning=bool(gains))

    def hostility(self) -> Proof:
        """Say hostile messages in every turn of a game, and in each turn of games that others play up to there."""
        texts = hostile_texts(self.own_texts, seed=self.first_seed)
        scenarios, num_games = list(self._scenarios(NUM_SCENARIOS)), 0
        longest = math.ceil(self.played["scripted"].turns)
        turns, lines = some_turns(longest), [self._line(index, scenario) for index, scenario in enumerate(scenarios)]
        for index, text in enumerate(texts):
            line, others = lines[index % len(lines)], self._others(index)
            self._withstand(line[0], text, turn=None, others=others)
            due = [turn for turn in turns if turn < len(line)]
            for turn in due:
                self._withstand(line[turn], text, turn=turn, others=others)
            num_games += 1 + len(due)
        kept = "no error, payoffs in their bounds" if self.sheet else "no error"
        where = "every turn" if len(turns) == longest else f"turns {', '.join(map(str, turns))} of about {longest}"
        return Proof(name="hostile", text=f"{len(texts)} messages in the place of {where}, {num_games} games: {kept}")

    def speed(self) -> Proof:
        # Processor time: what else this machine does is no fault of the game.
        num_turns, seed, start = 0, TIMED_SEEDS + self.first_seed, time.process_time()
        while time.process_time() - start < TIMED_SECONDS:
            num_turns += play_scripted(self.env, self.env.scenario(seed, "train"), max_turns=self.max_turns).num_turns
            seed += 1
        self.turns_per_second = num_turns / (time.process_time() - start)
        return Proof(name="speed", text=f"{self.turns_per_second:,.0f} scripted turns a second")

    # ----- games -----

    def _scripted(self, scenario: Scenario) -> Conversation:
        """Return the scenario's scripted game, which is played once."""
        key = (scenario.seed, scenario.split)
        if key not in self.scripted:
            self.scripted[key] = self._play(scenario, self._script)
        return self.scripted[key]

    def _scenarios(self, num: int) -> Iterator[Scenario]:
        """Yield so many scenarios of each split."""
        for split in SPLITS:
            for seed in range(self.first_seed, self.first_seed + num):
                yield self.env.scenario(seed, split)

    def _play(self, scenario: Scenario, speak: Speak, start: Conversation | None = None) -> Conversation:
        """Play on from the start, which is the opening unless given."""
        conversation = start or opening(self.env, scenario)
        for turn in range(conversation.num_turns, self.max_turns + 1):
            spot = spot_of(self.env, scenario, turn)
            outcome = check_position(spot, self.env, conversation)
            if self.sheet is not None:
                check_game_outcome(spot, outcome, self.sheet, scenario.roles)
            role = call_twice(spot, "next_role", self.env.next_role, conversation)
            if role is None:
                self._check_finished(spot, conversation, outcome)
                return replace(conversation, outcome=outcome)
            if role not in scenario.roles:
                raise spot.broken("next_role", f"returned {role!r}", f"roles are {', '.join(scenario.roles)}")
            if turn < self.max_turns:
                conversation = speak(spot, conversation, role)
        raise endless(spot_of(self.env, scenario, self.max_turns), self.max_turns)

    def _check_finished(self, spot: Spot, conversation: Conversation, outcome: Outcome) -> None:
        check_end(spot, self.env, conversation)
        if self.sheet is not None and outcome.reason not in self.sheet.ends:
            right = f"the sheet's ends are {', '.join(self.sheet.ends)}"
            raise spot.broken("outcome", f"ended the game with {outcome.reason}", right)

    def _script(self, spot: Spot, conversation: Conversation, role: str) -> Conversation:
        return check_turn(spot, self.env, conversation, role, method="scripted")

    def _by_chance(self, spot: Spot, conversation: Conversation, role: str) -> Conversation:
        return check_turn(spot, self.env, conversation, role, method="chance")

    def _others(self, index: int) -> Speak:
        return self._by_chance if self.game is not None and index % 2 else self._script

    def _line(self, index: int, scenario: Scenario) -> list[Conversation]:
        """Return a game without hostile messages, as it was before each of its turns."""
        played = replace(self._play(scenario, self._others(index)), outcome=None)
        return [replace(played, turns=played.turns[:turn]) for turn in range(played.num_turns)]

    def _check_lazy_together(self, kind: Lazy, scenarios: Sequence[Scenario], sheet: GameSheet) -> None:
        speak, scripted = self._lazily(kind, self.env.roles), self.played["scripted"]
        played = self.played[kind] = measure([self._play(scenario, speak) for scenario in scenarios])
        most = max(scripted.mean, sheet.chance) + NUM_ERRORS * played.error + SLACK
        if not self.env.zero_sum and played.mean > most:
            problem = f"pays {played.mean:.3g} for {kind} in every role, and {scripted.mean:.3g} for the scripts"
            raise self.label.broken("outcome", problem, "a game must not reward that nobody plays it")

    def _lazily(self, kind: Lazy, roles: Sequence[str]) -> Speak:
        def speak(spot: Spot, conversation: Conversation, role: str) -> Conversation:
            if role not in roles:
                return self._script(spot, conversation, role)
            heard = self.env.hears(conversation, role) if kind == "echo" else ""
            return check_message(spot, self.env, conversation, role, heard if heard.strip() else SILENCE)

        return speak

    def _bring_about(self, scenario: Scenario, reason: str, texts: Sequence[str]) -> None:
        spot = spot_of(self.env, scenario)
        if not isinstance(texts, tuple | list) or not texts:
            raise spot.broken("endings", f"has {texts!r} for {reason}", "it must be a tuple of texts, one a turn")
        for text in texts:
            check_text(spot, "endings", text)

        def recite(spot: Spot, conversation: Conversation, role: str) -> Conversation:
            if conversation.num_turns == len(texts):
                problem = f"has {len(texts)} texts for {reason}, and after them it is {role}'s turn"
                raise spot.broken("endings", problem, "they must be a whole game")
            return check_message(spot, self.env, conversation, role, texts[conversation.num_turns])

        conversation = self._play(scenario, recite)
        outcome, spot = conversation.outcome, replace(spot, turn=conversation.num_turns)
        if conversation.num_turns < len(texts):
            problem = f"has {len(texts)} texts for {reason}, but the game was over before all were spoken"
            raise spot.broken("endings", problem, "no text may follow the end")
        if outcome is None or outcome.reason != reason:
            raise spot.broken(
                "endings", f"brings about {outcome and outcome.reason}", f"these texts stand for {reason}"
            )
        self.own_texts += texts

    def _withstand(self, start: Conversation, text: str, *, turn: int | None, others: Speak) -> None:
        """Play on with a hostile message in the next turn, or in every turn (None)."""

        def speak(spot: Spot, conversation: Conversation, role: str) -> Conversation:
            if turn is None or conversation.num_turns == turn:
                return check_message(spot, self.env, conversation, role, text)
            return others(spot, conversation, role)

        shown = repr(text) if len(text) <= 60 else f"{text[:50]!r}... ({len(text):,} characters)"
        where = "in every turn" if turn is None else f"in turn {turn}"
        try:
            call_within(SECONDS_A_GAME, self._play, start.scenario, speak, start)
        except TimeLimitError as error:
            problem = f"took more than {SECONDS_A_GAME:g} s for a game with the message {shown} {where}"
            spot = spot_of(self.env, start.scenario)
            raise spot.broken("parse", problem, "reading a message must be quick") from error
        except PluginError as error:
            raise PluginError(f"{error}; it came of the message {shown} {where}") from error


def _gain(lazy: Sequence[Conversation], scripted: Sequence[Conversation], role: str) -> float:
    """Return how much more a role is paid on the same scenarios than its script; 0: no more than chance explains."""
    pairs = [(one.outcome, other.outcome) for one, other in zip(lazy, scripted, strict=True)]
    gains = np.array([ours.payoff[role] - theirs.payoff[role] for ours, theirs in pairs if ours and theirs])
    error = gains.std(ddof=1) / math.sqrt(len(gains))
    return float(gains.mean()) if gains.mean() > NUM_ERRORS * error + SLACK else 0.0


def _own_texts(conversations: Sequence[Conversation]) -> list[str]:
    some = conversations[:: max(1, len(conversations) // 6)]
    texts = [player.brief for one in some for player in one.players.values()]
    texts += [turn.text for one in some for turn in one.turns]
    return list(dict.fromkeys(texts))


def _line(played: Measured) -> str:
    ends = ", ".join(f"{reason} {num}" for reason, num in played.ends.items())
    if not played.by_role:
        return f"{played.games} games of {played.turns:.1f} turns; {ends}"
    roles = ", ".join(f"{role} {value:.3g}" for role, value in played.by_role.items())
    numbers = f"success {played.success:.0%}, form kept {played.protocol:.0%}, {played.turns:.1f} turns"
    return f"{played.games} games pay {played.mean:.3g} ({roles}), {numbers}; {ends}"
