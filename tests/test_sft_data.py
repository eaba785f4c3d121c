"""Conversations to imitate: what is learnt of them, and the streams they become."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from selfplay import models
from selfplay.dialog import Conversation, Outcome
from selfplay.errors import UserError
from selfplay.experience import trace
from selfplay.play import make_matches, play
from selfplay.players import Player, make_bridge
from selfplay.score import WeightedReward, score
from selfplay.sft_data import Lesson, drawn, parted, run_lessons, scripted_lessons, streams_of
from selfplay.sft_settings import SftSettings
from selfplay.store import RunWriter
from tests.duel import ROLES, Duel, FluentGenerator, duel

SEED, CONTEXT = 3, 2048


def settings(**changes: object) -> SftSettings:
    return SftSettings.model_validate({"from": "scripted", "conversations": 20, **changes})


def lesson(conversation: Conversation, *learnt: int) -> Lesson:
    return Lesson(conversation=conversation, learnt=frozenset(learnt), key="")


def stored(folder: Path, *conversations: Conversation) -> Path:
    with RunWriter.create(folder, {}, "", tokens="none") as writer:
        for conversation in conversations:
            writer.append(conversation)
    return folder


def learnt_roles(lessons: tuple[Lesson, ...]) -> dict[int, tuple[str, ...]]:
    return {one.conversation.scenario.seed: one.roles for one in lessons}


# ----- streams -----


def as_learnt(rows: list) -> list[tuple]:
    return sorted((row.conversation, row.tokens.tolist(), row.acted.tolist(), row.turn.tolist()) for row in rows)


def test_stream_of_texts_is_the_one_that_playing_gives(tiny):
    bridge, env = make_bridge(tiny, view="perspective"), Duel()
    player = Player(policy="learner", generator=FluentGenerator(env, bridge), bridge=bridge, trained=True)
    matches = make_matches(env, dict.fromkeys(ROLES, "learner"), seed=SEED, num_matches=3, split="train")
    played = list(play(matches, env=env, players={"learner": player}))
    assert [turn.player for turn in played[0].turns] == ["learner@0"] * 4
    texts = [replace(one, turns=tuple(as_text(turn) for turn in one.turns)) for one in played]
    streams = streams_of([lesson(one, 0, 1, 2, 3) for one in texts], bridge, context=CONTEXT)
    assert as_learnt(streams.all) == as_learnt([row for one in played for row in trace(*unscored(one))])


def as_text(turn):
    return replace(turn, player="scripted", stream="", heard=turn.heard[:0], said=turn.said[:0], logprobs=np.zeros(0))


def unscored(conversation: Conversation) -> list:
    return score([conversation], [])


def test_stream_of_what_a_model_sampled_is_the_one_made_from_its_texts():
    from selfplay.generate.engine import TokenGenerator
    from selfplay.interfaces import Sampling

    # Every token of it is a letter, so what it samples is what its text is tokenised to.
    loaded = models.load("tiny-letters", device="cpu")
    bridge, env = make_bridge(loaded, view="perspective"), Duel()
    engine = TokenGenerator(max_batch=4)
    engine.add_policy("learner", loaded.model, end_of_turn=bridge.end_of_turn, parameters="share")
    sampling = Sampling(temperature=1.0, max_new_tokens=3)
    player = Player(policy="learner", generator=engine, bridge=bridge, trained=True, sampling=sampling)
    matches = make_matches(env, dict.fromkeys(ROLES, "learner"), seed=SEED, num_matches=2, split="train")
    played = list(play(matches, env=env, players={"learner": player}))
    texts = [replace(one, turns=tuple(as_text(turn) for turn in one.turns)) for one in played]
    streams = streams_of([lesson(one, 0, 1, 2, 3) for one in texts], bridge, context=CONTEXT)
    assert as_learnt(streams.all) == as_learnt([row for one in played for row in trace(*unscored(one))])


def test_stream_is_what_the_chat_template_makes_of_its_messages(tiny):
    conversation = duel(2)
    # "<|im_end|>" in a text is no control token: it is left out of the texts for the template, which cannot split it.
    plain = replace(conversation, turns=tuple(without_control(turn) for turn in conversation.turns))
    [row] = streams_of([lesson(plain, 1, 3)], make_bridge(tiny, view="perspective"), context=CONTEXT).all
    messages = [{"role": "system", "content": "You are right."}]
    names = {"left": "user", "right": "assistant"}
    messages += [{"role": names[turn.role], "content": turn.text} for turn in plain.turns]
    rendered = tiny.tokenizer.apply_chat_template(messages, tokenize=False)
    expected = tiny.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    # The template puts a line break behind the last end-of-turn token, which nobody says.
    assert row.tokens.tolist() == expected[: len(row.tokens)]
    assert tiny.tokenizer.decode(expected[len(row.tokens) :]) == "\n"
    said = tiny.tokenizer.decode(row.tokens[row.acted])
    assert said == "".join(f"{turn.text}<|im_end|>" for turn in plain.turns if turn.role == "right")


def without_control(turn):
    return replace(turn, text=turn.text.replace("<|im_end|>", ""), heard_text=turn.heard_text.replace("<|im_end|>", ""))


def test_turn_that_is_not_learnt_is_heard_by_its_own_role(tiny):
    bridge, conversation = make_bridge(tiny, view="perspective"), duel(2)
    [whole] = streams_of([lesson(conversation, 0, 2)], bridge, context=CONTEXT).all
    [last] = streams_of([lesson(conversation, 2)], bridge, context=CONTEXT).all
    assert last.tokens.tolist() == whole.tokens.tolist()
    first_turn = len(bridge.saying(conversation.turns[0].text))
    assert whole.acted.sum() - last.acted.sum() == first_turn


def test_stream_that_the_model_cannot_read_is_left_out_and_counted(tiny):
    bridge = make_bridge(tiny, view="perspective")
    streams = streams_of([lesson(duel(2), 0, 1)], bridge, context=100)
    # left hears nothing but its brief; right hears left as well.
    assert [row.num_tokens > 100 for row in streams_of([lesson(duel(2), 0, 1)], bridge, context=CONTEXT).all]
    assert len(streams.all) + streams.num_too_long == 2
    assert streams.num_too_long >= 1


# ----- scripted -----


def test_scripted_lessons_are_of_both_splits_and_of_all_roles():
    lessons = scripted_lessons(Duel(), settings(held_out=0.25))
    assert (len(lessons.train), len(lessons.held_out)) == (20, 5)
    assert {one.conversation.scenario.split for one in lessons.train} == {"train"}
    assert {one.conversation.scenario.split for one in lessons.held_out} == {"held_out"}
    assert all(one.learnt == {0, 1, 2, 3} for one in lessons.train)
    assert lessons.roles == ROLES
    assert len({one.id for one in lessons.played}) == 25


def test_filter_by_payoff_keeps_the_winner_of_each_game():
    found = learnt_roles(scripted_lessons(Duel(), settings(filter="payoff>0 & success=true")).train)
    assert len(found) == 20
    assert found == {seed: (("left",) if seed % 2 == 0 else ("right",)) for seed in found}


def test_filter_by_a_named_role_means_that_role_whoever_is_imitated():
    found = learnt_roles(scripted_lessons(Duel(), settings(filter="payoff.left>0", roles="right")).train)
    assert found
    assert all(seed % 2 == 0 and roles == ("right",) for seed, roles in found.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"filter": "payoff>1"}, "filter='payoff>1': none of the 20 scripted conversations of env duel fits it"),
        ({"filter": "payof>1"}, "unknown field 'payof'; did you mean payoff"),
        ({"roles": "left,rigth"}, "roles=rigth: env duel has no such role; did you mean right?"),
    ],
)
def test_scripted_source_refuses_in_a_sentence(changes, message):
    with pytest.raises(UserError) as raised:
        scripted_lessons(Duel(), settings(**changes))
    assert message in str(raised.value)


def test_scripts_that_fail_are_told_of():
    class Broken(Duel):
        def scripted(self, conversation, role):
            raise ZeroDivisionError("no words")

    with pytest.raises(
        UserError, match=r"20 of the 20 scripted conversations of env duel failed; the first: .*no words"
    ):
        scripted_lessons(Broken(), settings())


# ----- runs -----


def test_run_teaches_the_turns_of_its_trained_roles_that_no_limit_cut(tmp_path):
    cut = duel(4, finishes=("length", "stop", "stop", "stop"))
    failed = duel(6, outcome=Outcome(status="failed", reason="timeout"))
    folder = stored(tmp_path / "run", duel(2), cut, failed)
    lessons = run_lessons(folder, settings(conversations=None, held_out=0.0))
    assert {one.conversation.scenario.seed: one.learnt for one in lessons.train} == {2: {0, 2}, 4: {2}}
    assert lessons.held_out == ()
    assert lessons.notes == ("2 of 3 conversations are used; left out: 1 failed or unfinished",)


def test_run_without_lessons_says_why_of_each_conversation(tmp_path):
    cut = [duel(number, finishes=("length", "stop", "length", "stop")) for number in (2, 4)]
    evaluated = replace(duel(8), scenario=replace(duel(8).scenario, split="held_out"))
    failed = duel(6, outcome=Outcome(status="failed", reason="timeout"))
    silent = duel(3)
    silent = replace(silent, turns=tuple(replace(turn, text="") for turn in silent.turns))
    folder = stored(tmp_path / "run", *cut, evaluated, failed, silent)
    with pytest.raises(UserError) as raised:
        run_lessons(folder, settings(conversations=None))
    assert str(raised.value) == (
        "there is nothing to imitate in the 5 conversations of run run: 1 left out by the filter (split=train), "
        "1 failed or unfinished, 2 with every turn of the imitated roles cut by a limit, "
        "1 in which the imitated roles say nothing"
    )


def test_run_without_conversations_blames_no_filter(tmp_path):
    with pytest.raises(UserError, match=r"there is nothing to imitate in the 0 conversations of run run$"):
        run_lessons(stored(tmp_path / "run"), settings(conversations=None))


def test_run_gives_other_roles_when_they_are_named(tmp_path):
    folder = stored(tmp_path / "run", duel(2), duel(3))
    lessons = run_lessons(folder, settings(conversations=None, roles="right", filter="payoff>0", held_out=0.0))
    assert learnt_roles(lessons.train) == {3: ("right",)}
    with pytest.raises(UserError, match="roles=up: run run has no such role"):
        run_lessons(folder, settings(roles="up"))
    with pytest.raises(UserError, match="none of the 2 conversations of run run fits it"):
        run_lessons(folder, settings(filter="payoff>5"))


def test_run_leaves_held_out_conversations_alone_unless_the_filter_names_a_split(tmp_path):
    evaluated = duel(4)
    evaluated = replace(evaluated, scenario=replace(evaluated.scenario, split="held_out"))
    folder = stored(tmp_path / "run", duel(2), evaluated)
    chosen = {
        query: sorted(learnt_roles(run_lessons(folder, settings(filter=query, held_out=0.0)).train))
        for query in ("", "split=held_out", "split=train,held_out")
    }
    assert chosen == {"": [2], "split=held_out": [4], "split=train,held_out": [2, 4]}


def test_rewards_of_a_filter_are_those_of_the_imitated_role(tmp_path):
    from rewards.outcome import Payoff

    payoff = WeightedReward(reward=Payoff())
    with RunWriter.create(tmp_path / "run", {}, "", tokens="none") as writer:
        for scored in score([duel(2), duel(3)], [payoff]):
            writer.append(scored.conversation, scored, terms={payoff.name: payoff.term})
    lessons = run_lessons(tmp_path / "run", settings(roles="left,right", filter="reward>0", held_out=0.0))
    assert learnt_roles(lessons.train) == {2: ("left",), 3: ("right",)}


# ----- parts -----


def test_parts_share_no_key_and_have_about_the_share():
    lessons = [replace(lesson(duel(2), 0), key=str(number // 4)) for number in range(40)]
    found = parted(lessons, settings(held_out=0.25))
    assert {one.key for one in found.train} & {one.key for one in found.held_out} == set()
    # A quarter of 40 is 10, and keys come in fours: the first three of them.
    assert (len(found.train), len(found.held_out)) == (28, 12)


def test_only_key_is_learnt_from():
    found = parted([lesson(duel(2), 0)] * 3, settings(held_out=0.9))
    assert (len(found.train), len(found.held_out)) == (3, 0)


def test_fewer_lessons_are_among_more():
    lessons = [replace(lesson(duel(2), 0), key=str(number)) for number in range(30)]
    few, more = ([one.key for one in drawn(lessons, settings(conversations=num))] for num in (5, 12))
    assert (len(few), len(more)) == (5, 12)
    assert set(few) < set(more)
    assert len(drawn(lessons, settings(conversations=99))) == 30
