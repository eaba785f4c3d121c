"""Small talk between two peers about a topic: the open-domain game, without a ground truth."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from selfplay.dialog import SPLITS, Action, Conversation, Outcome, Scenario, Split
from selfplay.errors import UserError

PLACEHOLDERS = ("{topic}", "{name}", "{partner}")
# Spaces are matched too, so that "{ topic }" is refused instead of reaching the model as it stands.
BRACED_WORD = re.compile(r"\{\s*\w*\s*\}")
HELD_OUT_EVERY = 5  # of each five topics in the table, the fifth is held out

# Both tables have 13 lines, a prime: any stride from 1 to 12 visits all of them before one comes again.
QUESTIONS = (
    "What comes to your mind first when you hear about {topic}?",
    "How often do you think about {topic}?",
    "Who do you usually talk to about {topic}?",
    "Is there a story you connect with {topic}?",
    "What do most people get wrong about {topic}?",
    "Would you say that {topic} meant more to people years ago?",
    "What would a film about {topic} look like?",
    "When did {topic} last come up in your life?",
    "Do you know anyone who has a lot to say about {topic}?",
    "What surprises you most about {topic}?",
    "Could you talk about {topic} for a whole evening?",
    "What would a child ask about {topic}?",
    "Where would you start if you had to explain {topic}?",
)
ANSWERS = (
    "To be honest, I think about {topic} more often than I admit.",
    "I never get tired of talking about {topic}; do you?",
    "A friend once told me a funny story about {topic}; has that happened to you?",
    "My sister has strong opinions about {topic}, so I hear about it weekly.",
    "There is more to {topic} than I used to think.",
    "Talk of {topic} takes me back to one particular afternoon; does it for you?",
    "I could go on about {topic}, but stop me if you have heard enough.",
    "People make {topic} sound more complicated than it is.",
    "I used to be wrong about {topic}, I admit; were you?",
    "My neighbour and I can spend an hour on {topic}.",
    "I changed my mind about {topic} more than once; did you?",
    "Last week I read a few pages about {topic} before going to sleep.",
    "My honest view of {topic} is that it depends on the company; what is yours?",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChitChat:
    """Two peers make small talk about one topic.

    Roles: two, `host` and `guest` unless renamed, equal in everything but who begins; the first one begins.
    Ends: after `max_turns` turns in all ("turn_limit"), or when a turn holds a leaving word ("leaving").
    Payoff: none; conversations are worth what the rewards say.
    Chance: nothing to guess, so there is no chance level.
    Best: not defined; compare with the untrained model under the same rewards.
    Source: the self-play chit-chat of VHRL (Saleh et al. 2019, arXiv:1909.07547).  There a random sentence of the
    training set opens and three exchanges follow; here a topic of `topics.txt` opens and no corpus is needed.
    """

    name: ClassVar[str] = "chitchat"
    zero_sum: ClassVar[bool] = False

    max_turns: int = 6  # turns of both roles together, at least 1
    default_brief: str = "You are chatting with a friend about {topic}. Reply in one short sentence."  # of every role
    briefs: Mapping[str, str] = field(default_factory=dict)  # role -> its own text instead of default_brief
    personas: Mapping[str, str] = field(default_factory=dict)  # role -> text that only it sees, added to its brief
    opener: str = "Start the conversation."  # what the first role hears before it speaks
    leaving: tuple[str, ...] = ()  # words that end the conversation, in any case, as whole words; (): none
    roles: tuple[str, str] = ("host", "guest")  # in speaking order

    def __post_init__(self) -> None:
        """Refuse settings that cannot be played."""
        if self.max_turns < 1:
            raise UserError(f"max_turns={self.max_turns} must be at least 1")
        _check_roles(self.roles)
        for setting, texts in (("briefs", self.briefs), ("personas", self.personas)):
            _check_keys(setting, texts, self.roles)
        templates = {f"briefs.{role}": text for role, text in self.briefs.items()}
        for setting, text in {"default_brief": self.default_brief, "opener": self.opener, **templates}.items():
            _check_template(setting, text)
        _check_leaving(self.leaving)

    def scenario(self, seed: int, split: Split) -> Scenario:
        """Draw a topic of the split; the two splits have no topic in common."""
        if seed < 0:
            raise UserError(f"seed={seed} must be 0 or more")
        topics = topics_of(split)
        # Words of the seed sequence instead of a Generator's draw: only they are the same in every version of numpy.
        words = np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split),)).generate_state(1, np.uint64)
        return Scenario(
            env=self.name,
            seed=seed,
            split=split,
            roles=self.roles,
            public={"topic": topics[int(words[0]) % len(topics)]},
            private={role: {"persona": self.personas[role]} for role in self.roles if self.personas.get(role)},
        )

    def next_role(self, conversation: Conversation) -> str | None:
        """Return whose turn it is; the roles alternate."""
        if conversation.num_turns >= self.max_turns or self._leaver(conversation) is not None:
            return None
        return conversation.scenario.roles[conversation.num_turns % 2]

    def brief(self, scenario: Scenario, role: str) -> str:
        """Return the role's text with its placeholders filled, and its persona as it was written."""
        text = _fill(self.briefs.get(role, self.default_brief), scenario, role)
        persona = scenario.private.get(role, {}).get("persona", "")
        return f"{text} {persona}" if persona else text

    def hears(self, conversation: Conversation, role: str) -> str:
        """Return the partner's last text; before the first turn the opener, which only the first role hears."""
        if conversation.turns:
            last = conversation.turns[-1]
            return last.text if last.role != role else ""
        first = conversation.scenario.roles[0]
        return _fill(self.opener, conversation.scenario, role) if role == first else ""

    def parse(self, conversation: Conversation, turn: int) -> Action | None:
        """Return None: small talk has no moves."""
        return None

    def outcome(self, conversation: Conversation) -> Outcome:
        """Return how it ended; of an unfinished conversation, as if its last turn had been the limit."""
        leaver = self._leaver(conversation)
        return Outcome(
            status="terminated",
            reason="turn_limit" if leaver is None else "leaving",
            by=leaver,
            facts={"turns": conversation.num_turns},
        )

    def scripted(self, conversation: Conversation, role: str) -> str:
        """Return a fixed line about the topic: an answer if the partner asked something, a question otherwise.

        Which line depends on (scenario.seed, turn number) alone, and none comes twice within 13 turns.
        """
        was_asked = self.hears(conversation, role).rstrip().endswith("?") if conversation.turns else False
        lines = ANSWERS if was_asked else QUESTIONS
        start, stride = conversation.scenario.seed, 1 + conversation.scenario.seed // len(lines) % (len(lines) - 1)
        line = lines[(start + stride * conversation.num_turns) % len(lines)]
        return _fill(line, conversation.scenario, role)

    def _leaver(self, conversation: Conversation) -> str | None:
        if not self.leaving:
            return None
        pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, self.leaving))})(?!\w)", re.IGNORECASE)
        return next((turn.role for turn in conversation.turns if pattern.search(turn.text)), None)


def topics_of(split: Split) -> tuple[str, ...]:
    """Return the topics of a split, in the table's order."""
    if split not in SPLITS:
        raise UserError(f"split {split!r} is none of {', '.join(SPLITS)}")
    topics = _all_topics()
    held_out = topics[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    if split == "held_out":
        return held_out
    return tuple(topic for index, topic in enumerate(topics, start=1) if index % HELD_OUT_EVERY)


@functools.cache
def _all_topics() -> tuple[str, ...]:
    lines = Path(__file__).with_name("topics.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def _fill(template: str, scenario: Scenario, role: str) -> str:
    # One pass over the template: braces inside a topic or a name stay text.
    partner = next(other for other in scenario.roles if other != role)
    values = {"{topic}": str(scenario.public["topic"]), "{name}": role, "{partner}": partner}
    return BRACED_WORD.sub(lambda match: values[match.group()], template)


def _check_roles(roles: tuple[str, ...]) -> None:
    if len(roles) != 2 or roles[0] == roles[1] or not all(role.strip() for role in roles):
        raise UserError(f"roles={list(roles)} must be two different names, such as [host, guest]")


def _check_keys(setting: str, texts: Mapping[str, str], roles: tuple[str, ...]) -> None:
    for role in texts:
        if role not in roles:
            raise UserError(f"{setting} has a text for {role!r}, but the roles are {', '.join(roles)}")


def _check_template(setting: str, text: str) -> None:
    for found in BRACED_WORD.findall(text):
        if found not in PLACEHOLDERS:
            raise UserError(f"{setting} has the unknown placeholder {found}; there are {', '.join(PLACEHOLDERS)}")


def _check_leaving(leaving: tuple[str, ...]) -> None:
    if isinstance(leaving, str):
        raise UserError(f"leaving={leaving!r} must be a list of words, such as [{leaving}]")
    if not all(word.strip() for word in leaving):
        raise UserError("leaving has an empty word, which every turn would hold; leave it out")
