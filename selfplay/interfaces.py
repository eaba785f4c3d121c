"""The protocols that plug-ins implement, and the small records they exchange.

Nothing here imports torch: a plug-in author reads this page and `selfplay.dialog`, and needs nothing else.
Each protocol has a proof in `selfplay.contracts`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from selfplay.dialog import (
    Action,
    Conversation,
    Finish,
    Floats,
    Outcome,
    Reason,
    Scenario,
    ScoredConversation,
    Scores,
    Split,
    Tokens,
    no_floats,
    no_tokens,
)
from selfplay.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from selfplay.experience import Batch
    from selfplay.play import Match

View = Literal["perspective", "shared"]


def stream_of(role: str, view: View) -> str:
    """Return the name of the stream in which a role speaks."""
    return "shared" if view == "shared" else role


class PluginError(UserError):
    """A plug-in broke its contract; the message names the plug-in, the method, the seed and the turn."""


@runtime_checkable
class Env(Protocol):
    """A dialog game.  Every method is pure: it depends on its arguments only, and chance lives in `scenario`."""

    @property
    def name(self) -> str:
        """Name that transcripts record."""
        ...

    @property
    def roles(self) -> tuple[str, ...]:
        """All roles, in speaking order."""
        ...

    @property
    def zero_sum(self) -> bool:
        """Whether the payoffs of every conversation sum to 0."""
        ...

    def scenario(self, seed: int, split: Split) -> Scenario:
        """Draw a starting position; the same arguments give the same scenario on every machine."""
        ...

    def next_role(self, conversation: Conversation) -> str | None:
        """Return who speaks next; None: the game is over."""
        ...

    def brief(self, scenario: Scenario, role: str) -> str:
        """Return the role's private instructions."""
        ...

    def hears(self, conversation: Conversation, role: str) -> str:
        """Return what reached the role since it last spoke."""
        ...

    def parse(self, conversation: Conversation, turn: int) -> Action | None:
        """Return what the env understands of a turn; None: no legal move, or the env has no moves."""
        ...

    def outcome(self, conversation: Conversation) -> Outcome:
        """Return how it ended; must accept an unfinished conversation."""
        ...

    def scripted(self, conversation: Conversation, role: str) -> str:
        """Return the next message of a player that needs no model."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GameSheet:
    """What a game with a ground truth promises; `env check` measures all of it.

    Example: ``GameSheet(payoffs=(0.0, 1.0), ends=("goal_reached", "gave_up"), chance=0.25, best=1.0)``
    """

    payoffs: tuple[float, float]  # least and greatest payoff of any role, env units; a payoff outside is a defect
    ends: tuple[Reason, ...]  # every reason for which the game itself ends
    chance: float  # env units: mean payoff over roles and scenarios where `chance` fills every role
    best: float  # env units: the same mean for the best joint play


@runtime_checkable
class Game(Env, Protocol):
    """An environment with a ground truth: what it pays follows from the rules, and nobody judges.

    Its outcomes have a payoff for every role, and say in ``facts["success"]`` (bool) whether the aim was reached.
    """

    def sheet(self) -> GameSheet:
        """Return what the game promises, under its settings."""
        ...

    def chance(self, conversation: Conversation, role: str) -> str:
        """Return the next message of a player that knows the form and nothing else.

        Its draws derive from the scenario's seed and the number of turns.
        """
        ...

    def endings(self, scenario: Scenario) -> Mapping[Reason, tuple[str, ...]]:
        """Return texts, turn by turn from the first, that bring about each end of the sheet in this scenario."""
        ...


@runtime_checkable
class Reward(Protocol):
    """Scores conversations: one raw number a turn, credited to its speaker."""

    @property
    def name(self) -> str:
        """Name under which the part is recorded."""
        ...

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one `Scores` a conversation, in order; NaN means "does not apply"."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a turn is sampled.

    The order is temperature, then top-k, top-p and min-p on what is left; the reported log-probability is that of
    the resulting distribution.  ``temperature=0`` is greedy and its log-probabilities are 0.
    """

    temperature: float = 1.0
    top_k: int = 0  # keep the k likeliest tokens; 0: all
    top_p: float = 1.0  # keep the likeliest tokens until their mass reaches top_p; 1: all
    min_p: float = 0.0  # keep tokens at least min_p times as likely as the likeliest; 0: all
    max_new_tokens: int = 48  # a turn's limit
    max_stream_tokens: int = 0  # a stream's limit; 0: the model's context
    ignore_end_of_turn: bool = False  # every turn runs to max_new_tokens: for benchmarks

    def __post_init__(self) -> None:
        """Refuse what no distribution can follow."""
        right = {
            "temperature": (self.temperature >= 0.0, "at least 0"),
            "top_k": (self.top_k >= 0, "at least 0"),
            "top_p": (0.0 < self.top_p <= 1.0, "above 0 and at most 1"),
            "min_p": (0.0 <= self.min_p < 1.0, "at least 0 and below 1"),
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "max_stream_tokens": (self.max_stream_tokens >= 0, "at least 0"),
        }
        for name, (is_right, bound) in right.items():
            if not is_right:
                raise UserError(f"sampling.{name}={getattr(self, name)} must be {bound}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Asks a generator for one turn of one stream.

    Token generators read ``tokens``; scripts and humans read the conversation and the role.
    """

    conversation: Conversation  # as it stands before the turn
    role: str  # who speaks
    policy: str  # which policy answers
    stream: str  # unique among all live conversations: "<conversation id>/<role>"
    version: int | None = None  # which version of the policy; None: the newest
    heard_text: str = ""  # what reached the role since it last spoke, for players of text
    tokens: Tokens = field(default_factory=no_tokens)  # [H] to append to the stream before sampling
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0  # the stream's seed; a token's draw depends on (seed, position in the stream) alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A finished turn of one stream."""

    request: Request
    said: Tokens = field(default_factory=no_tokens)  # [S] end-of-turn token included
    logprobs: Floats = field(default_factory=no_floats)  # [S] nats
    text: str | None = None  # from scripts and humans; None: decode `said`
    finish: Finish = "text"
    version: int = 0  # policy version that spoke
    leaves: bool = False  # instead of a turn, the player ends the conversation: a person who quits
    error: str | None = None  # set: the player failed, one line


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One version of a policy's parameters: all of them, or what adapters add to the ones it started from.

    An adapter's state holds ``NAME.lora_A`` [r, in] and ``NAME.lora_B`` [out, r] for each layer NAME it changes: the
    layer's weight [out, in] is then the one it started from plus ``adapter_scale`` times B A.
    """

    version: int
    state: Mapping[str, torch.Tensor]  # name -> parameter, as in the model's state_dict, or the adapters' matrices
    adapter_scale: float | None = None  # None: `state` is the whole model


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenNumbers:
    """What was found, after a conversation was played, of the tokens that one of its turns said: [S] each.

    None: it is not known.  Training's come from the first pass over the batch.  Where that pass has several
    minibatches, those after the first meet a policy that took a step: their `logprobs_learner` are None, while
    `entropy` and an exact `kl` are those of that moment.
    """

    logprobs_learner: Floats | None = None  # nats, under the version that the update starts from
    logprobs_reference: Floats | None = None  # nats, under the frozen reference
    kl: Floats | None = None  # nats, policy from reference: the sampled token's (k1), or exact over the vocabulary
    entropy: Floats | None = None  # nats, of the learner's distribution that the token could come from
    advantage: Floats | None = None  # what the policy gradient weighs the token with, in units of the algorithm
    value: Floats | None = None  # reward units, of the state before the token, before the update


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What one update did."""

    version: int  # the version it made
    metrics: Mapping[str, float]  # by path; means over acted tokens unless the name says otherwise
    notes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # conversation id -> what the learner found
    # Conversation id -> turn -> the same, token for token.
    tokens: Mapping[str, Mapping[int, TokenNumbers]] = field(default_factory=dict, compare=False)
    warnings: tuple[str, ...] = ()  # what a person should know


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood:
    """How likely the frozen reference finds what the trained roles said in one conversation."""

    conversation: str  # id
    num_tokens: int  # acted
    nll: float  # nats, minus the reference's log-probabilities, summed over those tokens
    kl: float  # nats, the sampler's log-probabilities minus the reference's, summed
    # Turn -> the same, token for token.
    tokens: Mapping[int, TokenNumbers] = field(default_factory=dict, compare=False)


Need = Literal["reference", "value", "divergence", "parts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What the policy says now of a micro-batch's tokens; 0 where nothing was acted."""

    logprobs: torch.Tensor  # [B, T] nats, with gradient
    entropy: torch.Tensor  # [B, T] nats
    divergence: torch.Tensor | None = None  # [B, T] nats, KL(policy || reference) exact over the vocabulary
    values: torch.Tensor | None = None  # [B, T] reward units, if the algorithm needs "value"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What a micro-batch adds to the update."""

    value: torch.Tensor  # scalar, with gradient
    metrics: Mapping[str, float] = field(default_factory=dict)  # sums over the batch's micro-batches, by path


@runtime_checkable
class Algorithm(Protocol):
    """The mathematics of one update; owns no model, optimizer or device."""

    @property
    def needs(self) -> frozenset[Need]:
        """What the learner must compute before `prepare`."""
        ...

    def initial_state(self) -> Mapping[str, Any]:
        """Return plain data; it is saved in checkpoints."""
        ...

    def prepare(self, batch: Batch, state: Mapping[str, Any]) -> tuple[Batch, Mapping[str, Any]]:
        """Return the batch with advantages, and the state after it; once a batch, no gradient."""
        ...

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """Return the loss of a micro-batch of a prepared batch."""
        ...


@runtime_checkable
class Generator(Protocol):
    """Produces turns for many streams at once: submit, then step until the completion comes."""

    def submit(self, request: Request) -> None:
        """Queue a turn; at most one request a stream may be under way."""
        ...

    def step(self) -> list[Completion]:
        """Advance everything under way and return the turns that just finished, in a stable order."""
        ...

    def close(self, stream: str) -> None:
        """Forget a stream and free what it holds; an unknown stream is no error."""
        ...

    def load(self, policy: str, weights: Weights) -> None:
        """Make a new version of a policy answer the streams that open from now on."""
        ...


@runtime_checkable
class Logger(Protocol):
    """Somewhere that metrics go."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take one step's metrics, by path; a logger that fails raises, and training goes on without it."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


@runtime_checkable
class Cluster(Protocol):
    """Where the work is done: in this process, or by actors.  Every implementation gives the same results."""

    def play(self, matches: Sequence[Match]) -> Iterator[Conversation]:
        """Start to play matches, and return their conversations as they finish; a lost block is played again."""
        ...

    def score(self, conversations: Sequence[Conversation]) -> list[ScoredConversation]:
        """Return the conversations with their rewards, in order."""
        ...

    def learn(self, scored: Sequence[ScoredConversation]) -> Update:
        """Make one update from conversations in (step, group, index) order."""
        ...

    def publish(self, update: Update) -> None:
        """Make the version of an update answer in all conversations that begin from now on."""
        ...

    def measure(self, conversations: Sequence[Conversation]) -> list[Likelihood]:
        """Return what the frozen reference says of what trained roles said; learns nothing."""
        ...

    def save(self, folder: Path) -> None:
        """Write the policy, the tokenizer and the learner's state into an existing folder."""
        ...

    def save_policy(self, folder: Path) -> None:
        """Write the policy and the tokenizer, without what going on needs, into an existing folder."""
        ...

    def introduce(self, past: Mapping[str, Path]) -> None:
        """Let matches name these players from now on: past versions, each a folder that `save_policy` wrote."""
        ...

    def restore(self, folder: Path) -> int:
        """Go on from what `save` wrote: the policy of that version plays and learns; return the version."""
        ...

    def close(self) -> None:
        """Give back everything; calling it again does nothing."""
        ...
