"""Dialogs as tokens, against the render of chat templates of real families."""

import pytest
from test_template import FAMILIES, byte_tokenizer, every_family, ids_of

from selfplay.reward_model.dialogs import Dialog, Message, dialog_to_messages
from selfplay.reward_model.lm_tokens import DialogTokens

TEXTS = ("Hi! How are you?", "Fine.\n\nAnd you? 😀 שלום", "I've 24 naïve eggs -- really.", "OK, bye", "So long", "Yes.")
BRIEF = "You are Ann, a chef. Be brief!"


def dialog(num, *, system=""):
    messages = tuple(Message(text=text, is_focus=place % 2 == 1) for place, text in enumerate(TEXTS[:num]))
    return Dialog(messages=messages, system=system)


def whole(family, one):
    """What the template itself makes of a dialog, put as a user of that family would."""
    messages = dialog_to_messages(one)
    if one.system and not family.takes_system:
        brief, first, *rest = messages
        messages = [{**first, "content": f"{brief['content']}\n\n{first['content']}"}, *rest]
    return ids_of(byte_tokenizer(family), byte_tokenizer(family).apply_chat_template(messages, tokenize=False))


# Phi 3 puts another token behind the last reply's end; a reply of GLM ends where the next message begins.
MORE, LESS = {"phi 3": 1}, {"glm": 1}


@every_family
@pytest.mark.parametrize("system", ["", BRIEF])
@pytest.mark.parametrize("num", [2, 6])
def test_tokens_of_turns_are_those_of_the_rendered_template(name, num, system):
    family = FAMILIES[name]
    tokens = DialogTokens(byte_tokenizer(family), model_name=name, scope="turn", max_tokens=4096)
    stream, expected = tokens.stream(dialog(num, system=system)), whole(family, dialog(num, system=system))
    size = len(expected) - MORE.get(name, 0)
    assert stream.tokens[: len(stream.tokens) - LESS.get(name, 0)].tolist() == expected[:size]
    assert len(stream.places) == num // 2
    assert stream.places[-1] == len(stream.tokens) - 1


@every_family
@pytest.mark.parametrize("system", ["", BRIEF])
@pytest.mark.parametrize("num", [3, 5])
def test_tokens_of_a_conversation_that_ends_with_the_partner_are_those_of_the_rendered_template(name, num, system):
    family = FAMILIES[name]
    tokens = DialogTokens(byte_tokenizer(family), model_name=name, scope="conversation", max_tokens=4096)
    stream = tokens.stream(dialog(num, system=system))
    assert stream.tokens.tolist() == whole(family, dialog(num, system=system))
    assert stream.places == (len(stream.tokens) - 1,)


@every_family
def test_place_of_a_turn_is_the_end_of_the_dialog_up_to_it(name):
    tokens = DialogTokens(byte_tokenizer(FAMILIES[name]), model_name=name, scope="turn", max_tokens=4096)
    stream, short = tokens.stream(dialog(6)), tokens.stream(dialog(4))
    assert stream.places[1] == len(short.tokens) - 1
    assert stream.tokens[: len(short.tokens)].tolist() == short.tokens.tolist()


def test_final_tokens_are_those_at_which_dialogs_end():
    family = FAMILIES["llama 3"]
    tokens = DialogTokens(byte_tokenizer(family), model_name="llama 3", scope="turn", max_tokens=4096)
    assert tokens.final_tokens == {byte_tokenizer(family).convert_tokens_to_ids("<|eot_id|>")}


@every_family
@pytest.mark.parametrize("system", ["", BRIEF])
def test_last_exchange_that_alone_is_too_long_keeps_the_opening_and_its_own_end(name, system):
    family = FAMILIES[name]
    whole_tokens, cut_tokens = (
        DialogTokens(byte_tokenizer(family), model_name=name, scope="turn", max_tokens=num) for num in (4096, 300)
    )
    long = Dialog(
        messages=(Message(text="x" * 500, is_focus=False), Message(text="Yes.", is_focus=True)), system=system
    )
    whole, cut = (one.stream(long).tokens.tolist() for one in (whole_tokens, cut_tokens))
    stream = cut_tokens.stream(long)
    assert (len(cut), stream.places, stream.is_truncated) == (300, (299,), True)
    [inside] = set(ids_of(byte_tokenizer(family), "x" * 500))
    start = whole.index(inside)
    lost = len(whole) - 300
    # Only letters of the long message are gone.
    assert cut[:start] == whole[:start]
    assert cut[start:] == whole[start + lost :]
    assert cut.count(inside) == 500 - lost


def test_instructions_that_are_too_long_leave_half_of_the_room_to_the_last_message():
    family = FAMILIES["llama 3"]
    tokens = DialogTokens(byte_tokenizer(family), model_name="llama 3", scope="turn", max_tokens=100)
    [inside] = set(ids_of(byte_tokenizer(family), "q" * 9))
    [heard] = set(ids_of(byte_tokenizer(family), "x" * 9))
    talk = (Message(text="x" * 60, is_focus=False), Message(text="Yes.", is_focus=True))
    cut = tokens.stream(Dialog(messages=talk, system="q" * 500)).tokens.tolist()
    assert len(cut) == 100
    assert set(cut[40:50]) == {inside}
    assert inside not in cut[50:]
    assert heard in cut[50:]
