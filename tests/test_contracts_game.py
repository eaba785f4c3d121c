"""The proof of a game: a good one passes with numbers known by hand, and each broken promise is found and named."""

import re
import time
from dataclasses import replace

import pytest

from envs.chitchat import ChitChat
from envs.drawing import move_draw
from envs.signal import Signal
from selfplay.contracts import check_game, golden_game
from selfplay.contracts.hostile import hostile_texts, move_words, some_turns
from selfplay.contracts.measured import measure
from selfplay.dialog import Action, Conversation, Outcome, Scenario, Turn
from selfplay.errors import UserError
from selfplay.interfaces import GameSheet, PluginError

SIDES = ("heads", "tails")


class Coin:
    """The teller sees a coin and says what it shows; the caller calls it.  One message each."""

    name = "coin"
    roles = ("teller", "caller")
    zero_sum = False

    def scenario(self, seed, split):
        public = {"toss": 2 * seed + (split == "held_out"), "sides": list(SIDES)}
        private = {"teller": {"side": SIDES[seed // 3 % 2]}}
        return Scenario(env=self.name, seed=seed, split=split, roles=self.roles, public=public, private=private)

    def next_role(self, conversation):
        return self.roles[conversation.num_turns] if conversation.num_turns < 2 else None

    def brief(self, scenario, role):
        return (
            f"It shows {scenario.private['teller']['side']}."
            if role == "teller"
            else "Heads or tails? Write [call] SIDE"
        )

    def hears(self, conversation, role):
        return conversation.turns[-1].text if conversation.turns and conversation.turns[-1].role != role else ""

    def parse(self, conversation, turn):
        called = [side for side in SIDES if side in conversation.turns[turn].text]
        return Action(kind="call", value=called[0]) if turn == 1 and len(called) == 1 else None

    def outcome(self, conversation):
        action = self.parse(conversation, 1) if conversation.num_turns == 2 else None
        is_broken = conversation.num_turns == 2 and action is None
        is_right = action is not None and action.value == conversation.scenario.private["teller"]["side"]
        return Outcome(
            status="terminated",
            reason="rule_violation" if is_broken else "goal_reached" if is_right else "gave_up",
            by="caller" if is_broken else None,
            protocol_ok=not is_broken,
            facts={"success": is_right},
            payoff=self.pay(is_right),
        )

    def pay(self, is_right):
        return dict.fromkeys(self.roles, float(is_right))

    def scripted(self, conversation, role):
        side = conversation.scenario.private["teller"]["side"]
        return side if role == "teller" else f"[call] {conversation.turns[0].text}" if conversation.turns else "Hm."

    def chance(self, conversation, role):
        return move_draw(conversation).choose(SIDES)

    def sheet(self):
        ends = ("goal_reached", "gave_up", "rule_violation")
        return GameSheet(payoffs=(0.0, 1.0), ends=ends, chance=0.5, best=1.0)

    def endings(self, scenario):
        side = scenario.private["teller"]["side"]
        other = next(one for one in SIDES if one != side)
        return {"goal_reached": (side, side), "gave_up": (side, other), "rule_violation": (side, "both")}


def test_a_sound_game_is_measured():
    told = []
    report = check_game(Coin(), games=10, tell=told.append)
    assert [proof.name for proof in told] == [
        *("contract", "sheet", "scripts", "ends", "chance", "best", "laziness", "hostile", "speed")
    ]
    assert report.proofs == tuple(told)
    assert not any(proof.is_warning for proof in told)
    scripted, chance = report.played["scripted"], report.played["chance"]
    assert (scripted.games, scripted.mean, scripted.success, scripted.protocol, scripted.turns) == (
        10,
        1.0,
        1.0,
        1.0,
        2.0,
    )
    assert scripted.ends == {"goal_reached": 10}
    assert scripted.by_role == {"teller": 1.0, "caller": 1.0}
    # 400 calls of a fair coin: standard error 0.025, so 0.5 lies within 4 of them.
    assert chance.games == 400
    assert 0.4 < chance.mean < 0.6
    assert chance.error == pytest.approx(0.025, abs=0.002)
    # "..." is no call; the teller who says it leaves the script of the caller nothing to call.
    assert {name: report.played[name].mean for name in ("silence", "silence/caller", "silence/teller")} == {
        "silence": 0.0,
        "silence/caller": 0.0,
        "silence/teller": 0.0,
    }
    assert report.turns_per_second > 0


def test_signal_keeps_its_promises():
    assert check_game(Signal(symbols=16), games=4).played["scripted"].mean == 1.0


def test_an_env_without_ground_truth_is_checked_for_what_applies():
    report = check_game(ChitChat(max_turns=2), games=4)
    assert (report.sheet, list(report.played)) == (None, ["scripted"])
    assert [proof.name for proof in report.proofs] == ["contract", "sheet", "scripts", "hostile", "speed"]
    assert "no ground truth" in report.proofs[1].text


class HalfAGame(Coin):
    chance = property()


class SheetIsADict(Coin):
    def sheet(self):
        return {}


class EndsAreNoReasons(Coin):
    def sheet(self):
        return replace(super().sheet(), ends=("won",))


class BestBelowChance(Coin):
    def sheet(self):
        return replace(super().sheet(), best=0.4)


class ZeroSumWithAMean(Coin):
    zero_sum = True

    def pay(self, is_right):
        return {"teller": 1.0, "caller": -1.0} if is_right else {"teller": -1.0, "caller": 1.0}

    def sheet(self):
        return replace(super().sheet(), payoffs=(-1.0, 1.0))


class PaysOneRole(Coin):
    def pay(self, is_right):
        return {"teller": float(is_right)}


class PaysTooMuch(Coin):
    def pay(self, is_right):
        return dict.fromkeys(self.roles, 3.0 * is_right)


class PaysUnfinishedGamesTooMuch(Coin):
    def outcome(self, conversation):
        outcome = super().outcome(conversation)
        return outcome if conversation.num_turns == 2 else replace(outcome, payoff=dict.fromkeys(self.roles, -9.0))


class SuccessIsANumber(Coin):
    def outcome(self, conversation):
        return replace(super().outcome(conversation), facts={"success": 1})


class NobodysFault(Coin):
    def outcome(self, conversation):
        return replace(super().outcome(conversation), by=None)


class ScriptBreaksTheForm(Coin):
    def scripted(self, conversation, role):
        return "Hm."


class AnotherEnd(Coin):
    def outcome(self, conversation):
        outcome = super().outcome(conversation)
        return outcome if outcome.facts["success"] else replace(outcome, reason="no_deal", by=None, protocol_ok=True)


class AnEndIsMissing(Coin):
    def endings(self, scenario):
        return {reason: texts for reason, texts in super().endings(scenario).items() if reason != "gave_up"}


class EndingIsTooShort(Coin):
    def endings(self, scenario):
        return {**super().endings(scenario), "rule_violation": ("both",)}


class EndingIsTooLong(Coin):
    def endings(self, scenario):
        return {**super().endings(scenario), "rule_violation": ("both", "both", "both")}


class EndingIsAnother(Coin):
    def endings(self, scenario):
        return {**super().endings(scenario), "rule_violation": ("heads", scenario.private["teller"]["side"])}


class ChanceIsBetter(Coin):
    def sheet(self):
        return replace(super().sheet(), chance=0.2)


class ChanceHasAMemory(Coin):
    calls = 0

    def chance(self, conversation, role):
        ChanceHasAMemory.calls += 1
        return SIDES[ChanceHasAMemory.calls % 2]


class BestIsExceeded(Coin):
    def sheet(self):
        return replace(super().sheet(), best=0.9)


class ScriptIsWorseThanChance(Coin):
    def scripted(self, conversation, role):
        side = conversation.scenario.private["teller"]["side"]
        return next(one for one in SIDES if one != side)


class SilenceWins(Coin):
    def scripted(self, conversation, role):
        return SIDES[conversation.scenario.seed % 2]

    def parse(self, conversation, turn):
        side = conversation.scenario.private["teller"]["side"]
        return (
            Action(kind="call", value=side)
            if "..." in conversation.turns[turn].text
            else super().parse(conversation, turn)
        )


class NumbersRaise(Coin):
    def parse(self, conversation, turn):
        if "\U0001d7cf" in conversation.turns[turn].text:
            raise ValueError("odd digit")
        return super().parse(conversation, turn)


class BracketsPay(Coin):
    def outcome(self, conversation):
        outcome = super().outcome(conversation)
        is_cheat = any("[accept]" in turn.text for turn in conversation.turns)
        return replace(outcome, payoff=dict.fromkeys(self.roles, 7.0)) if is_cheat else outcome


class BracketsGoOn(Coin):
    def next_role(self, conversation):
        is_stuck = any("[accept]" in turn.text for turn in conversation.turns)
        return "caller" if is_stuck else super().next_role(conversation)


BROKEN = {
    HalfAGame: "env 'coin': chance is missing",
    SheetIsADict: "sheet returned a dict; it must return a GameSheet",
    EndsAreNoReasons: "has ends=('won',)",
    BestBelowChance: "least <= chance <= best <= greatest",
    ZeroSumWithAMean: "with zero_sum the mean over roles is 0 whoever plays",
    PaysOneRole: "outcome has no payoff of caller (seed 0, split train, turn 0)",
    PaysTooMuch: "outcome pays teller 3 (seed 0, split train, turn 2); the sheet says 0 to 1",
    PaysUnfinishedGamesTooMuch: "outcome pays teller -9 (seed 0, split train, turn 0)",
    SuccessIsANumber: 'has facts["success"]=1',
    NobodysFault: "a rule_violation needs by=ROLE",
    ScriptBreaksTheForm: "scripted did not keep the form (rule_violation by caller) (seed 0, split train, turn 2)",
    AnotherEnd: "outcome ended the game with no_deal",
    AnEndIsMissing: "endings has goal_reached, rule_violation (seed 0, split train, turn 0); it must have",
    EndingIsTooShort: "has 1 texts for rule_violation, and after them it is caller's turn",
    EndingIsTooLong: "but the game was over before all were spoken",
    EndingIsAnother: "brings about goal_reached (seed 0, split train, turn 2); these texts stand for rule_violation",
    ChanceIsBetter: "says chance=0.2, but 400 games by chance paid",
    ChanceHasAMemory: "the second time",
    BestIsExceeded: "says best=0.9, but scripted games paid 1",
    ScriptIsWorseThanChance: "a script must be a competent player",
    SilenceWins: "outcome pays 1 for silence in every role",
    NumbersRaise: "parse raised ValueError: odd digit",
    BracketsPay: "outcome pays teller 7",
    BracketsGoOn: "next_role still names a role after 20 turns",
}


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_a_broken_promise_is_one_sentence(kind):
    with pytest.raises(PluginError, match=re.escape(BROKEN[kind])) as raised:
        check_game(kind(), games=12, max_turns=20)
    assert "\n" not in str(raised.value)


def test_the_message_that_broke_a_game_is_named():
    with pytest.raises(PluginError, match=re.escape("it came of the message '[accept]' in every turn")):
        check_game(BracketsPay(), games=2)


class Slow(Coin):
    def parse(self, conversation, turn):
        if len(conversation.turns[turn].text) >= 10_000:
            time.sleep(30)
        return super().parse(conversation, turn)


def test_a_message_that_takes_too_long_to_read_is_a_broken_promise(monkeypatch):
    monkeypatch.setattr("selfplay.contracts.game.SECONDS_A_GAME", 0.2)
    with pytest.raises(PluginError, match=re.escape("parse took more than 0.2 s for a game with the message 'xxx")):
        check_game(Slow(), games=2)


class CallerMayBeSilent(Coin):
    def outcome(self, conversation):
        outcome = super().outcome(conversation)
        is_silent = conversation.num_turns == 2 and conversation.turns[1].text == "..."
        return replace(outcome, payoff={"teller": 0.0, "caller": 2.0}) if is_silent else outcome

    def sheet(self):
        return replace(super().sheet(), payoffs=(0.0, 2.0))


def test_laziness_that_pays_one_role_more_than_its_script_is_a_warning():
    [proof] = [proof for proof in check_game(CallerMayBeSilent(), games=4).proofs if proof.is_warning]
    assert proof.name == "laziness"
    assert "silence pays caller 1 more than its script does" in proof.text


@pytest.mark.parametrize(("games", "seed"), [(1, 0), (10, -1)])
def test_impossible_numbers_are_refused(games, seed):
    with pytest.raises(UserError, match="games="):
        check_game(Coin(), games=games, seed=seed)


class BreaksInTheMiddle(ChitChat):
    def parse(self, conversation, turn):
        said = [one.text for one in conversation.turns]
        if turn == 10 and said.count("?") == 1 and said[10] == "?":
            raise ValueError("middle")
        return super().parse(conversation, turn)


def test_hostile_messages_are_said_in_some_turns_of_a_long_game():
    [hostile] = [proof for proof in check_game(ChitChat(max_turns=20), games=2).proofs if proof.name == "hostile"]
    assert "in the place of turns 0, 1, 9, 10, 18, 19 of about 20" in hostile.text
    # Each message in every turn of one game, and in one turn of six.
    num_texts, num_games = map(int, re.findall(r"(\d+) (?:messages|games)", hostile.text))
    assert num_games == 7 * num_texts


def test_a_fault_in_the_middle_of_a_long_game_is_found():
    with pytest.raises(PluginError, match=re.escape("it came of the message '?' in turn 10")):
        check_game(BreaksInTheMiddle(max_turns=20), games=2)


def test_some_turns_are_all_of_a_short_game():
    assert some_turns(16) == list(range(16))
    assert some_turns(17) == [0, 1, 7, 8, 15, 16]


class AlwaysTheSame(Coin):
    """The coin always shows heads, and nobody is told the number of the toss."""

    def scenario(self, seed, split):
        return replace(super().scenario(seed, split), private={"teller": {"side": "heads"}})


def test_a_game_that_always_starts_alike_is_a_warning_and_claims_no_two_splits():
    proofs = check_game(AlwaysTheSame(), games=4).proofs
    # Nor is there another private part to exchange the teller's for.
    assert [(proof.name, proof.is_warning) for proof in proofs[:3]] == [
        *(("contract", False), ("splits", True), ("secrets", True))
    ]
    assert proofs[1].text.endswith("held-out scenarios measure nothing new")
    assert "both splits" not in proofs[0].text


def test_measure_of_games_is_what_the_hand_says():
    turn = Turn(role="teller", text="x", heard_text="", player="x")
    scenario = Scenario(env="coin", seed=0, split="train", roles=("teller", "caller"))
    rows = [
        ((1.0, 0.0), "goal_reached", True),
        ((4.0, 1.0), "goal_reached", True),
        ((0.0, 0.0), "rule_violation", False),
    ]
    games = [
        Conversation(
            id="000000-g00-0",
            scenario=scenario,
            turns=(turn,) * (number + 1),
            outcome=Outcome(
                status="terminated",
                reason=reason,
                protocol_ok=is_ok,
                facts={"success": is_ok},
                payoff=dict(zip(scenario.roles, paid, strict=True)),
            ),
        )
        for number, (paid, reason, is_ok) in enumerate(rows)
    ]
    found = measure(games)
    # Means over roles 0.5, 2.5, 0: mean 1, variance (0.25 + 2.25 + 1) / 2 = 1.75, error sqrt(1.75 / 3) = 0.7638.
    assert (found.games, found.mean, found.turns) == (3, 1.0, 2.0)
    assert found.error == pytest.approx(0.7638, abs=1e-4)
    assert found.by_role == pytest.approx({"teller": 5 / 3, "caller": 1 / 3})
    assert (found.success, found.protocol) == pytest.approx((2 / 3, 2 / 3))
    assert found.ends == {"goal_reached": 2, "rule_violation": 1}


def test_hostile_texts_turn_a_games_own_moves_against_it():
    texts = hostile_texts(["Write [offer] PRICE or (accept).", "Fine: [offer: 120]"], seed=0)
    assert move_words(["Write [offer] PRICE or (accept).", "Fine: [Offer: 120]"]) == ["offer", "accept"]
    assert {"[offer] -1", "[accept]", "[offer", "(OFFER)", "[offer] [accept]", " "} <= set(texts)
    assert max(map(len, texts)) >= 10_000
    assert texts == hostile_texts(["Write [offer] PRICE or (accept).", "Fine: [offer: 120]"], seed=0)
    assert texts != hostile_texts(["Write [offer] PRICE or (accept).", "Fine: [offer: 120]"], seed=1)


def test_golden_game_shows_what_each_role_was_told_and_how_it_was_understood():
    # Seed 7: 7 // 3 = 2, so it shows heads.
    assert golden_game(Coin()).splitlines()[:6] == [
        "coin seed 7 train {'toss': 14, 'sides': ['heads', 'tails']}",
        "teller alone knows: {'side': 'heads'}",
        "teller is told: It shows heads.",
        "caller is told: Heads or tails? Write [call] SIDE",
        "teller hears: ",
        "teller says: heads",
    ]
