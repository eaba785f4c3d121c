from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from envs.chitchat import ChitChat
from selfplay.contracts import play_scripted
from selfplay.dialog import Conversation, PlayerInfo
from selfplay.errors import UserError
from selfplay.generate.human import HumanGenerator
from selfplay.generate.scripted import ScriptedGenerator
from selfplay.interfaces import Request, Weights

ENV = ChitChat()


def request(seed: int = 0, *, role: str = "host", brief: str = "") -> Request:
    conversation = Conversation(
        id=f"000000-g{seed:02d}-0",
        scenario=ENV.scenario(seed, "train"),
        players={role: PlayerInfo(policy="human", brief=brief)},
    )
    return Request(conversation=conversation, role=role, policy="scripted", stream=f"{conversation.id}/{role}")


def typed(*lines: str, prompts: list[str] | None = None) -> Callable[[str], str]:
    waiting: Iterator[str] = iter(lines)

    def read(prompt: str) -> str:
        if prompts is not None:
            prompts.append(prompt)
        line = next(waiting, None)
        if line is None:
            raise EOFError
        return line

    return read


def unseen(text: str) -> None:
    pass


def test_scripted_step_answers_all_requests_in_order():
    generator = ScriptedGenerator(ENV)
    requests = [request(seed) for seed in (4, 1, 3)]
    for each in requests:
        generator.submit(each)
    completions = generator.step()
    assert [completion.request for completion in completions] == requests
    assert [completion.text for completion in completions] == [ENV.scripted(r.conversation, "host") for r in requests]
    assert {completion.finish for completion in completions} == {"text"}
    assert generator.step() == []


class Silent(ChitChat):
    def scripted(self, conversation, role):
        raise RuntimeError("lost\nfor words")


def test_scripted_that_raises_completes_with_a_one_line_error():
    generator = ScriptedGenerator(Silent())
    generator.submit(request())
    (completion,) = generator.step()
    assert completion.error == "RuntimeError: lost for words"
    assert completion.text is None


class HalfCharacter(ChitChat):
    def scripted(self, conversation, role):
        return "half \ud83d"


def test_scripted_text_is_cleaned():
    generator = ScriptedGenerator(HalfCharacter())
    generator.submit(request())
    assert generator.step()[0].text == "half \ufffd"


@pytest.mark.parametrize("generator", [ScriptedGenerator(ENV), HumanGenerator(write=unseen, read=typed("Hi."))])
def test_close_drops_what_is_queued_and_knows_no_unknown_stream(generator):
    generator.submit(request())
    generator.close(request().stream)
    generator.close("unknown")
    assert generator.step() == []


@pytest.mark.parametrize("generator", [ScriptedGenerator(ENV), HumanGenerator(write=unseen)])
def test_load_is_refused(generator):
    with pytest.raises(UserError, match="no weights to load"):
        generator.load("learner", Weights(version=3, state={}))


def test_human_answers_one_request_a_step():
    prompts: list[str] = []
    generator = HumanGenerator(write=unseen, read=typed("Hello.", " Me too. ", prompts=prompts))
    generator.submit(request(1))
    generator.submit(request(2, role="guest"))
    assert [completion.text for completion in generator.step()] == ["Hello."]
    assert [completion.text for completion in generator.step()] == ["Me too."]
    assert generator.step() == []
    assert prompts == ["host> ", "guest> "]


def test_human_is_shown_the_brief_once_a_stream():
    shown: list[str] = []
    generator = HumanGenerator(write=shown.append, read=typed("Hi.", "Bye."))
    first = request(brief="Talk about rain.")
    generator.submit(first)
    generator.step()
    later = replace(first.conversation, turns=play_scripted(ENV, first.conversation.scenario).turns[:2])
    generator.submit(replace(first, conversation=later))
    generator.step()
    assert shown == ["You are host. Talk about rain. (/quit ends the conversation)"]


def test_human_is_shown_what_the_env_tells_but_not_the_turn_before_again():
    shown: list[str] = []
    generator = HumanGenerator(write=shown.append, read=typed("Hi.", "Bye.", "Well."))
    first = replace(request(), heard_text="Start.")
    spoken = replace(first.conversation, turns=play_scripted(ENV, first.conversation.scenario).turns[:2])
    on_screen = spoken.turns[-1].text
    for conversation, heard_text in ((first.conversation, "Start."), (spoken, on_screen), (spoken, "A bell rings.")):
        generator.submit(replace(first, conversation=conversation, heard_text=heard_text))
        generator.step()
    assert shown[1:] == ["Start.", "A bell rings."]


def test_human_who_types_bytes_that_are_no_text_is_asked_again():
    shown: list[str] = []
    answers = iter([b"\xff", b"Hello."])
    generator = HumanGenerator(write=shown.append, read=lambda _: next(answers).decode("utf-8"))
    generator.submit(request())
    assert generator.step()[0].text == "Hello."
    assert shown[-1] == "That was not UTF-8 text; please say it again."


def test_human_who_types_nothing_is_asked_again():
    prompts: list[str] = []
    generator = HumanGenerator(write=unseen, read=typed("", "   ", "Fine, and you \ud83d?", prompts=prompts))
    generator.submit(request())
    assert generator.step()[0].text == "Fine, and you \ufffd?"
    assert len(prompts) == 3


@pytest.mark.parametrize("lines", [("/quit",), (), ("", " /quit ")])
def test_human_who_leaves_completes_without_a_turn(lines):
    generator = HumanGenerator(write=unseen, read=typed(*lines))
    generator.submit(request())
    (completion,) = generator.step()
    assert (completion.leaves, completion.error, completion.text) == (True, None, None)
