from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import ClassVar

import numpy as np
import pytest

from envs.chitchat import ChitChat
from rewards.outcome import Payoff, SharedPayoff
from selfplay.contracts import check_env, check_generator, check_reward, play_scripted, sample_conversations
from selfplay.dialog import Action, Conversation, Outcome, Scenario, Scores, Turn
from selfplay.generate.scripted import ScriptedGenerator
from selfplay.interfaces import Completion, PluginError, Request


@dataclass(frozen=True, kw_only=True)
class Whisper:
    """A correct tiny game: ann knows a word, says it on turn 2 of 3, and wins a point from bob."""

    name: ClassVar[str] = "whisper"
    roles: ClassVar[tuple[str, ...]] = ("ann", "bob")
    zero_sum: ClassVar[bool] = True
    calls: Iterator[int] = field(default_factory=count)  # only the broken games below use it

    def scenario(self, seed, split):
        secret = f"{split} word {seed}"
        public, private = {"letters": [1, 2]}, {"ann": {"word": secret}, "bob": {"calm": True}}
        return Scenario(env=self.name, seed=seed, split=split, roles=self.roles, public=public, private=private)

    def next_role(self, conversation):
        return self.roles[conversation.num_turns % 2] if conversation.num_turns < 3 else None

    def brief(self, scenario, role):
        return f"Your word is {scenario.private['ann']['word']}." if role == "ann" else "Listen."

    def hears(self, conversation, role):
        return conversation.turns[-1].text if conversation.turns else ""

    def parse(self, conversation, turn):
        return Action(kind="word", value=[turn])

    def outcome(self, conversation):
        return Outcome(status="terminated", reason="goal_reached", by="ann", payoff={"ann": 1.0, "bob": -1.0})

    def scripted(self, conversation, role):
        return conversation.scenario.private["ann"]["word"] if conversation.num_turns == 2 else f"{role} waits."


class OtherScenario(Whisper):
    def scenario(self, seed, split):
        return replace(super().scenario(seed, split), public={"draw": next(self.calls)})


class SetInScenario(Whisper):
    def scenario(self, seed, split):
        return replace(super().scenario(seed, split), public={"letters": {1, 2}})


class TupleInScenario(Whisper):
    def scenario(self, seed, split):
        return replace(super().scenario(seed, split), public={"letters": (1, 2)})


class WrongSeed(Whisper):
    def scenario(self, seed, split):
        return super().scenario(seed % 3, split)


class WrongRoles(Whisper):
    def scenario(self, seed, split):
        return replace(super().scenario(seed, split), roles=("ann", "eve"))


class StrangerWithSecret(Whisper):
    def scenario(self, seed, split):
        return replace(super().scenario(seed, split), private={"eve": {}})


class OneSplit(Whisper):
    def scenario(self, seed, split):
        return replace(super().scenario(seed, "train"), split=split)


class UnknownSpeaker(Whisper):
    def next_role(self, conversation):
        return "eve" if conversation.num_turns == 2 else super().next_role(conversation)


class Endless(Whisper):
    def next_role(self, conversation):
        return "ann"


class NeverBegins(Whisper):
    def next_role(self, conversation):
        return None


class ChangesTheScenario(Whisper):
    def next_role(self, conversation):
        conversation.scenario.public["letters"].append(3)
        return super().next_role(conversation)


class BriefIsNone(Whisper):
    def brief(self, scenario, role):
        return None


class BriefTells(Whisper):
    def brief(self, scenario, role):
        return f"Ann's word is {scenario.private['ann']['word'].upper()}!"


class HearsTooMuch(Whisper):
    def hears(self, conversation, role):
        return f"The word is {conversation.scenario.private['ann']['word']}." if conversation.num_turns == 1 else ""


class HearsAnotherThing(Whisper):
    def hears(self, conversation, role):
        return str(next(self.calls)) if conversation.num_turns == 1 else ""


class HearsHalfACharacter(Whisper):
    def hears(self, conversation, role):
        return "\ud83d"


class ParseReturnsText(Whisper):
    def parse(self, conversation, turn):
        return "word"


class ParseKeepsASet(Whisper):
    def parse(self, conversation, turn):
        return Action(kind="word", value={turn})


class ScriptIsSilent(Whisper):
    def scripted(self, conversation, role):
        return " " if conversation.num_turns == 1 else "Hi."


class OutcomeNeedsTurns(Whisper):
    def outcome(self, conversation):
        return super().outcome(conversation) if conversation.turns[-1] else None


class OutcomeIsNone(Whisper):
    def outcome(self, conversation):
        return super().outcome(conversation) if conversation.num_turns == 3 else None


class OutcomeIsTruncated(Whisper):
    def outcome(self, conversation):
        return Outcome(status="truncated", reason="token_limit")


class OutcomeReadsItself(Whisper):
    def outcome(self, conversation):
        return replace(super().outcome(conversation), protocol_ok=conversation.outcome is None)


class PayoffOfAStranger(Whisper):
    def outcome(self, conversation):
        return replace(super().outcome(conversation), payoff={"eve": 0.0})


class PayoffIsNaN(Whisper):
    def outcome(self, conversation):
        return replace(super().outcome(conversation), payoff={"ann": float("nan"), "bob": 0.0})


class PayoffDoesNotSumToZero(Whisper):
    def outcome(self, conversation):
        return replace(super().outcome(conversation), payoff={"ann": 1.0, "bob": -0.5})


class EndedByAStranger(Whisper):
    def outcome(self, conversation):
        return replace(super().outcome(conversation), by="eve")


class FactsAreASet(Whisper):
    def outcome(self, conversation):
        return replace(super().outcome(conversation), facts={"said": {1}})


@pytest.mark.parametrize("env", [Whisper(), ChitChat(), ChitChat(max_turns=9, personas={"guest": "You {bake}."})])
def test_check_env_of_a_correct_game_passes(env):
    check_env(env, num_scenarios=5)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (OtherScenario, "scenario returned .* the second time.*seed 0, split train, turn 0"),
        (SetInScenario, "scenario has public=.* which JSON cannot hold .*seed 0, split train, turn 0"),
        (TupleInScenario, "scenario has public=.* which JSON gives back changed .*seed 0, split train, turn 0"),
        (WrongSeed, "scenario set seed=0 .*seed 3, split train, turn 0.*it must be 3"),
        (WrongRoles, "scenario set roles=.*eve.*seed 0, split train, turn 0.*ann, bob in speaking order"),
        (StrangerWithSecret, "scenario has a private part of 'eve' .*seed 0, split train, turn 0.*ann, bob"),
        (OneSplit, "scenario returned the same .* as train with seed 0 .*seed 0, split held_out, turn 0"),
        (UnknownSpeaker, "next_role returned 'eve' .*seed 0, split train, turn 2.*roles are ann, bob"),
        (Endless, "next_role still names a role after 8 turns .*seed 0, split train, turn 8"),
        (NeverBegins, "next_role returned None before anyone spoke .*seed 0, split train, turn 0"),
        (ChangesTheScenario, "next_role changed what it was given .*seed 0, split train, turn 0"),
        (BriefIsNone, "brief returned None .*seed 0, split train, turn 0.*must return a text"),
        (
            BriefTells,
            "brief tells bob 'train word 0', which scenario.private.'ann'.* keeps for ann alone .*turn 0.*put it into",
        ),
        (HearsTooMuch, "hears tells bob 'train word 0', which .* keeps for ann alone .*seed 0, split train, turn 1"),
        (HearsAnotherThing, "hears returned '1' the second time, '0' the first .*seed 0, split train, turn 1"),
        (HearsHalfACharacter, "hears returned .* UTF-8"),
        (ParseReturnsText, "parse returned a str .*seed 0, split train, turn 0.*Action or None"),
        (ParseKeepsASet, "parse has value=.0., which JSON cannot hold .*seed 0, split train, turn 0"),
        (ScriptIsSilent, "scripted returned ' ' for bob .*seed 0, split train, turn 1"),
        (OutcomeNeedsTurns, "outcome raised IndexError.*seed 0, split train, turn 0"),
        (OutcomeIsNone, "outcome returned None .*seed 0, split train, turn 0.*unfinished games included"),
        (OutcomeIsTruncated, "outcome has status 'truncated' at the end .*seed 0, split train, turn 3"),
        (OutcomeReadsItself, "outcome is another once it was recorded .*seed 0, split train, turn 3"),
        (PayoffOfAStranger, "outcome has a payoff of 'eve' .*seed 0, split train, turn 0.*ann, bob"),
        (PayoffIsNaN, "outcome has payoff nan of ann .*seed 0, split train, turn 0"),
        (PayoffDoesNotSumToZero, "outcome has payoffs .*seed 0, split train, turn 0.*sum to 0, not to 0.5"),
        (EndedByAStranger, "outcome says by='eve' .*seed 0, split train, turn 0"),
        (FactsAreASet, "outcome has facts=.*seed 0, split train, turn 0"),
    ],
)
def test_check_env_of_a_broken_game_says_what_to_mend(env, message):
    with pytest.raises(PluginError, match=f"^env 'whisper': {message}"):
        check_env(env(), num_scenarios=5, max_turns=8)


def test_check_env_without_a_method_names_it():
    class Nothing:
        name = "nothing"

    with pytest.raises(PluginError, match="env 'nothing': roles is missing; see selfplay"):
        check_env(Nothing())


@pytest.mark.parametrize(
    ("attribute", "value"), [("name", ""), ("zero_sum", 1), ("roles", ["a"]), ("roles", ("a", "a"))]
)
def test_check_env_with_a_wrong_attribute_names_it(attribute, value):
    with pytest.raises(PluginError, match=f": {attribute} is .*it must be"):
        check_env(type("Wrong", (Whisper,), {attribute: value})())


def test_check_env_allows_a_secret_that_is_public_too():
    class Open(BriefTells):
        def scenario(self, seed, split):
            scenario = super().scenario(seed, split)
            return replace(scenario, public={"word": scenario.private["ann"]["word"]})

    check_env(Open(), num_scenarios=2)


class Shop(Whisper):
    """The seller alone knows a floor, the buyer a ceiling and a table of what things are worth to it."""

    name: ClassVar[str] = "shop"
    roles: ClassVar[tuple[str, ...]] = ("ann", "bob")

    def scenario(self, seed, split):
        start = super().scenario(seed, split)
        number = 2 * seed + (split == "held_out")
        private = {"ann": {"floor": 50 + number}, "bob": {"limits": {"ceiling": 90 + number, "red hat": 7 * number}}}
        return replace(start, public={"round": number, "price": 100 + number}, private=private)

    def brief(self, scenario, role):
        own = scenario.private[role]
        return f"Sell above {own['floor']}." if role == "ann" else f"Pay at most {own['limits']['ceiling']}."

    def scripted(self, conversation, role):
        return "Well."


class FloorInBrief(Shop):
    def brief(self, scenario, role):
        hint = f" Try {scenario.private['ann']['floor']}." if role == "bob" else ""
        return super().brief(scenario, role) + hint


class RoundedFloorInBrief(Shop):
    def brief(self, scenario, role):
        hint = "low" if scenario.private["ann"]["floor"] < 55 else "high"
        return super().brief(scenario, role) + (f" It is {hint}." if role == "bob" else "")


class CeilingIsHeard(Shop):
    def hears(self, conversation, role):
        ceiling = conversation.scenario.private["bob"]["limits"]["ceiling"]
        return f"Ask for {ceiling}." if role == "ann" and not conversation.turns else ""


class TableIsTold(Shop):
    def brief(self, scenario, role):
        worth = {"red hat": "a lot"} if scenario.private["bob"]["limits"]["red hat"] > 30 else {"hat": "little"}
        return super().brief(scenario, role) + (f" Bob's table: {worth}" if role == "ann" else "")


EXCHANGED = {
    FloorInBrief: r"brief tells bob something that ann alone knows: it has \".*Try 50.*52.* seed 1 .*seed 0",
    RoundedFloorInBrief: "brief tells bob something that ann alone knows.*low.*high",
    CeilingIsHeard: r"hears tells ann something that bob alone knows: it has \"Ask for 90.*seed 0, split train, turn 0",
    TableIsTold: "brief tells ann something that bob alone knows.*little.*may depend on scenario.public and",
}


@pytest.mark.parametrize("kind", EXCHANGED, ids=lambda kind: kind.__name__)
def test_check_env_finds_private_numbers_that_another_role_is_told(kind):
    with pytest.raises(PluginError, match=EXCHANGED[kind]) as raised:
        check_env(kind(), num_scenarios=8)
    assert "\n" not in str(raised.value)


def test_check_env_counts_the_private_parts_that_it_could_exchange():
    # 3 seeds on 2 splits, 2 roles each.
    compared = check_env(Shop(), num_scenarios=3)
    assert (compared.num_private, compared.num_exchanged, compared.doubts()) == (12, 12, {})
    assert "12 of 12 private parts exchanged" in "; ".join(compared.kept())


class OneFloor(Shop):
    def scenario(self, seed, split):
        start = super().scenario(seed, split)
        return replace(start, private={"ann": {"floor": 50}, "bob": {"limits": {"ceiling": 90}}})


class TiedToPublic(Shop):
    """The floor must be in a table of the same scenario: another one's raises an error, and proves nothing."""

    def scenario(self, seed, split):
        start = super().scenario(seed, split)
        floor = start.private["ann"]["floor"]
        return replace(start, public={**start.public, "floors": [floor]}, private={"ann": {"floor": floor}})

    def brief(self, scenario, role):
        return f"Place {scenario.public['floors'].index(scenario.private['ann']['floor'])}."


@pytest.mark.parametrize("kind", [OneFloor, TiedToPublic])
def test_check_env_says_when_no_private_part_could_be_exchanged(kind):
    compared = check_env(kind(), num_scenarios=3)
    assert compared.num_private > compared.num_exchanged == 0
    assert "private parts could be exchanged" in compared.doubts()["secrets"]


def test_check_env_names_where_a_private_table_keeps_what_is_told():
    class Table(Shop):
        def scenario(self, seed, split):
            start = super().scenario(seed, split)
            return replace(start, private={"ann": {"codes": [{"word": "garden"}, {"word": "attic"}]}})

        def brief(self, scenario, role):
            return "Choose attic or kitchen." if role == "bob" else "You know."

    place = re.escape("brief tells bob 'attic', which scenario.private['ann']['codes'][1]['word'] keeps for ann alone")
    with pytest.raises(PluginError, match=place):
        check_env(Table(), num_scenarios=2)


class SeedAlone(Shop):
    """No chance at all: only a number that nobody is told differs, as with TextArena's seeds."""

    def scenario(self, seed, split):
        return replace(super().scenario(seed, split), private={})

    def brief(self, scenario, role):
        return "Go on."


class HiddenSide(SeedAlone):
    """All starts read alike, but the same texts end otherwise: something hidden differs."""

    def outcome(self, conversation):
        is_odd = conversation.scenario.public["round"] // 2 % 2
        return replace(super().outcome(conversation), facts={"odd": is_odd})


class TwoBriefs(SeedAlone):
    def brief(self, scenario, role):
        return f"Go on {scenario.seed % 2}."


@pytest.mark.parametrize(("kind", "is_one", "num_alike"), [(SeedAlone, True, 4), (HiddenSide, False, 4)])
def test_check_env_tells_one_game_from_games_that_hide_something(kind, is_one, num_alike):
    starts = check_env(kind(), num_scenarios=4).starts
    assert (starts.is_one, starts.num_read_alike) == (is_one, num_alike)


def test_check_env_counts_held_out_starts_that_read_like_one_of_train():
    compared = check_env(TwoBriefs(), num_scenarios=4)
    assert (
        compared.kept()[0]
        == "no scenario in both splits, though 4 of 4 held-out ones read to all roles like one of train"
    )
    assert check_env(Whisper(), num_scenarios=4).starts.num_read_alike == 0


class WritesInATurn(Whisper):
    """Changes the list in a turn's action, which is part of what it is given."""

    def hears(self, conversation, role):
        if conversation.num_turns == 2:
            conversation.turns[0].action.value.append(7)
        return super().hears(conversation, role)


class CountsCalls(Whisper):
    def scripted(self, conversation, role):
        return f"{next(self.calls)} turns." if conversation.num_turns == 2 else super().scripted(conversation, role)

    def parse(self, conversation, turn):
        return Action(kind="word", value=turn)


@pytest.mark.parametrize(
    ("kind", "message"),
    [(WritesInATurn, "hears changed what it was given"), (CountsCalls, "scripted returned '1 turns.'")],
)
def test_check_env_compares_turns_whether_they_can_change_or_not(kind, message):
    with pytest.raises(PluginError, match=message):
        check_env(kind(), num_scenarios=2)


def test_play_scripted_plays_to_the_end():
    conversation = play_scripted(Whisper(), Whisper().scenario(4, "train"), id="000002-g01-3")
    assert [(turn.role, turn.text) for turn in conversation.turns] == [
        ("ann", "ann waits."),
        ("bob", "bob waits."),
        ("ann", "train word 4"),
    ]
    assert [turn.heard_text for turn in conversation.turns] == ["", "ann waits.", "bob waits."]
    assert [turn.action.value for turn in conversation.turns] == [[0], [1], [2]]
    assert conversation.players["bob"].brief == "Listen."
    assert (conversation.outcome.reason, conversation.step) == ("goal_reached", 2)


def test_play_scripted_of_an_endless_game_stops():
    with pytest.raises(PluginError, match="after 1000 turns"):
        play_scripted(Endless(), Endless().scenario(0, "train"))


@dataclass(frozen=True, kw_only=True)
class NumTurns:
    """A correct tiny reward: the turn's number, and nothing for the first turn."""

    name: ClassVar[str] = "num_turns"
    calls: Iterator[int] = field(default_factory=count)  # only the broken rewards below use it

    def score(self, conversations):
        return [self.score_one(conversation) for conversation in conversations]

    def score_one(self, conversation):
        return Scores(values=np.array([np.nan, *range(1, conversation.num_turns)], dtype=np.float32))


class OneScoresTooFew(NumTurns):
    def score(self, conversations):
        return super().score(conversations)[1:]


class OneTurnTooFew(NumTurns):
    def score_one(self, conversation):
        return Scores(values=np.zeros(conversation.num_turns - 1, dtype=np.float32))


class PlainList(NumTurns):
    def score_one(self, conversation):
        return Scores(values=[0.0] * conversation.num_turns)


class NoScores(NumTurns):
    def score_one(self, conversation):
        return 1.0


class OneWhyTooMany(NumTurns):
    def score_one(self, conversation):
        return replace(super().score_one(conversation), why=("because",) * (conversation.num_turns + 1))


class Infinite(NumTurns):
    def score_one(self, conversation):
        return Scores(values=np.array([1.0, np.inf, 1.0, 1.0][: conversation.num_turns]))


class Running(NumTurns):
    def score_one(self, conversation):
        return Scores(values=np.full(conversation.num_turns, next(self.calls), dtype=np.float32))


class ReadsItsNeighbours(NumTurns):
    def score(self, conversations):
        return [Scores(values=np.full(each.num_turns, len(conversations), np.float32)) for each in conversations]


class FirstOneIsSpecial(NumTurns):
    def score(self, conversations):
        firsts = [each.scenario.seed for each in conversations]
        special = len(firsts) > 1 and firsts[0] > 0
        return [Scores(values=np.full(each.num_turns, special, dtype=np.float32)) for each in conversations]


class ChangesItsMind(NumTurns):
    def score(self, conversations):
        # Five calls come first: four conversations alone, then all together.
        late = next(self.calls) >= 5
        return [Scores(values=np.full(each.num_turns, late, dtype=np.float32)) for each in conversations]


class WritesFacts(NumTurns):
    def score_one(self, conversation):
        conversation.outcome.facts["scored"] = True
        return super().score_one(conversation)


class NeedsWords(NumTurns):
    def score_one(self, conversation):
        return Scores(values=np.array([1 / len(turn.text.split()) for turn in conversation.turns]))


class MeanOfGroup(ReadsItsNeighbours):
    scope: ClassVar[str] = "group"


class MeanOfAll(ReadsItsNeighbours):
    scope: ClassVar[str] = "batch"
    range: ClassVar[tuple[float, float]] = (0, np.inf)


class OtherScope(NumTurns):
    scope: ClassVar[str] = "token"


class RangeUpsideDown(NumTurns):
    range: ClassVar[tuple[float, float]] = (1.0, 0.0)


class RangeOfThree(NumTurns):
    range: ClassVar[tuple[float, ...]] = (0.0, 0.5, 1.0)


class SlowInWords(NumTurns):
    is_slow: ClassVar[str] = "no"


@pytest.mark.parametrize("reward", [NumTurns(), Payoff(), MeanOfGroup(), MeanOfAll()])
def test_check_reward_of_a_correct_reward_passes(reward):
    check_reward(reward)
    check_reward(reward, [play_scripted(Whisper(), Whisper().scenario(seed, "train")) for seed in range(3)])


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (OneScoresTooFew, "score returned a list of 0 .*seed 0, split train, turn 4.*a list of 1 Scores"),
        (OneTurnTooFew, r"score returned values of shape \(3,\) .*seed 0, split train, turn 4.*array of 4 floats"),
        (PlainList, "score returned values that are a list .*seed 0, split train, turn 4.*array of 4 floats"),
        (NoScores, "score returned a float .*seed 0, split train, turn 4.*gets a Scores"),
        (OneWhyTooMany, "score returned why=.*seed 0, split train, turn 4.*empty or hold 4 texts"),
        (Infinite, "score returned inf .*seed 0, split train, turn 1.*finite, or NaN"),
        (Running, "score gave 4 together with others, 0 when first asked.*seed 0, split train, turn 0"),
        (ReadsItsNeighbours, "score gave 4 together with others, 1 when first.*seed 0, split train, turn 0"),
        (FirstOneIsSpecial, "score gave 1 in another order, 0 when first.*seed 0, split train, turn 0"),
        (ChangesItsMind, "score gave 1 when asked again, 0 when first.*seed 0, split train, turn 0"),
        (WritesFacts, "score changed the conversations .*seed 0, split train, turn 4"),
        (NeedsWords, "score raised ZeroDivisionError.*seed 2, split train, turn 4"),
        (OtherScope, "scope is 'token'; it must be one of turn, conversation, group, batch"),
        (RangeUpsideDown, r"range is \(1.0, 0.0\); it must be two numbers, the lower bound first"),
        (RangeOfThree, r"range is \(0.0, 0.5, 1.0\); it must be two numbers"),
        (SlowInWords, "is_slow is 'no'; it must be True or False"),
    ],
)
def test_check_reward_of_a_broken_reward_says_what_to_mend(reward, message):
    with pytest.raises(PluginError, match=f"^reward 'num_turns': {message}"):
        check_reward(reward())


def test_sample_conversations_are_usual_short_empty_and_hostile():
    usual, short, empty, hostile = sample_conversations()
    assert [each.num_turns for each in (usual, short, empty, hostile)] == [4, 1, 4, 4]
    assert not any(turn.text.strip() for turn in empty.turns)
    assert "<|im_end|>" in hostile.turns[0].text


def test_payoff_lands_on_the_last_turn_of_each_role():
    scores = Payoff().score([conversation_of("ann", "bob", "ann", payoff={"ann": 2.0, "bob": -3.0})])[0]
    # ann speaks last on turn 2, bob on turn 1.
    np.testing.assert_array_equal(scores.values, [np.nan, -3.0, 2.0])
    assert scores.why == ("", "goal_reached", "goal_reached")


def test_shared_payoff_gives_each_role_the_mean():
    scores = SharedPayoff().score([conversation_of("ann", "bob", "ann", payoff={"ann": 2.0, "bob": -3.0})])[0]
    np.testing.assert_array_equal(scores.values, [np.nan, -0.5, -0.5])


@pytest.mark.parametrize("reward", [Payoff(), SharedPayoff()])
@pytest.mark.parametrize(
    "outcome",
    [
        None,
        Outcome(status="failed", reason="timeout", payoff={"ann": 1.0}),
        Outcome(status="terminated", reason="leaving"),
    ],
)
def test_payoff_without_a_verdict_does_not_apply(outcome, reward):
    conversation = replace(conversation_of("ann", "bob", payoff={}), outcome=outcome)
    assert np.isnan(reward.score([conversation])[0].values).tolist() == [True, True]


def test_payoff_of_some_roles_only_leaves_the_others_out():
    scores = Payoff().score([conversation_of("ann", "bob", payoff={"bob": 1.0})])[0]
    np.testing.assert_array_equal(scores.values, [np.nan, 1.0])


def conversation_of(*speakers: str, payoff: dict[str, float]) -> Conversation:
    turns = tuple(Turn(role=role, text="Hm.", heard_text="", player="human") for role in speakers)
    outcome = Outcome(status="terminated", reason="goal_reached", payoff=payoff)
    return Conversation(id="000000-g00-0", scenario=Whisper().scenario(0, "train"), turns=turns, outcome=outcome)


class Echo:
    """A correct tiny generator: every request takes two steps and says two tokens."""

    def __init__(self):
        self.queue: list[Request] = []
        self.ripe: list[Request] = []

    def submit(self, request):
        self.queue.append(request)

    def step(self):
        done, self.ripe, self.queue = self.ripe, self.queue, []
        return [self.answer(request) for request in done]

    def answer(self, request):
        said = np.array([request.seed, 2], dtype=np.int32)
        return Completion(request=request, said=said, logprobs=np.array([-0.5, 0.0], dtype=np.float32), finish="stop")

    def close(self, stream):
        pass

    def load(self, policy, weights):
        pass


class TwiceDone(Echo):
    def step(self):
        return super().step() * 2


class NeverDone(Echo):
    def step(self):
        return []


class DoneAgainLater(Echo):
    def __init__(self):
        super().__init__()
        self.last: list[Completion] = []

    def step(self):
        self.last = super().step() or self.last
        return self.last


class AnotherRequest(Echo):
    def answer(self, request):
        return replace(super().answer(request), request=replace(request, seed=9))


class ReturnsNone(Echo):
    def step(self):
        return super().step() or None


class MissingLogprob(Echo):
    def answer(self, request):
        return replace(super().answer(request), logprobs=np.zeros(1, dtype=np.float32))


class PositiveLogprob(Echo):
    def answer(self, request):
        return replace(super().answer(request), logprobs=np.array([-0.5, 0.5], dtype=np.float32))


class NotANumber(Echo):
    def answer(self, request):
        return replace(super().answer(request), logprobs=np.array([np.nan, 0.0], dtype=np.float32))


class FloatTokens(Echo):
    def answer(self, request):
        return replace(super().answer(request), said=np.array([1.0, 2.0]))


class ListOfTokens(Echo):
    def answer(self, request):
        return replace(super().answer(request), said=[1, 2])


class SaysNothing(Echo):
    def answer(self, request):
        return Completion(request=request)


class LongError(Echo):
    def answer(self, request):
        return Completion(request=request, error="Traceback:\n  line 1")


class UnknownFinish(Echo):
    def answer(self, request):
        return replace(super().answer(request), finish="eos")


class CountsRequests(Echo):
    def __init__(self):
        super().__init__()
        self.calls = count()

    def answer(self, request):
        return replace(super().answer(request), said=np.array([next(self.calls), 2]))


class DriftingLogprobs(CountsRequests):
    def answer(self, request):
        return replace(Echo.answer(self, request), logprobs=np.array([-0.1, -1.0 * next(self.calls)]))


class OtherText(CountsRequests):
    def answer(self, request):
        return Completion(request=request, text=f"Hello number {next(self.calls)}")


class Picky(Echo):
    def submit(self, request):
        raise KeyError(request.policy)


def requests_for(seeds: tuple[int, ...]) -> list[Request]:
    env = ChitChat()
    games = [play_scripted(env, env.scenario(seed, "train"), id=f"000000-g{seed:02d}-0") for seed in seeds]
    # Each game is stopped after as many turns as its seed.
    partial = [replace(game, turns=game.turns[: game.scenario.seed], outcome=None) for game in games]
    return [
        Request(conversation=each, role=env.next_role(each), policy="learner", stream=each.id, seed=each.scenario.seed)
        for each in partial
    ]


@pytest.mark.parametrize("generator", [Echo(), ScriptedGenerator(ChitChat())])
def test_check_generator_of_a_correct_generator_passes(generator):
    check_generator(generator, requests_for((3, 1, 2)))


@pytest.mark.parametrize(
    ("generator", "message"),
    [
        (TwiceDone, "step completed stream '000000-g03-0' twice .*seed 3, split train, turn 3"),
        (NeverDone, "step did not complete stream '000000-g03-0' in 50 steps .*seed 3, split train, turn 3"),
        (DoneAgainLater, "step completed stream '000000-g03-0' after all.*seed 3, split train, turn 3"),
        (AnotherRequest, "step completed stream '000000-g03-0' with another request .*seed 3, split train, turn 3"),
        (ReturnsNone, "step returned None; it must return a list"),
        (MissingLogprob, r"step gave logprobs of shape \(1,\) for said of shape \(2,\) .*seed 3, split train, turn 3"),
        (PositiveLogprob, "step gave logprob 0.5 of token 1 .*seed 3, split train, turn 3"),
        (NotANumber, "step gave logprob nan of token 0 .*seed 3, split train, turn 3"),
        (FloatTokens, "step gave tokens of type float64 .*seed 3, split train, turn 3"),
        (ListOfTokens, "step gave said as a list.*seed 3, split train, turn 3"),
        (SaysNothing, "step gave neither text nor tokens .*seed 3, split train, turn 3"),
        (LongError, "step gave error=.*seed 3, split train, turn 3.*one line"),
        (UnknownFinish, "step gave finish='eos' .*seed 3, split train, turn 3.*stop, length"),
        (CountsRequests, "step gave other tokens in another order .*seed 3, split train, turn 3"),
        (DriftingLogprobs, "step gave other logprobs in another order .*seed 3, split train, turn 3"),
        (OtherText, "step gave text='Hello number 5' in another order, 'Hello number 0'.*seed 3, split train, turn 3"),
        (Picky, "submit raised KeyError: 'learner' .*seed 3, split train, turn 3"),
    ],
)
def test_check_generator_of_a_broken_generator_says_what_to_mend(generator, message):
    with pytest.raises(PluginError, match=f"^generator {generator.__name__}: {message}"):
        check_generator(generator(), requests_for((3, 1, 2)), max_steps=50)


def test_check_generator_with_two_requests_of_one_stream_is_refused():
    with pytest.raises(ValueError, match="different streams"):
        check_generator(Echo(), requests_for((1, 1)))
