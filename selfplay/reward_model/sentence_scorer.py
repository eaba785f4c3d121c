"""A reward model's member on sentence vectors: a small head reads each message beside what came before it.

Legend: B dialogs, n focus messages of all of them, D numbers of a text's vector, H hidden numbers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from selfplay.dialog import Floats
from selfplay.errors import UserError
from selfplay.models import Say
from selfplay.reward_model.dialogs import Dialog, Message
from selfplay.reward_model.settings import Scope
from selfplay.sentences import TextVectors

__all__ = ["HEADS", "SentenceScorer", "Sentences", "load_sentence_scorers", "new_head", "save_sentence_scorers"]

logger = logging.getLogger(__name__)

HEADS = "heads.safetensors"
NUM_FEATURES = 4  # vectors that make up what the head reads of a message
TEXTS_PER_WORD = 8192  # that are encoded between two words about it
SLOPE = 0.01  # of LeakyReLU below 0, as in Christiano et al. 2017


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Vectors of texts, and where each dialog's are among them."""

    vectors: Tensor  # [num texts, D]; the first is that of no text, all 0
    own: list[list[int]]  # per dialog the row of each focus message
    heard: list[list[int]]  # per dialog the row of what came between it and the focus message before it


class Sentences:
    """What turns dialogs into features, shared by all members: an encoder, and vectors that training reads often."""

    def __init__(self, encoder: TextVectors) -> None:
        self._encoder = encoder
        self._known: dict[Dialog, int] = {}
        self._rows: Rows | None = None

    def remember(self, dialogs: Sequence[Dialog], *, say: Say = logger.info) -> None:
        """Encode dialogs once, and keep their vectors until `forget`."""
        distinct = list(dict.fromkeys(dialogs))
        self._rows = self._encode(distinct, say=say)
        self._known = {dialog: number for number, dialog in enumerate(distinct)}

    def forget(self) -> None:
        """Give the memory back."""
        self._known, self._rows = {}, None

    def features(self, dialogs: Sequence[Dialog]) -> tuple[Tensor, list[int]]:
        """Return what the head reads of the focus messages [n, 4 D], dialog by dialog, and how many each has [B]."""
        rows = self._rows
        if rows is not None and all(dialog in self._known for dialog in dialogs):
            numbers = [self._known[dialog] for dialog in dialogs]
        else:
            rows, numbers = self._encode(dialogs), list(range(len(dialogs)))
        own, heard = ([its[number] for number in numbers] for its in (rows.own, rows.heard))
        lengths = [len(each) for each in own]
        return _features(_chosen(rows.vectors, own), _chosen(rows.vectors, heard), lengths), lengths

    def _encode(self, dialogs: Sequence[Dialog], *, say: Say = logger.debug) -> Rows:
        texts = [_texts(dialog) for dialog in dialogs]
        distinct = dict.fromkeys(text for own, heard in texts for text in (*own, *heard) if text.strip())
        found = self._vectors(list(distinct), say=say)
        rows = {text: number for number, text in enumerate(distinct, start=1)}
        width = len(next(iter(found.values()))) if found else len(self._encoder.vectors(["a"])["a"])
        vectors = np.zeros((len(rows) + 1, width), dtype=np.float32)
        for text, row in rows.items():
            vectors[row] = found[text]
        return Rows(
            # A vector of length 1 has small numbers, from which a head would learn slowly.
            vectors=torch.from_numpy(vectors * np.float32(math.sqrt(width))),
            own=[[rows.get(text, 0) for text in own] for own, _ in texts],
            heard=[[rows.get(text, 0) for text in heard] for _, heard in texts],
        )

    def _vectors(self, texts: Sequence[str], *, say: Say) -> Mapping[str, Floats]:
        found: dict[str, Floats] = {}
        for start in range(0, len(texts), TEXTS_PER_WORD):
            say(f"{start:,} of {len(texts):,} texts read" if start else f"reading {len(texts):,} texts")
            found |= self._encoder.vectors(texts[start : start + TEXTS_PER_WORD])
        return found


def _texts(dialog: Dialog) -> tuple[list[str], list[str]]:
    """Return the texts of the focus messages, and what reached the role before each."""
    own: list[str] = []
    heard: list[str] = []
    since: list[str] = []
    for message in dialog.messages:
        if message.is_focus:
            own.append(message.text)
            heard.append("\n".join(since))
            since = []
        else:
            since.append(message.text)
    if not own:
        raise UserError("a dialog has no message of the role that is judged; there is nothing to score")
    return own, heard


def _chosen(vectors: Tensor, rows: Sequence[Sequence[int]]) -> Tensor:
    return vectors[torch.tensor([row for own in rows for row in own])]


def _features(own: Tensor, heard: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return vectors [n, D] of messages and what they answer as features: both, their product, and the past."""
    return torch.cat([own, heard, own * heard, _means_before(own, lengths)], dim=1)


def _means_before(own: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return for each message [n, D] the mean of those before it in its dialog; of the first: 0."""
    sizes = torch.tensor(lengths)  # [B]
    starts = sizes.cumsum(0) - sizes
    means = torch.zeros_like(own)
    for length in sorted({*lengths} - {1}):
        places = torch.arange(length - 1)
        rows = starts[sizes == length][:, None] + places  # all but the last message, of dialogs of one length
        # Summed in order, so a message's features depend on nothing else in the batch.
        means[rows + 1] = own[rows].cumsum(dim=1) / (places + 1)[:, None]
    return means


# ----- the head -----


def new_head(width: int, *, hidden: int, generator: torch.Generator) -> nn.Sequential:
    """Return a head for features of a width: linear, or with one hidden layer; its last weights are N(0, 1/(d+1)).

    Source: Stiennon et al. 2020 (the last layer), Christiano et al. 2017 (the hidden one).
    """
    layers: list[nn.Module] = []
    if hidden:
        first = _linear(width, hidden, bias=True)
        bound = 1.0 / math.sqrt(width)
        with torch.no_grad():
            for parameter in first.parameters():
                parameter.uniform_(-bound, bound, generator=generator)
        layers = [first, nn.LeakyReLU(SLOPE)]
    last = _linear(hidden or width, 1, bias=False)
    with torch.no_grad():
        last.weight.normal_(0.0, 1.0 / math.sqrt((hidden or width) + 1), generator=generator)
    return nn.Sequential(*layers, last)


def _linear(width: int, num: int, *, bias: bool) -> nn.Linear:
    """Return a layer whose numbers are yet to be set: torch's own draw them from its global generator."""
    return nn.Linear(width, num, bias=bias, device="meta").to_empty(device="cpu")


@dataclass(eq=False, kw_only=True)
class SentenceScorer:
    """A member on sentence vectors: a number for each focus message; a `Scorer`.

    The head reads four vectors of a message: its own, that of what reached the role since its last message, their
    product, and the mean of the role's earlier messages; each is all 0 where there is none.  It does not read
    instructions, nor what was said after the role's last message, and the encoder cuts long texts.
    """

    sentences: Sentences
    head: nn.Sequential
    num_truncated: int = field(default=0, init=False)

    @classmethod
    def new(cls, sentences: Sentences, *, hidden: int, seed: int) -> SentenceScorer:
        """Return one with a fresh head."""
        features, _ = sentences.features([_probe()])
        generator = torch.Generator().manual_seed(seed)
        return cls(sentences=sentences, head=new_head(features.shape[1], hidden=hidden, generator=generator))

    @property
    def scope(self) -> Scope:
        """It reads each message; a conversation is their mean."""
        return "turn"

    def read(self, dialogs: Sequence[Dialog]) -> list[Tensor]:
        """Return the numbers of each dialog's focus messages."""
        if not dialogs:
            return []
        features, lengths = self.sentences.features(dialogs)
        numbers: Tensor = self.head(features)[:, 0]
        return list(torch.split(numbers, lengths))

    def size(self, dialog: Dialog) -> int:
        """Return how many messages a dialog has: each is one vector."""
        return len(dialog.messages)

    def parameters(self) -> list[nn.Parameter]:
        """Return the head's."""
        return list(self.head.parameters())

    def state(self) -> Mapping[str, Tensor]:
        """Return a copy of the head."""
        return {name: tensor.detach().clone() for name, tensor in self.head.state_dict().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over a head of the same shape."""
        self.head.load_state_dict(dict(state))

    def save(self, folder: Path) -> None:
        """Write the head."""
        save_sentence_scorers([self], folder)


def _probe() -> Dialog:
    return Dialog(messages=(Message(text="a", is_focus=True),))


def save_sentence_scorers(scorers: Sequence[SentenceScorer], folder: Path) -> None:
    """Write the heads of all members into one file."""
    heads = {f"{k}.{name}": tensor for k, scorer in enumerate(scorers) for name, tensor in scorer.state().items()}
    save_file(heads, folder / HEADS, metadata={"format": "pt"})


def load_sentence_scorers(folder: Path, sentences: Sentences) -> list[SentenceScorer]:
    """Return the members whose heads a folder holds.  Raises UserError, one sentence, if it holds none that fits."""
    path = folder / HEADS
    if not path.is_file():
        raise UserError(f"{folder} has no {HEADS}: it is no reward model on sentence vectors, or not whole")
    try:
        tensors = load_file(path)
    except Exception as error:  # safetensors raises its own type, which is not exported everywhere
        raise UserError(f"{path} cannot be read: {error}") from error
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, rest = name.partition(".")
        states.setdefault(int(number), {})[rest] = tensor
    return [_with_head(sentences, states[number], path) for number in sorted(states)]


def _with_head(sentences: Sentences, state: Mapping[str, Tensor], path: Path) -> SentenceScorer:
    hidden = state["0.weight"].shape[0] if "2.weight" in state else 0
    scorer = SentenceScorer.new(sentences, hidden=hidden, seed=0)
    try:
        scorer.load(state)
    except RuntimeError as error:
        raise UserError(f"{path} holds heads for another encoder: {str(error).splitlines()[-1].strip()}") from error
    return scorer
