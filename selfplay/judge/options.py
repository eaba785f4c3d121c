"""How likely a model finds each of a few short answers to a question.

Legend: N prompts, O options, T tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from selfplay import models
from selfplay.dialog import Conversation, PlayerInfo, Scenario, Tokens, Turn
from selfplay.errors import UserError
from selfplay.experience import Trajectory
from selfplay.players import tokenizer_hash
from selfplay.run_folder import RUNS

__all__ = ["LogProbs", "ModelOptions", "OptionReader", "Prompt", "load_options"]

logger = logging.getLogger(__name__)

# Chat messages, ``{"role", "content"}``.  The last one is the assistant's and only begun: an option goes on with it.
Prompt = Sequence[Mapping[str, str]]
LogProbs = npt.NDArray[np.float64]  # [N, O] nats

# A judge that reads more answers more slowly, and hardly better.
MOST_TOKENS = 2048
TOKENS_PER_MICROBATCH = 2048
LEAST = -1000.0  # nats, in place of minus infinity
NUM_SAID_INSTEAD = 3
ASKED, ANSWERS = "user", "assistant"
NUM_LOADED = 2  # models that stay in memory


class OptionReader(Protocol):
    """What answers: a language model, or a script in its place."""

    @property
    def identity(self) -> str:
        """What tells it from any other reader that might answer otherwise."""
        ...

    def log_probs(self, prompts: Sequence[Prompt], options: Sequence[str]) -> LogProbs:
        """Return the log-probability of each option right behind each prompt: [N, O] nats, over all that could come."""
        ...

    def has_room(self, prompt: Prompt) -> bool:
        """Whether it can read a prompt of that length."""
        ...

    def said_instead(self, prompt: Prompt) -> str:
        """Return what it would rather say, for messages."""
        ...


class ModelOptions:
    """A causal language model of transformers, through its chat template; one without gets lines of ``Name: text``.

    Contents are tokenised with control tokens split, as everywhere: no message that is judged can end itself.  What
    several prompts of a micro-batch begin with, such as instructions and examples, goes through the model once, and
    logits exist at the last token of each prompt only.
    """

    def __init__(
        self,
        loaded: models.LoadedModel,
        *,
        most_tokens: int = MOST_TOKENS,
        tokens_per_microbatch: int = TOKENS_PER_MICROBATCH,
    ) -> None:
        """Take over a model; its attention is changed to that of packed rows where the family can."""
        from selfplay.generate.chat import ChatBridge
        from selfplay.learn.packing import pack_attention

        self._model, self._tokenizer = loaded.model, loaded.tokenizer
        self._bridge = ChatBridge(loaded.tokenizer, model_name=loaded.name)
        context = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None) or most_tokens
        self._most_tokens, self._tokens_per_microbatch = min(most_tokens, context), tokens_per_microbatch
        self._identity = f"{loaded.name} {models.fingerprint(loaded)} {tokenizer_hash(loaded)}"
        # Behind a template's header an answer begins at once; behind a name, as a word does.
        self._lead = "" if getattr(loaded.tokenizer, "chat_template", None) else " "
        pack_attention(loaded.model)

    @property
    def identity(self) -> str:
        """The name and hashes of the weights and of the tokenizer."""
        return self._identity

    def has_room(self, prompt: Prompt) -> bool:
        """Whether a prompt and the token of an option fit."""
        return len(self._tokens(prompt)) + len(self._bridge.encode(prompt[-1]["content"])) < self._most_tokens

    def log_probs(self, prompts: Sequence[Prompt], options: Sequence[str]) -> LogProbs:
        """Return [N, O] nats; of an option it is its first token's, which no other option may share.

        Raises UserError if two options begin with the same token in this model's vocabulary.
        """
        found = np.empty((len(prompts), len(options)))
        rows, targets = [], []
        for prompt in prompts:
            begun, firsts = self._answers(prompt[-1]["content"], tuple(options))
            rows.append(np.concatenate([self._tokens(prompt), np.array(begun, dtype=np.int32)]))
            targets.append(firsts)
        for numbers, logprobs in self._read(rows):
            for number, row in zip(numbers, logprobs, strict=True):
                found[number] = row[list(targets[number])]
        return np.maximum(found, LEAST)

    def said_instead(self, prompt: Prompt) -> str:
        """Return the likeliest next tokens, each with its probability."""
        tokens = np.concatenate([self._tokens(prompt), self._bridge.encode(self._lead + prompt[-1]["content"])])
        [(_, [logprobs])] = list(self._read([tokens]))
        best = np.argsort(-logprobs)[:NUM_SAID_INSTEAD].tolist()
        texts = [cast(str, self._tokenizer.decode([token])) for token in best]
        return ", ".join(f"{text!r} ({np.exp(logprobs[token]):.0%})" for text, token in zip(texts, best, strict=True))

    def _tokens(self, prompt: Prompt) -> Tokens:
        """Return the tokens of a prompt without the answer that was begun."""
        system = "\n".join(message["content"] for message in prompt if message["role"] == "system")
        said = [message["content"] for message in prompt if message["role"] != "system"]
        # The first question is no turn: it opens the talk, as an environment would.
        asked = [Turn(role=ASKED, text=question, heard_text="", player="scripted") for question in said[2::2]]
        answered = [
            Turn(role=ANSWERS, text=answer, heard_text=question, player="scripted")
            for question, answer in zip(said[:-2:2], said[1:-2:2], strict=True)
        ]
        turns = tuple(turn for pair in zip(answered, asked, strict=True) for turn in pair)
        conversation = Conversation(
            id="000000-g00-0",
            scenario=Scenario(env="judge", seed=0, split="train", roles=(ASKED, ANSWERS)),
            players={ANSWERS: PlayerInfo(policy="scripted", brief=system)},
            turns=turns,
        )
        return self._bridge.heard(conversation, ANSWERS, heard_text=said[-2], brief=system, player="judge")

    def _answers(self, begun: str, options: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the tokens that all answers begin with, and each option's first own token."""
        # Begun and option are tokenised as one, for some vocabularies have a token for both.
        whole = [self._bridge.encode(self._lead + begun + option).tolist() for option in options]
        shared = 0
        while all(len(tokens) > shared for tokens in whole) and len({tokens[shared] for tokens in whole}) == 1:
            shared += 1
        firsts = tuple(tokens[shared] for tokens in whole if len(tokens) > shared)
        if len(set(firsts)) != len(options):
            raise UserError(
                f"the options {', '.join(options)} cannot be told apart by their first token in the vocabulary of "
                f"{self._identity.partition(' ')[0]}; use another model as the judge"
            )
        return tuple(whole[0][:shared]), firsts

    def _read(self, rows: Sequence[Tokens]) -> Iterator[tuple[list[int], npt.NDArray[np.float64]]]:
        """Yield micro-batches: row numbers, and the log-probabilities [n, V] of what comes next."""
        import torch

        from selfplay.experience import pad, padded_rows
        from selfplay.learn.model import acted_states
        from selfplay.learn.packing import is_packed, packed_rows
        from selfplay.learn.vocabulary import head

        if not rows:
            return
        streams = [_stream(row) for row in rows]
        split = packed_rows if is_packed(self._model) else padded_rows
        [microbatches] = split(streams, num_minibatches=1, max_tokens=self._tokens_per_microbatch)
        device = next(self._model.parameters()).device
        for numbers in microbatches:
            batch = pad([streams[number] for number in numbers])
            tokens, acted, exists = (part.to(device) for part in (batch.tokens, batch.acted, batch.exists))
            with torch.no_grad():
                last = acted_states(self._model, tokens, acted, exists=exists).last
                logprobs = head(self._model, last).log_softmax(dim=-1).double().cpu().numpy()
            yield numbers, logprobs


@lru_cache(maxsize=NUM_LOADED)
def load_options(name: str, *, runs: Path = RUNS) -> ModelOptions:
    """Return the reader of a model, fetched if need be; the newest few stay loaded."""
    # In float32 on every device, so that an answer does not depend on what it is batched with.
    return ModelOptions(models.load(name, dtype="float32", say=logger.info, runs=runs))


def _stream(tokens: Tokens) -> Trajectory:
    """Return tokens as what batches are made of; the last one is marked, for a stream's own part is never shared."""
    size = len(tokens)
    last = np.zeros(size, dtype=np.bool_)
    last[-1] = True
    nothing = np.zeros(size, dtype=np.float32)
    return Trajectory(
        conversation="",
        group="",
        version=0,
        truncated=False,
        roles=(),
        tokens=tokens,
        acted=last,
        role_index=np.zeros(size, dtype=np.int8),
        turn=np.zeros(size, dtype=np.int32),
        logprobs=nothing,
        rewards=nothing,
    )
