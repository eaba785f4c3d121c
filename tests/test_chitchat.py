"""The small-talk game.  To record the golden game again: `python -m tests.test_chitchat` in the repository root."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from envs.chitchat import ChitChat, topics_of
from selfplay.contracts import play_scripted
from selfplay.dialog import Conversation, Scenario, Turn
from selfplay.errors import UserError

GOLDEN = Path(__file__).with_name("golden") / "chitchat.txt"
RAIN = Scenario(env="chitchat", seed=7, split="train", roles=("host", "guest"), public={"topic": "rainy days"})


def said(*texts: str, scenario: Scenario = RAIN) -> Conversation:
    turns = [Turn(role=scenario.roles[n % 2], text=text, heard_text="", player="human") for n, text in enumerate(texts)]
    return Conversation(id="000000-g00-0", scenario=scenario, turns=tuple(turns))


def test_brief_by_default_is_the_same_for_both_roles():
    briefs = {ChitChat().brief(RAIN, role) for role in RAIN.roles}
    assert briefs == {"You are chatting with a friend about rainy days. Reply in one short sentence."}


def test_brief_with_placeholders_fills_topic_name_and_partner():
    env = ChitChat(default_brief="{name} tells {partner} about {topic}.", briefs={"guest": "You are {name}."})
    assert env.brief(RAIN, "host") == "host tells guest about rainy days."
    assert env.brief(RAIN, "guest") == "You are guest."


def test_brief_with_braces_in_topic_or_persona_keeps_them():
    scenario = replace(RAIN, public={"topic": "{name} {0} {"}, private={"host": {"persona": "You love {topic}."}})
    env = ChitChat(default_brief="Talk about {topic}.")
    assert env.brief(scenario, "host") == "Talk about {name} {0} {. You love {topic}."


def test_personas_are_private_and_in_their_own_brief_only():
    env = ChitChat(personas={"guest": "You bake bread.", "host": ""})
    scenario = env.scenario(3, "train")
    assert scenario.private == {"guest": {"persona": "You bake bread."}}
    assert env.brief(scenario, "guest").endswith("short sentence. You bake bread.")
    assert "bread" not in env.brief(scenario, "host")


def test_hears_before_the_first_turn_is_the_opener_for_the_first_role_only():
    env = ChitChat(opener="Begin to talk about {topic}.")
    assert env.hears(said(), "host") == "Begin to talk about rainy days."
    assert env.hears(said(), "guest") == ""
    assert ChitChat().hears(said(), "host") == "Start the conversation."


def test_hears_later_is_the_last_text_of_the_partner():
    env = ChitChat()
    assert env.hears(said("Hi."), "guest") == "Hi."
    assert env.hears(said("Hi."), "host") == ""
    assert env.hears(said("Hi.", "Hello."), "host") == "Hello."


def test_next_role_alternates_until_max_turns():
    env = ChitChat(max_turns=3)
    spoken = ["one", "two", "three"]
    assert [env.next_role(said(*spoken[:n])) for n in range(4)] == ["host", "guest", "host", None]


@pytest.mark.parametrize("text", ["Goodbye!", "well, GOODBYE then", "see you", "_ goodbye"])
def test_next_role_after_a_leaving_word_is_none(text):
    env = ChitChat(leaving=("goodbye", "see you"))
    outcome = env.outcome(said("Hi.", text))
    assert env.next_role(said("Hi.", text)) is None
    assert (outcome.status, outcome.reason, outcome.by) == ("terminated", "leaving", "guest")


@pytest.mark.parametrize("text", ["Goodbyes are sad.", "a long_goodbye", "good bye"])
def test_next_role_after_part_of_a_leaving_word_goes_on(text):
    assert ChitChat(leaving=("goodbye",)).next_role(said(text)) == "guest"


def test_leaving_is_off_by_default():
    assert ChitChat().next_role(said("Goodbye!")) == "guest"


def test_outcome_of_an_unfinished_conversation_counts_its_turns():
    outcome = ChitChat().outcome(said("Hi.", "Hello."))
    assert (outcome.status, outcome.reason, outcome.by) == ("terminated", "turn_limit", None)
    assert (outcome.payoff, outcome.facts) == ({}, {"turns": 2})


def test_outcome_when_the_last_turn_leaves_is_leaving():
    assert ChitChat(max_turns=1, leaving=("bye",)).outcome(said("Bye.")).reason == "leaving"


def test_parse_finds_no_moves():
    assert ChitChat().parse(said("Hi."), 0) is None


def test_topics_are_many_short_plain_and_different():
    topics = topics_of("train") + topics_of("held_out")
    assert len(topics) == len({topic.lower() for topic in topics}) >= 240
    assert all(2 <= len(topic.split()) <= 8 and topic.isascii() for topic in topics)
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z' -]*", topic) for topic in topics)


def test_topics_of_the_splits_are_disjoint_and_every_fifth_is_held_out():
    train, held_out = topics_of("train"), topics_of("held_out")
    assert not set(train) & set(held_out)
    # 328 topics: 328 // 5 = 65 held out, 263 left; the fifth line of the table is the first held-out one.
    assert (len(train), len(held_out)) == (263, 65)
    assert held_out[0] == "a very tidy kitchen"


def test_scenario_draws_from_its_own_split_and_reaches_most_topics():
    drawn = {ChitChat().scenario(seed, "held_out").public["topic"] for seed in range(500)}
    assert drawn <= set(topics_of("held_out"))
    # A topic is missed by 500 uniform draws from 65 with probability (64/65)**500 = 0.0004.
    assert len(drawn) >= 64


def test_scenario_of_a_renamed_pair_keeps_the_given_order():
    env = ChitChat(roles=("zoe", "adam"))
    assert env.scenario(0, "train").roles == ("zoe", "adam")
    assert env.next_role(said(scenario=env.scenario(0, "train"))) == "zoe"


@pytest.mark.parametrize(("seed", "split", "message"), [(-1, "train", "seed=-1"), (0, "test", "'test'")])
def test_scenario_of_an_impossible_draw_is_refused(seed, split, message):
    with pytest.raises(UserError, match=message):
        ChitChat().scenario(seed, split)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_turns": 0}, "max_turns=0 must be at least 1"),
        ({"default_brief": "About {topci}."}, "default_brief has the unknown placeholder {topci}"),
        ({"default_brief": "About {}."}, "unknown placeholder {}"),
        ({"briefs": {"host": "About { topic }."}}, "briefs.host has the unknown placeholder { topic }"),
        ({"opener": "{seed}"}, "opener has the unknown placeholder {seed}"),
        ({"briefs": {"gust": "Hi."}}, "briefs has a text for 'gust', but the roles are host, guest"),
        ({"personas": {"gust": "Hi."}}, "personas has a text for 'gust'"),
        ({"roles": ("ann", "ann")}, "must be two different names"),
        ({"roles": ("ann", " ")}, "must be two different names"),
        ({"roles": ("ann", "bob", "eve")}, "must be two different names"),
        ({"leaving": ("bye", " ")}, "leaving has an empty word"),
        ({"leaving": "bye"}, "must be a list of words, such as [bye]"),
    ],
)
def test_settings_that_cannot_be_played_are_refused(settings, message):
    with pytest.raises(UserError, match=re.escape(message)):
        ChitChat(**settings)


def test_settings_from_plain_values_become_an_environment():
    values = {"max_turns": "4", "leaving": ["bye"], "roles": ["ann", "bob"], "personas": {"bob": "You sail."}}
    env = TypeAdapter(ChitChat).validate_python(values)
    assert env == ChitChat(max_turns=4, leaving=("bye",), roles=("ann", "bob"), personas={"bob": "You sail."})


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_scripted_never_repeats_itself_and_always_names_the_topic(split):
    env = ChitChat(max_turns=13)
    for seed in range(200):
        conversation = play_scripted(env, env.scenario(seed, split))
        texts = [turn.text for turn in conversation.turns]
        assert len(set(texts)) == 13
        assert all(conversation.scenario.public["topic"] in text for text in texts)


def test_scripted_answers_a_question_and_asks_otherwise():
    asked = ChitChat().scripted(said("Do you like rain?"), "guest")
    told = ChitChat().scripted(said("I like rain."), "guest")
    assert ChitChat().scripted(said("Do you like sun? "), "guest") == asked
    # Seed 7: start 7, stride 1, turn 1: line 8 of either table, counted from 0.
    assert asked == "I used to be wrong about rainy days, I admit; were you?"
    assert told == "Do you know anyone who has a lot to say about rainy days?"


def test_golden_game_is_played_as_recorded():
    assert golden_game() == GOLDEN.read_text(encoding="utf-8")


def golden_game() -> str:
    env = ChitChat(max_turns=12, personas={"guest": "You are a retired sailor."})
    conversation = play_scripted(env, env.scenario(3, "held_out"))
    scenario = conversation.scenario
    lines = [f"{scenario.env} seed {scenario.seed} {scenario.split} {dict(scenario.public)}"]
    lines += [f"{role} is told: {player.brief}" for role, player in conversation.players.items()]
    lines += [f"{turn.role} hears: {turn.heard_text}\n{turn.role} says: {turn.text}" for turn in conversation.turns]
    lines.append(str(conversation.outcome))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    GOLDEN.write_text(golden_game(), encoding="utf-8")
