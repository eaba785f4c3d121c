"""Rewards written as functions: how often they are called, with what, and where their numbers land."""

import math

import numpy as np
import pytest

from selfplay.contracts import check_reward
from selfplay.dialog import Conversation, PlayerInfo, Scenario, Turn
from selfplay.errors import UserError
from selfplay.function_reward import FunctionReward, RewardResult, reward
from selfplay.interfaces import Reward
from selfplay.plugins import PluginSpec, build_plugin
from selfplay.score import WeightedReward, score

NAN = math.nan


def chat(*texts: str, seed: int = 7, index: int = 0) -> Conversation:
    """A conversation of a and b in turn; each heard what the other said last."""
    heard = ("", *texts)
    turns = [
        Turn(role="ab"[k % 2], text=text, heard_text=heard[k], player="scripted", said=np.arange(len(text)))
        for k, text in enumerate(texts)
    ]
    scenario = Scenario(env="test", seed=seed, split="train", roles=("a", "b"), public={"topic": f"topic {seed}"})
    players = {"a": PlayerInfo(policy="scripted", brief="Be brief."), "b": PlayerInfo(policy="scripted")}
    return Conversation(id=f"000000-g{seed:02}-{index}", scenario=scenario, turns=tuple(turns), players=players)


def values(one: Reward, *conversations: Conversation) -> list[list[float]]:
    return [scores.values.tolist() for scores in one.score(conversations)]


def same(found: list[list[float]], expected: list[list[float]]) -> bool:
    return all(np.array_equal(one, other, equal_nan=True) for one, other in zip(found, expected, strict=True))


@reward(range=(0, 5))
def length(turn):
    return len(turn.text) or None


def test_function_becomes_a_reward_of_its_name():
    check_reward(length)
    assert isinstance(length, Reward)
    assert (length.name, length.scope, length.range) == ("length", "turn", (0.0, 5.0))
    assert length(Turn(role="a", text="abc", heard_text="", player="scripted")) == 3


def test_decorator_works_without_parentheses():
    @reward
    def shout(turn):
        return turn.text.isupper()

    assert isinstance(shout, FunctionReward)
    assert values(shout, chat("HI", "hi")) == [[1.0, 0.0]]


def test_none_of_a_function_means_that_it_does_not_apply():
    [scored] = score([chat("abc", "", "abcdefgh")], [WeightedReward(reward=length, weight=2.0)])
    np.testing.assert_array_equal(scored.parts["length"].values, np.array([3, np.nan, 8], np.float32))
    # The last is cut to 5.
    assert scored.rewards.tolist() == [6, 0, 10]


def test_arguments_of_a_turn_are_given_by_name():
    seen = []

    @reward
    def sees(turn, conversation, role, scenario, partner_turn, next_turn, messages, history, log):
        log("turns before", len(history))
        seen.append((turn.text, role, scenario.seed, partner_turn and partner_turn.text, next_turn and next_turn.text))
        seen.append(messages)
        return conversation.num_turns

    [scores] = sees.score([chat("x", "yy")])
    assert seen == [
        ("x", "a", 7, None, "yy"),
        [{"role": "system", "content": "Be brief."}, {"role": "assistant", "content": "x"}],
        ("yy", "b", 7, "x", None),
        [{"role": "user", "content": "x"}, {"role": "assistant", "content": "yy"}],
    ]
    assert scores.values.tolist() == [2.0, 2.0]
    assert scores.parts["turns before"].tolist() == [0.0, 1.0]


def test_number_of_a_conversation_lands_on_the_last_turn_of_each_role():
    @reward
    def turns(conversation):
        return conversation.num_turns

    assert same(values(turns, chat("1", "2", "3", "4", "5")), [[NAN, NAN, NAN, 5.0, 5.0]])


def test_reward_of_one_role_leaves_the_other_alone():
    @reward(role="b", scope="conversation")
    def turns(conversation):
        return conversation.num_turns

    @reward(role="a")
    def one(turn):
        return 1

    assert same(values(turns, chat("1", "2", "3", "4", "5")), [[NAN, NAN, NAN, 5.0, NAN]])
    assert same(values(one, chat("1", "2", "3")), [[1.0, NAN, 1.0]])


def test_function_that_asks_for_a_role_is_called_for_each():
    @reward
    def own_turns(conversation, role):
        return sum(turn.role == role for turn in conversation.turns)

    assert same(values(own_turns, chat("1", "2", "3")), [[NAN, 1.0, 2.0]])


def test_conversation_may_get_a_number_for_each_turn_or_each_role():
    @reward
    def numbers(conversation):
        return [k if k else None for k in range(conversation.num_turns)]

    @reward
    def roles(conversation):
        return {"a": 0.5}

    assert same(values(numbers, chat("1", "2", "3")), [[NAN, 1.0, 2.0]])
    assert same(values(roles, chat("1", "2", "3")), [[NAN, NAN, 0.5]])


def test_group_holds_the_conversations_of_one_scenario():
    @reward(scope="group")
    def place(conversation, group):
        return sum(len(other.turns) < conversation.num_turns for other in group)

    @reward(scope="batch")
    def sizes(group):
        return [len(group)] * len(group)

    talks = [chat("1", index=0), chat("1", "2", index=1), chat("1", seed=8)]
    # The second is longer than its sibling; the third is alone.
    assert same(values(place, *talks), [[0.0], [1.0, 1.0], [0.0]])
    assert same(values(sizes, *talks), [[3.0], [3.0, 3.0], [3.0]])


def test_async_functions_wait_together():
    import asyncio

    waiting = []

    @reward
    async def slow(turn):
        waiting.append(turn.text)
        for _ in range(3):
            await asyncio.sleep(0)
        return len(waiting)

    # All three have begun before the first goes on.
    assert values(slow, chat("1", "2", "3")) == [[3.0, 3.0, 3.0]]
    assert slow.is_slow


def test_result_carries_a_reason_and_parts():
    @reward(range=(0, 1))
    def short(turn):
        return RewardResult(value=0.5, why="3 of 6 words", parts={"words": 3})

    [scored] = score([chat("one two three")], [WeightedReward(reward=short, weight=2.0, label="brief")])
    assert scored.rewards.tolist() == [1.0]
    assert scored.parts["brief"].why == ("3 of 6 words",)
    assert scored.parts["brief.words"].values.tolist() == [3.0]


def test_function_of_trl_works_unchanged():
    def reward_len(prompts, completions, topic, **kwargs):
        assert set(kwargs) == {"role", "completion_ids", "trainer_state"}
        assert prompts[1] == [{"role": "user", "content": "abc"}]
        return [
            float(len(one[0]["content"])) if about == "topic 7" else None
            for one, about in zip(completions, topic, strict=True)
        ]

    made = reward(reward_len)
    assert same(values(made, chat("abc", "d"), chat("x", seed=8)), [[3.0, 1.0], [NAN]])


def test_function_of_trl_may_want_text():
    @reward(completions="text")
    def shares(prompts, completions):
        return [text.count("a") / len(text) for text in completions]

    assert values(shares, chat("ab", "aaaa")) == [[0.5, 1.0]]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_nan_of_a_function_fails_its_conversation(number: float):
    @reward()
    def broken(conversation):
        return [1.0, number]

    [scored] = score([chat("a", "b")], [WeightedReward(reward=broken)])
    assert scored.conversation.outcome is not None
    assert scored.conversation.outcome.reason == "reward_error"
    assert f"broken returned {number} for turn 1; where it does not apply" in str(scored.conversation.error)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("yes", "broken returned 'yes' for turn 0; it must be a number, None or RewardResult"),
        ([1.0], "broken returned a list of 1; it must return a list of 2, one for each turn"),
        ({"c": 1.0}, "broken returned a number for role 'c'; roles are a, b"),
    ],
)
def test_wrong_result_says_what_would_be_right(result, message):
    @reward
    def broken(conversation):
        return result

    with pytest.raises(ValueError, match=message):
        broken.score([chat("a", "b")])


def test_wrong_list_of_a_group_says_how_many():
    @reward(scope="group")
    def broken(group):
        return [1.0]

    with pytest.raises(
        ValueError, match="broken returned a list of 1; it must return a list of 2, one for each conversation"
    ):
        broken.score([chat("a"), chat("b", index=1)])


def test_reward_of_one_role_takes_a_list_for_all_turns_or_for_its_own():
    @reward(role="b")
    def everybody(conversation):
        return [len(turn.text) for turn in conversation.turns]

    @reward(role="b")
    def own(conversation):
        return [5.0]

    talk = chat("1", "22", "333")
    assert same(values(everybody, talk), [[NAN, 2.0, NAN]])
    assert same(values(own, talk), [[NAN, 5.0, NAN]])


def test_part_that_is_infinite_is_an_error():
    @reward
    def broken(turn, log):
        log(name="words", number=math.inf)
        return 1

    with pytest.raises(ValueError, match="part 'words' is inf for turn 0"):
        broken.score([chat("a")])


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"scope": "per_turn"}, "scope='per_turn' is none of turn, conversation, group, batch"),
        ({"range": (1, 0)}, r"range=\(1, 0\) must be two numbers, the lower first"),
        ({"range": (math.nan, 1)}, "must be two numbers"),
        ({"range": (0, 1, 2)}, "must be two numbers"),
    ],
)
def test_claim_that_means_nothing_is_refused(claims, message):
    with pytest.raises(UserError, match=message):
        reward(**claims)(lambda turn: 1)


def test_arguments_by_position_only_are_refused():
    with pytest.raises(UserError, match="given by name, so leave out the /"):
        reward(eval("lambda turn, /: 1"))


def test_function_of_trl_may_take_tokens_alone_and_misses_columns_by_name():
    @reward
    def tokens(completion_ids, **kwargs):
        return [len(ids) for ids in completion_ids]

    @reward
    def needs(completions, ground_truth, **kwargs):
        return [1.0 for _ in completions]

    assert values(tokens, chat("abc", "d")) == [[3.0, 1.0]]
    with pytest.raises(
        ValueError, match="needs needs a column 'ground_truth'; the scenarios have topic, role, prompts"
    ):
        needs.score([chat("abc")])


def test_list_for_a_turn_is_refused():
    @reward
    def broken(turn):
        return [1.0]

    with pytest.raises(ValueError, match="broken returned a list of 1; it must return one number"):
        broken.score([chat("a")])


def test_unknown_argument_is_refused_with_the_list():
    with pytest.raises(UserError, match=r"reward 'wrong' takes 'trun'; did you mean turn\?.*next_turn.*log.*as in TRL"):

        @reward
        def wrong(trun):
            return 1


@pytest.mark.parametrize(
    ("source", "scope", "message"),
    [
        ("lambda group: 1", "turn", 'takes \'group\', so it needs scope="group" or scope="batch"'),
        ("lambda turn: 1", "conversation", "takes 'turn', so it needs scope=\"turn\""),
        ("lambda: 1", None, "takes nothing to score"),
        ("lambda group, log: 1", "group", "takes 'log' but no conversation"),
    ],
)
def test_argument_that_its_scope_lacks_is_refused(source, scope, message):
    with pytest.raises(UserError, match=message):
        reward(scope=scope)(eval(source))


def test_error_names_the_line_of_the_author(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def half(turn):\n    number = len(turn.text)\n    return 1 / number\n")
    made = build_plugin(PluginSpec(name=f"{file}:half"), {}, "reward")
    assert isinstance(made, Reward)
    first, second = score([chat("a", ""), chat("bb")], [WeightedReward(reward=made)])
    assert first.conversation.error is not None
    assert "raised ZeroDivisionError: division by zero (mine.py, line 3)" in first.conversation.error
    assert second.rewards.tolist() == [0.5]


def test_plain_function_in_a_file_is_found_by_its_path(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def two(conversation):\n    return [2.0] * conversation.num_turns\n")
    made = build_plugin(PluginSpec(name=f"{file}:two"), {}, "reward")
    assert isinstance(made, Reward)
    assert values(made, chat("a", "b")) == [[2.0, 2.0]]


def test_wrong_function_in_a_file_is_refused_by_name(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def wrong(text):\n    return 1\n")
    with pytest.raises(UserError, match=r"reward=.*mine.py:wrong: reward 'wrong' takes 'text'"):
        build_plugin(PluginSpec(name=f"{file}:wrong"), {}, "reward")
