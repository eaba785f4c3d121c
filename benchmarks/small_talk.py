"""Small talk put together from phrases, with a tokenizer of its own: conversations that nobody played."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from envs.chitchat import topics_of
from selfplay.dialog import Conversation, Outcome, PlayerInfo, Reason, Status, Turn
from selfplay.play import Match
from selfplay.plugins import source_digest
from selfplay.run_folder import now

__all__ = ["LEAVING", "MODEL", "PhraseTokenizer", "Talk"]

MODEL = "smollm2-135m"
LEAVING = "goodbye"
SAMPLING = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "max_new_tokens": 24, "max_stream_tokens": 0}
# Of so many conversations, one ends so; primes, so that they rarely fall on one.
EVERY: Mapping[Reason, int] = {"context_full": 59, "empty_reply": 97, "player_error": 131, "reward_error": 151}


STATEMENTS = (
    "I could talk about {topic} all {when}.",
    "My {who} never liked {topic}, you know.",
    "To be honest, {topic} makes me {feel}.",
    "There is more to {topic} than {thing} and {other}.",
    "I spent the {when} with my {who}, and we laughed about {topic}.",
    "That reminds me of {thing}; I was so {feel} back then.",
    "Well, my {who} says the same about {thing}.",
    "I bought {thing} because of {topic}, and I regret nothing.",
    "It was a terrible {when}: {thing} broke and my {who} got angry.",
    "Honestly, I love how {topic} brings people together.",
    "Sorry, I do not know much about {topic}.",
    "I think {thing} is better than {other}, every {when}.",
    "Nothing beats {thing}, nothing beats {other}, nothing beats {topic}.",
)
QUESTIONS = (
    "What do you like about {topic}?",
    "How often do you think of {thing}?",
    "Who told you about {topic}?",
    "Why does {topic} make you {feel}?",
    "When did you last see {thing}?",
    "Where would you go with your {who} on such a {when}?",
    "What about {thing}? What about {other}?",
    "How was your {when}?",
    "What would your {who} say?",
    "Do you feel {feel}? Why?",
)
FILLERS: Mapping[str, tuple[str, ...]] = {
    "who": ("sister", "neighbour", "grandfather", "boss", "best friend", "cousin", "teacher", "barber"),
    "when": ("evening", "weekend", "summer", "morning", "holiday", "rainy afternoon", "winter"),
    "feel": ("happy", "calm", "nervous", "proud", "sad", "curious", "tired", "hopeful", "angry", "grateful"),
    "thing": ("old bicycle", "blue kettle", "wooden boat", "garden shed", "tin of tea", "piano", "torn map", "lamp"),
    "other": ("cold soup", "a long train ride", "fresh bread", "the radio", "a good film", "wet socks", "chess"),
}


@dataclass(slots=True, kw_only=True)
class Talk:
    """Puts conversations together."""

    encoder: PhraseTokenizer
    drawn: random.Random
    max_turns: int

    def play(self, match: Match, *, version: int, progress: float, num: int) -> Conversation:
        """Return a conversation on a match's scenario; num: how many came before, which decides how it ends."""
        scenario = match.scenario
        topic = str(scenario.public["topic"])
        brief = f"You are chatting with a friend about {topic}. Reply in one short sentence."
        reason = next((reason for reason, every in EVERY.items() if num % every == every // 2), None)
        length = self.max_turns if reason is None else self.drawn.randint(1, self.max_turns)
        turns: list[Turn] = []
        for number in range(length):
            turns.append(self._turn(turns, topic, brief, progress=progress, player=f"learner@{version}"))
            turn = turns[-1]
            if LEAVING in turn.text.lower():
                reason = "leaving"
                break
            if reason == "context_full" and number == length - 1:
                turns[-1] = _cut(turn, finish="context_full")
        player = PlayerInfo(
            policy="learner", version=version, model=MODEL, trained=True, brief=brief, sampling=SAMPLING
        )
        seconds = sum(turn.seconds for turn in turns)
        return Conversation(
            id=match.id,
            scenario=scenario,
            players=dict.fromkeys(scenario.roles, player),
            turns=tuple(turns),
            outcome=_outcome(reason, turns),
            seed=match.seed,
            error=_error(reason, turns, seed=scenario.seed),
            started_at=now(),
            seconds=seconds,
        )

    def _turn(self, turns: Sequence[Turn], topic: str, brief: str, *, progress: float, player: str) -> Turn:
        role = ("host", "guest")[len(turns) % 2]
        heard = turns[-1].text if turns else "Start the conversation."
        text = self._text(turns, topic, progress)
        is_cut = self.drawn.random() < 0.06
        said = self.encoder.said(text)
        turn = Turn(
            role=role,
            text=text,
            heard_text=heard,
            player=player,
            stream=role,
            heard=self.encoder.heard(heard, brief=brief if len(turns) < 2 else ""),
            said=said,
            logprobs=self._logprobs(len(said)),
            finish="stop",
            seconds=0.02 * len(said),
        )
        return _cut(turn, finish="length") if is_cut else turn

    def _text(self, turns: Sequence[Turn], topic: str, progress: float) -> str:
        draw = self.drawn
        if len(turns) > 2 and draw.random() < 0.02:
            return f"I have to go now. Goodbye, and say hello to your {draw.choice(FILLERS['who'])}!"
        if turns and draw.random() < 0.01 + 0.08 * progress:
            return draw.choice(turns).text
        # Ever fewer phrases: variety falls.
        asks = draw.random() < 0.25 + 0.6 * progress
        phrases = QUESTIONS if asks else STATEMENTS
        phrase = draw.choice(phrases[: max(3, round(len(phrases) * (1.0 - 0.6 * progress)))])
        text = _filled(phrase, topic, draw)
        return f"{_filled(draw.choice(STATEMENTS), topic, draw)} {text}" if draw.random() < 0.4 * progress else text

    def _logprobs(self, num: int) -> np.ndarray:
        draw = self.drawn
        return np.array([-draw.gammavariate(0.7, 1.6) for _ in range(num)], dtype=np.float32)


@dataclass(slots=True, kw_only=True)
class PhraseTokenizer:
    """A small byte-level tokenizer, learnt from the phrases."""

    tokenizer: Tokenizer
    digest: str

    @classmethod
    def trained(cls, seed: int) -> PhraseTokenizer:
        """Return one for the phrases and the topics."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        draw = random.Random(seed)
        topics = (*topics_of("train"), *topics_of("held_out"))
        texts = [_filled(phrase, topic, draw) for topic in topics for phrase in (*STATEMENTS, *QUESTIONS)]
        special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        trainer = trainers.BpeTrainer(
            vocab_size=1500,
            special_tokens=special,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer=trainer)
        return cls(tokenizer=tokenizer, digest=source_digest(tokenizer.to_str().encode())[: len("sha256:") + 16])

    def said(self, text: str) -> np.ndarray:
        """Return what a speaker says, the end of its turn included."""
        return np.array([*_encode(self.tokenizer, text), 2], dtype=np.int32)

    def heard(self, text: str, *, brief: str) -> np.ndarray:
        """Return what a listener hears, its brief first if this is the first it hears."""
        ids: Callable[[str], tuple[int, ...]] = functools.partial(_encode, self.tokenizer)
        before = (1, *ids("system\n"), *ids(brief), 2, *ids("\n")) if brief else ids("\n")
        return np.array([*before, 1, *ids("user\n"), *ids(text), 2, *ids("\n"), 1, *ids("assistant\n")], dtype=np.int32)


@functools.lru_cache(maxsize=4096)
def _encode(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text).ids)


def _filled(phrase: str, topic: str, draw: random.Random) -> str:
    return phrase.format(topic=topic, **{name: draw.choice(options) for name, options in FILLERS.items()})


def _cut(turn: Turn, *, finish: Any) -> Turn:
    """Return a turn that a limit ended halfway."""
    half = max(1, len(turn.text) * 3 // 5)
    kept = max(1, len(turn.said) * 3 // 5)
    return Turn(
        role=turn.role,
        text=turn.text[:half].rstrip(),
        heard_text=turn.heard_text,
        player=turn.player,
        stream=turn.stream,
        heard=turn.heard,
        said=turn.said[:kept],
        logprobs=turn.logprobs[:kept],
        finish=finish,
        seconds=turn.seconds,
    )


def _outcome(reason: Reason | None, turns: Sequence[Turn]) -> Outcome:
    status: Status = "terminated"
    if reason == "context_full":
        status = "truncated"
    elif reason not in (None, "leaving"):
        status = "failed"
    by = turns[-1].role if reason in ("leaving", "context_full", "empty_reply") else None
    return Outcome(status=status, reason=reason or "turn_limit", by=by, facts={"turns": len(turns)})


def _error(reason: Reason | None, turns: Sequence[Turn], *, seed: int) -> str | None:
    texts = {
        "empty_reply": f"empty_reply: {('host', 'guest')[len(turns) % 2]} said nothing",
        "player_error": "player_error: the engine ran out of memory",
        "reward_error": f"reward_error: reward 'sentiment' raised ValueError: no words (seed {seed})",
    }
    return texts.get(reason or "")
