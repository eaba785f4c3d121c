"""Chat templates of real families: what the bridge makes of each, against the template's own render of the dialog."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers import models as token_models
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from selfplay.dialog import OPENER, Conversation, Scenario, Turn
from selfplay.errors import UserError
from selfplay.generate.chat import ChatBridge
from selfplay.generate.template import backend, read_scaffold
from selfplay.interfaces import View, stream_of

ROLES = ("host", "guest")
PLAYER = "learner@0"
BRIEF = "You are Ann, a chef. Be brief!"
TEXTS = ("Hi! How are you?", "Fine.\n\nAnd you? 😀 שלום", "I've 24 naïve eggs -- really.", "OK, bye", "So long", "Yes.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A chat template as a model family ships it, and what a reader of the template knows of it."""

    template: str
    tokens: tuple[str | AddedToken, ...]  # special tokens; AddedToken where a family's are unusual
    end: str  # what closes a reply
    bos: str | None = None
    takes_system: bool = True  # False: the brief stands at the start of the first user message
    closes_users: bool = True  # whether `end` closes user messages too
    thinks: tuple[str, str] = ("", "")  # the header of replies, and the empty block that follows it in a stream


def swallowing(*texts: str) -> list[AddedToken]:
    """Tokens that take the white space behind them."""
    return [AddedToken(text, special=True, normalized=False, rstrip=True) for text in texts]


def ordinary(*texts: str) -> list[AddedToken]:
    """Added tokens that no flag marks as special."""
    return [AddedToken(text, special=False, normalized=False) for text in texts]


ALTERNATING = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)
CHATML_TURNS = (
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML = "{% for message in messages %}" + CHATML_TURNS
CHATML_DEFAULT = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}" + CHATML_TURNS
)
LLAMA_3 = (
    "{% for message in messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}"
    "{% set system_message = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% else %}{% set turns = messages %}{% set system_message = '' %}{% endif %}"
    "{% for message in turns %}" + ALTERNATING + "{% set content = message['content'] %}"
    "{% if loop.index0 == 0 %}{% set content = system_message + content %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}" + ALTERNATING + "{% set role = message['role'] %}"
    "{% if role == 'assistant' %}{% set role = 'model' %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}" + ALTERNATING + "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token + ' ' }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
# The system prompt wanders: it stands in the last user message, whichever that is.
MISTRAL_WANDERING = (
    "{% set brief = '' %}{% set turns = messages %}{% if messages[0]['role'] == 'system' %}"
    "{% set brief = messages[0]['content'] + '\n\n' %}{% set turns = messages[1:] %}{% endif %}"
    "{{ bos_token }}{% for message in turns %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + (brief if loop.last else '') + message['content'] + '[/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
PHI_3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
# The first release: no word of the system message.
PHI_3_FIRST = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '<|user|>\n' + message['content'] + '<|end|>\n<|assistant|>\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + '<|end|>\n' }}{% endif %}{% endfor %}"
)
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
QWEN_3 = (
    "{% for message in messages %}{% set content = message.content %}"
    "{% if message.role == 'assistant' and '</think>' in content %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
OPENCHAT = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ 'GPT4 Correct ' + message['role'].title() + ': ' + message['content'] + '<|end_of_turn|>'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'GPT4 Correct Assistant:' }}{% endif %}"
)
# A reply ends where the next message begins.
GLM = (
    "[gMASK]<sop>{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
ONLY_THE_LAST_THREE = "{% for message in messages[-3:] %}" + CHATML_TURNS
PLAIN_LINES = (
    "{% for message in messages %}{{ message['role'] | title + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

IM = ("<|im_start|>", "<|im_end|>")
PHI_TOKENS = tuple(swallowing("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"))
FAMILIES = {
    "chatml": Family(template=CHATML, tokens=IM, end="<|im_end|>"),
    "chatml with a default system prompt": Family(template=CHATML_DEFAULT, tokens=IM, end="<|im_end|>"),
    "llama 2": Family(template=LLAMA_2, tokens=("<s>", "</s>"), end="</s>", bos="<s>", closes_users=False),
    "llama 3": Family(
        template=LLAMA_3,
        tokens=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        end="<|eot_id|>",
        bos="<|begin_of_text|>",
    ),
    "gemma": Family(
        template=GEMMA,
        # Its line breaks are added tokens, in the scaffold and in messages alike.
        tokens=("<bos>", "<start_of_turn>", "<end_of_turn>", *ordinary("\n", "\n\n")),
        end="<end_of_turn>",
        bos="<bos>",
        takes_system=False,
    ),
    "mistral": Family(
        template=MISTRAL, tokens=("<s>", "</s>"), end="</s>", bos="<s>", takes_system=False, closes_users=False
    ),
    "mistral with a wandering system prompt": Family(
        template=MISTRAL_WANDERING,
        tokens=("<s>", "</s>", "[INST]", "[/INST]"),
        end="</s>",
        bos="<s>",
        takes_system=False,
        closes_users=False,
    ),
    "phi 3": Family(template=PHI_3, tokens=PHI_TOKENS, end="<|end|>"),
    "phi 3, first release": Family(
        template=PHI_3_FIRST, tokens=("<s>", *PHI_TOKENS), end="<|end|>", bos="<s>", takes_system=False
    ),
    "zephyr": Family(template=ZEPHYR, tokens=("<s>", "</s>"), end="</s>", bos="<s>"),
    "qwen 3": Family(
        template=QWEN_3,
        tokens=(*IM, *ordinary("<think>", "</think>")),
        end="<|im_end|>",
        thinks=("<|im_start|>assistant\n", "<think>\n\n</think>\n\n"),
    ),
    "openchat": Family(template=OPENCHAT, tokens=("<s>", "<|end_of_turn|>"), end="<|end_of_turn|>", bos="<s>"),
    "glm": Family(
        template=GLM,
        tokens=("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"),
        end="<|user|>",
        closes_users=False,
    ),
}
every_family = pytest.mark.parametrize("name", FAMILIES)
every_family_that_closes_users = pytest.mark.parametrize(
    "name", [name for name, family in FAMILIES.items() if family.closes_users]
)


@functools.cache
def byte_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    """One token a byte, and the family's own."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    made = Tokenizer(token_models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return with_template(made, family)


def with_template(made: Tokenizer, family: Family) -> PreTrainedTokenizerFast:
    made.add_tokens([t if isinstance(t, AddedToken) else AddedToken(t, special=True) for t in family.tokens])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token=family.end,
        bos_token=family.bos,
        chat_template=family.template,
        clean_up_tokenization_spaces=False,
    )


def messages(family: Family, contents: Sequence[str]) -> list[dict[str, str]]:
    """The brief, and contents from user and assistant in turn."""
    found = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    if family.takes_system:
        return [{"role": "system", "content": BRIEF}, *found]
    return [{"role": "user", "content": f"{BRIEF}\n\n{contents[0]}"}, *found[1:]]


def render(tokenizer: PreTrainedTokenizerFast, family: Family, contents: Sequence[str], *, prompt: bool) -> str:
    """The template's own words; prompt: with what stands before the next reply."""
    text = tokenizer.apply_chat_template(messages(family, contents), tokenize=False, add_generation_prompt=prompt)
    header, block = family.thinks
    return text.replace(header, header + block) if block else text


def ids_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def conversation(turns: Sequence[Turn], view: View) -> Conversation:
    scenario = Scenario(env="test", seed=0, split="train", roles=ROLES)
    return Conversation(id="000000-g00-0", scenario=scenario, turns=tuple(turns), view=view)


def contents_before(turn: int, view: View) -> list[str]:
    """What a stream shows before a turn, as user, assistant, user, ...; in perspective the speaker is the assistant."""
    opener = [OPENER] if view == "perspective" and turn % 2 == 0 else []
    return [*opener, *TEXTS[:turn]]


def play_by_hand(tokenizer: PreTrainedTokenizerFast, family: Family, view: View) -> Conversation:
    """A model that says TEXTS, token for token as the render has them."""
    bridge = ChatBridge(tokenizer, model_name="toy", view=view)
    end = tokenizer.convert_tokens_to_ids(family.end)
    turns: list[Turn] = []
    for k, text in enumerate(TEXTS):
        role, before, heard_text = ROLES[k % 2], conversation(turns, view), TEXTS[k - 1] if k else ""
        heard = bridge.heard(before, role, heard_text=heard_text, brief=BRIEF, player=PLAYER)
        seen = sum(len(run) for run in bridge.seen(before, role, player=PLAYER))
        # One message more than needed: some templates close a reply with the beginning of the next message.
        shown = ids_of(tokenizer, render(tokenizer, family, [*contents_before(k, view), text, "x"], prompt=False))
        rest = shown[seen + len(heard) :]
        said = np.array(rest[: rest.index(end) + 1], dtype=np.int32)
        turns.append(
            Turn(
                role=role,
                text=bridge.text(said),
                heard_text=heard_text,
                player=PLAYER,
                stream=stream_of(role, bridge.view),
                heard=heard,
                said=said,
            )
        )
    return conversation(turns, view)


def streams(played: Conversation, role: str | None = None) -> Iterator[tuple[int, list[int]]]:
    """Each turn's place, and what its stream held when the turn began; role=None: the stream of all roles."""
    held: list[int] = []
    for k, turn in enumerate(played.turns):
        if role in (None, turn.role):
            held += turn.heard.tolist()
            yield k, list(held)
            held += turn.said.tolist()


# ----- families -----


@every_family
@pytest.mark.parametrize("role", ROLES)
def test_a_perspective_stream_is_the_templates_prompt_before_every_turn(name, role):
    family, tokenizer = FAMILIES[name], byte_tokenizer(FAMILIES[name])
    for k, stream in streams(play_by_hand(tokenizer, family, "perspective"), role):
        prompt = render(tokenizer, family, contents_before(k, "perspective"), prompt=True)
        assert stream == ids_of(tokenizer, prompt)
        if "phi" not in name:  # whose tokens swallow the line breaks behind them
            assert tokenizer.decode(stream) == prompt


@every_family_that_closes_users
def test_a_shared_stream_is_the_templates_render_of_all_messages(name):
    family, tokenizer = FAMILIES[name], byte_tokenizer(FAMILIES[name])
    whole = ids_of(tokenizer, render(tokenizer, family, TEXTS, prompt=False))
    for k, stream in streams(play_by_hand(tokenizer, family, "shared")):
        assert stream == whole[: len(stream)]
        if k % 2:
            prompt = render(tokenizer, family, TEXTS[:k], prompt=True)
            assert stream == ids_of(tokenizer, prompt)


@every_family
def test_what_was_said_is_read_without_the_spaces_and_tokens_of_the_template(name):
    tokenizer = byte_tokenizer(FAMILIES[name])
    played = play_by_hand(tokenizer, FAMILIES[name], "perspective")
    assert tuple(turn.text for turn in played.turns) == TEXTS


def test_streams_of_mistral_and_qwen_are_what_their_makers_write():
    mistral = play_by_hand(byte_tokenizer(FAMILIES["mistral"]), FAMILIES["mistral"], "perspective")
    *_, (_, stream) = streams(conversation(mistral.turns[:4], "perspective"), "guest")
    assert byte_tokenizer(FAMILIES["mistral"]).decode(stream) == (
        f"<s>[INST] {BRIEF}\n\n{TEXTS[0]} [/INST]{TEXTS[1]}</s> [INST] {TEXTS[2]} [/INST]"
    )
    qwen = play_by_hand(byte_tokenizer(FAMILIES["qwen 3"]), FAMILIES["qwen 3"], "perspective")
    _, (_, stream) = streams(conversation(qwen.turns[:3], "perspective"), "host")
    reply = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert byte_tokenizer(FAMILIES["qwen 3"]).decode(stream) == (
        f"<|im_start|>system\n{BRIEF}<|im_end|>\n<|im_start|>user\nPlease begin.<|im_end|>\n"
        f"{reply}{TEXTS[0]}<|im_end|>\n<|im_start|>user\n{TEXTS[1]}<|im_end|>\n{reply}"
    )


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if not family.closes_users])
def test_a_shared_stream_is_lines_of_names_where_user_messages_end_without_the_end_of_turn_token(name):
    tokenizer = byte_tokenizer(FAMILIES[name])
    bridge = ChatBridge(tokenizer, model_name="toy", view="shared")
    heard = bridge.heard(conversation([], "shared"), "host", heard_text="", brief=BRIEF, player=PLAYER)
    assert tokenizer.decode(heard) == f"{BRIEF}\n\nHost:"


@pytest.mark.parametrize(("name", "trims"), [("llama 2", True), ("llama 3", True), ("gemma", True), ("zephyr", False)])
def test_white_space_around_what_is_heard_goes_where_the_template_drops_it(name, trims):
    tokenizer = byte_tokenizer(FAMILIES[name])
    bridge = ChatBridge(tokenizer, model_name="toy")
    heard = bridge.heard(conversation([], "perspective"), "guest", heard_text="\n Hi \t", brief=BRIEF, player=PLAYER)
    assert ("\n Hi \t" not in tokenizer.decode(heard)) == trims
    assert tokenizer.decode(heard) == render(tokenizer, FAMILIES[name], ["Hi" if trims else "\n Hi \t"], prompt=True)


def quoted(bridge: ChatBridge, texts: Sequence[str], role: str) -> list[int]:
    """The stream of a model that fills the role after a script said the texts, in both roles in turn."""
    turns = [
        Turn(role=ROLES[k % 2], text=text, heard_text=texts[k - 1] if k else "", player="scripted")
        for k, text in enumerate(texts)
    ]
    before = conversation(turns, bridge.view)
    heard_text = texts[-1] if texts else ""
    return bridge.heard(before, role, heard_text=heard_text, brief=BRIEF, player=PLAYER).tolist()


@every_family
def test_turns_of_a_script_are_quoted_as_the_template_shows_them(name):
    family, tokenizer = FAMILIES[name], byte_tokenizer(FAMILIES[name])
    bridge = ChatBridge(tokenizer, model_name="toy")
    for k in range(len(TEXTS)):
        prompt = render(tokenizer, family, contents_before(k, "perspective"), prompt=True)
        assert quoted(bridge, TEXTS[:k], ROLES[k % 2]) == ids_of(tokenizer, prompt)


@every_family_that_closes_users
def test_turns_of_a_script_are_quoted_in_a_shared_stream_as_the_template_shows_them(name):
    family, tokenizer = FAMILIES[name], byte_tokenizer(FAMILIES[name])
    bridge = ChatBridge(tokenizer, model_name="toy", view="shared")
    whole = ids_of(tokenizer, render(tokenizer, family, TEXTS, prompt=False))
    for k in range(len(TEXTS)):
        stream = quoted(bridge, TEXTS[:k], ROLES[k % 2])
        assert stream == whole[: len(stream)]
        assert stream.count(tokenizer.convert_tokens_to_ids(family.end)) == k + family.takes_system


def test_what_a_script_said_is_trimmed_where_the_template_trims_it():
    tokenizer = byte_tokenizer(FAMILIES["llama 3"])
    texts = ["\n Hi ", "Fine\t", " Bye"]
    prompt = render(tokenizer, FAMILIES["llama 3"], texts, prompt=True)
    assert tokenizer.decode(quoted(ChatBridge(tokenizer, model_name="toy"), texts, "guest")) == prompt


def test_settings_left_in_the_tokenizer_neither_cut_nor_pad_a_stream():
    family = FAMILIES["chatml"]
    tokenizer = byte_tokenizer.__wrapped__(family)
    backend(tokenizer).enable_truncation(8)
    backend(tokenizer).enable_padding(length=500)
    bridge = ChatBridge(tokenizer, model_name="toy")
    heard = bridge.heard(conversation([], "perspective"), "guest", heard_text=TEXTS[0], brief=BRIEF, player=PLAYER)
    assert tokenizer.decode(heard) == render(tokenizer, family, TEXTS[:1], prompt=True)


# ----- no text is a control token -----

HOSTILE = st.lists(
    st.sampled_from(sorted({str(token) for family in FAMILIES.values() for token in family.tokens}))
    | st.sampled_from(["system\n", "user\n", "\n", " ", "\r\n", "<", "|>", "\x00", "\u200f", "😀", "\ud800", "Hi"]),
    max_size=6,
).map("".join)


def controls_of(tokenizer: PreTrainedTokenizerFast, family: Family, texts: Sequence[str]) -> list[int]:
    """The control tokens of the guest's stream, in order, when these texts are said."""
    bridge = ChatBridge(tokenizer, model_name="toy")
    turns: list[Turn] = []
    for k, text in enumerate(texts):
        role, heard_text = ROLES[k % 2], texts[k - 1] if k else ""
        heard = bridge.heard(
            conversation(turns, "perspective"), role, heard_text=heard_text, brief=texts[0], player=PLAYER
        )
        said = np.array([*bridge.encode(text), tokenizer.convert_tokens_to_ids(family.end)], dtype=np.int32)
        turns.append(
            Turn(
                role=role,
                text=text,
                heard_text=heard_text,
                player=PLAYER,
                stream=stream_of(role, bridge.view),
                heard=heard,
                said=said,
            )
        )
    names = [str(token) for token in family.tokens if str(token).strip()]
    controls = set(tokenizer.convert_tokens_to_ids(names))
    return [i for turn in turns if turn.role == "guest" for i in (*turn.heard, *turn.said) if i in controls]


@every_family
@settings(max_examples=15, deadline=None)
@given(texts=st.lists(HOSTILE, min_size=4, max_size=4))
def test_control_tokens_of_a_stream_depend_on_no_text(name, texts):
    tokenizer = byte_tokenizer(FAMILIES[name])
    assert controls_of(tokenizer, FAMILIES[name], texts) == controls_of(tokenizer, FAMILIES[name], ["a"] * 4)


def test_an_unused_added_token_keeps_its_id_behind_control_tokens_of_the_vocabulary():
    symbols = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *IM]
    made = Tokenizer(token_models.BPE(vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    family = Family(template=CHATML, tokens=(*IM, *ordinary("<tool>")), end="<|im_end|>")
    tokenizer = with_template(made, family)
    bridge = ChatBridge(tokenizer, model_name="toy")
    assert bridge.encode("<tool>").tolist() == [258]
    assert tokenizer.decode(bridge.encode("<|im_end|>")) == "<|im_end|>"
    assert len(bridge.encode("<|im_end|>")) == len("<|im_end|>")


# ----- sentencepiece -----

LINES = (
    "You are Ann, a chef. Be brief!",
    "Hi! How are you? I am fine, thanks.",
    "Please begin. The user and the assistant talk about rain and bread, and then about the system.",
)
SPACE = "\u2581"  # sentencepiece's sign for it
LEGACY = [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
pieces_of = pytest.mark.parametrize("pieces", ["bpe", "unigram"])


@functools.cache
def sentencepiece(family: Family, pieces: str, scheme: str) -> PreTrainedTokenizerFast:
    """A tokenizer like Llama's, trained on LINES; scheme: where it puts a space before a text."""
    shown = {"special_tokens": ["<unk>", *family.tokens, *BYTES], "show_progress": False}
    if pieces == "bpe":
        made = Tokenizer(token_models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        trainer = trainers.BpeTrainer(vocab_size=500, **shown)
    else:
        made = Tokenizer(token_models.Unigram())
        trainer = trainers.UnigramTrainer(vocab_size=400, unk_token="<unk>", **shown)
    if scheme == "legacy":
        made.normalizer = normalizers.Sequence(LEGACY)
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=False)
    made.train_from_iterator(LINES * 4, trainer)
    description = json.loads(made.to_str())
    description["added_tokens"] = [token for token in description["added_tokens"] if token["content"] not in BYTES]
    description["model"]["byte_fallback"] = True
    made = Tokenizer.from_str(json.dumps(description))
    to_text = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(to_text)
    return with_template(made, family)


@pieces_of
@pytest.mark.parametrize("scheme", ["first", "always", "never", "legacy"])
@pytest.mark.parametrize("name", ["chatml", "zephyr", "mistral", "llama 2", "openchat", "phi 3"])
def test_a_sentencepiece_stream_is_the_templates_prompt_before_every_turn(name, scheme, pieces):
    family, tokenizer = FAMILIES[name], sentencepiece(FAMILIES[name], pieces, scheme)
    played = play_by_hand(tokenizer, family, "perspective")
    assert tuple(turn.text for turn in played.turns) == TEXTS
    for role in ROLES:
        for k, stream in streams(played, role):
            prompt = render(tokenizer, family, contents_before(k, "perspective"), prompt=True)
            assert stream == ids_of(tokenizer, prompt)


@pieces_of
def test_the_sentencepiece_tokenizers_of_these_tests_are_like_real_ones(pieces):
    tokenizer = sentencepiece(FAMILIES["chatml"], pieces, "first")
    # A space before the first text only, words from the training lines, bytes for what was not there.
    found = tokenizer.tokenize("the<|im_end|>the")
    assert (found[0][0], found[found.index("<|im_end|>") + 1][0]) == (SPACE, "t")
    assert len(tokenizer.tokenize("Please begin. You talk about rain and bread.")) < 30
    assert tokenizer.tokenize("é") == [SPACE, "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer.encode("é the")) == "é the"


@pieces_of
@pytest.mark.parametrize("scheme", ["first", "always", "never", "legacy"])
@pytest.mark.parametrize("view", ["perspective", "shared"])
def test_lines_of_names_begin_as_the_tokenizer_begins_a_text(view, scheme, pieces):
    plain = Family(template="", tokens=("<s>", "</s>"), end="</s>", bos="<s>")
    tokenizer = sentencepiece(plain, pieces, scheme)
    begin = ("<s>", tokenizer.bos_token_id)
    backend(tokenizer).post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[begin])
    bridge = ChatBridge(tokenizer, model_name="toy", view=view)
    heard = bridge.heard(conversation([], view), "host", heard_text="", brief=BRIEF, player=PLAYER)
    assert heard.tolist() == tokenizer(f"{BRIEF}\n\nHost:")["input_ids"]
    assert heard.tolist().count(tokenizer.bos_token_id) == 1


@pieces_of
@settings(max_examples=30, deadline=None)
@given(texts=st.lists(HOSTILE, min_size=4, max_size=4))
def test_control_tokens_of_a_sentencepiece_stream_depend_on_no_text(pieces, texts):
    family = FAMILIES["chatml"]
    tokenizer = sentencepiece(family, pieces, "first")
    assert controls_of(tokenizer, family, texts) == controls_of(tokenizer, family, ["a"] * 4)


# ----- refused -----


def test_a_template_that_drops_old_turns_is_refused_with_the_first_differing_token():
    tokenizer = byte_tokenizer(Family(template=ONLY_THE_LAST_THREE, tokens=IM, end="<|im_end|>"))
    # After <|im_start|> and "user\n" (tokens 0 to 5) stands the brief at first, the third message later: "Q" and ...
    with pytest.raises(UserError) as caught:
        read_scaffold(tokenizer, model_name="forgetful")
    assert str(caught.value) == (
        "model 'forgetful' cannot be used for dialog: its chat template rewrites earlier messages: "
        "token 7 is 'b' before and 't' after"
    )


def test_a_template_that_ends_replies_with_text_is_refused():
    tokenizer = byte_tokenizer(Family(template=PLAIN_LINES, tokens=("</s>",), end="</s>"))
    with pytest.raises(UserError) as caught:
        read_scaffold(tokenizer, model_name="plain")
    assert str(caught.value) == (
        "model 'plain' cannot be used for dialog: its chat template closes a reply with the text '\\nUser: ', "
        "not with an end-of-turn token"
    )


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('No dialog today') }}", "its chat template No dialog today"),
        ("{% for message in messages %}<|im_start|>{% endfor %}", "does not show every message exactly once"),
        (CHATML.replace("assistant\n", "assistant\n<think>\n"), "rewrites earlier messages: token "),
        (
            CHATML.replace("['content']", "['content'] | replace('\n', ' ')"),
            "is not what its tokenizer makes of the whole",
        ),
    ],
    ids=["it refuses", "it hides", "it opens reasoning", "it rewrites contents"],
)
def test_a_template_that_changes_what_it_shows_is_refused_in_one_sentence(template, reason):
    tokenizer = byte_tokenizer(Family(template=template, tokens=IM, end="<|im_end|>"))
    with pytest.raises(UserError, match=r"^model 'odd' cannot be used for dialog: ") as caught:
        read_scaffold(tokenizer, model_name="odd")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("template", [CHATML, None], ids=["with a template", "without"])
def test_a_tokenizer_that_is_not_of_the_tokenizers_library_is_refused_in_one_sentence(template):
    tokenizer = ByT5Tokenizer(name_or_path="some/byt5")
    tokenizer.chat_template = template
    with pytest.raises(UserError) as caught:
        ChatBridge(tokenizer, model_name="slow")
    assert str(caught.value) == (
        "tokenizer ByT5Tokenizer of 'some/byt5' is not backed by the tokenizers library; "
        "save it as tokenizer.json first"
    )
