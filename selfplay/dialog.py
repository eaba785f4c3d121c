"""The records of a simulated dialog: what was set up, what was said, how it ended, what it was worth.

A conversation is a value.  Environments and rewards are pure functions of it, so it can be stored, replayed,
re-scored and inspected without a model.  Legend for shapes: K turns, S tokens said in a turn, H tokens heard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Split = Literal["train", "held_out"]
Status = Literal["terminated", "truncated", "failed"]
Finish = Literal["stop", "length", "context_full", "token_limit", "text"]
Reason = Literal[
    "goal_reached",
    "agreement",
    "no_deal",
    "gave_up",
    "rule_violation",
    "leaving",
    "turn_limit",
    "context_full",
    "token_limit",
    "empty_reply",
    "timeout",
    "player_error",
    "env_error",
    "reward_error",
    "infrastructure",
]

# What a role hears when it speaks first and its environment says nothing: chat templates want a user message.
OPENER = "Please begin."

SPLITS: tuple[Split, ...] = get_args(Split)
REASONS_OF_STATUS: Mapping[Status, frozenset[Reason]] = {
    "terminated": frozenset(
        ("goal_reached", "agreement", "no_deal", "gave_up", "rule_violation", "leaving", "turn_limit")
    ),
    "truncated": frozenset(("context_full", "token_limit")),
    "failed": frozenset(("empty_reply", "timeout", "player_error", "env_error", "reward_error", "infrastructure")),
}

Tokens = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


def no_tokens() -> Tokens:
    """Return an empty token array: what a script or a human has."""
    return np.empty(0, dtype=np.int32)


def no_floats() -> Floats:
    """Return an empty array of log-probabilities."""
    return np.empty(0, dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A starting position, complete before anyone speaks.

    The same env, split and seed give the same scenario on every machine.

    Example: ``Scenario(env="chitchat", seed=7, split="train", roles=("host", "guest"),
    public={"topic": "rainy days"}, private={})``
    """

    env: str  # name of the environment
    seed: int  # non-negative; what the scenario was drawn from
    split: Split  # train or held_out; the two never share a starting position
    roles: tuple[str, ...]  # in speaking order
    public: Mapping[str, Any] = field(default_factory=dict)  # JSON values that every role may see
    private: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # role -> JSON values only it sees


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What an environment understood of one turn; shown in transcripts.

    Example: ``Action(kind="offer", value=120, legal=True)``
    """

    kind: str  # the env's word for the move
    value: Any = None  # JSON value
    legal: bool = True  # False: understood, but against the rules


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message of one role, with the exact tokens its speaker's model heard and said.

    Concatenating ``heard, said`` over the turns of one (stream, policy) gives exactly what that model saw.
    Scripts and humans have no tokens: their arrays are empty and ``stream`` is "".

    Example: ``Turn(role="guest", text="Hi!", heard_text="Hello.", player="learner@0", stream="guest",
    heard=[1, 9690, ...], said=[20, 17, 2], logprobs=[-1.2, -0.1, -0.6], finish="stop")``
    """

    role: str  # who speaks
    text: str  # what the partner hears
    heard_text: str  # what reached this role since it last spoke
    player: str  # what fills the role: "learner@17", "frozen@0", "scripted", "human"
    stream: str = ""  # which append-only token sequence the turn belongs to
    heard: Tokens = field(default_factory=no_tokens)  # [H] fed to the stream since it last sampled, scaffold included
    said: Tokens = field(default_factory=no_tokens)  # [S] sampled, the end-of-turn token included
    logprobs: Floats = field(default_factory=no_floats)  # [S] nats, under the distribution sampled from
    finish: Finish = "text"  # stop: the speaker ended it; text: it has no tokens; the others cut it
    action: Action | None = None  # what the env understood; None: no legal move, or no moves in this env
    seconds: float = 0.0  # wall time from the request to its completion

    @property
    def is_cut(self) -> bool:
        """Whether a limit ended the turn, not its speaker."""
        return self.finish not in ("stop", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a conversation ended.

    An environment's own turn limit is ``terminated``: nothing of value follows.  Only limits of the engine
    truncate.  ``failed`` conversations are stored and never trained on.

    Example: ``Outcome(status="terminated", reason="turn_limit")``
    """

    status: Status
    reason: Reason  # one of REASONS_OF_STATUS[status]
    by: str | None = None  # the role that brought the end about; None: nobody in particular
    protocol_ok: bool = True  # whether the env's form was kept, apart from success
    facts: Mapping[str, Any] = field(default_factory=dict)  # JSON values: what the env measured
    payoff: Mapping[str, float] = field(default_factory=dict)  # role -> env units; empty: the env has no ground truth

    def __post_init__(self) -> None:
        """Refuse a reason that does not belong to the status."""
        allowed = REASONS_OF_STATUS.get(self.status)
        if allowed is None:
            raise ValueError(f"status {self.status!r} is none of {', '.join(REASONS_OF_STATUS)}")
        if self.reason not in allowed:
            fitting = ", ".join(sorted(allowed))
            raise ValueError(f"reason {self.reason!r} does not go with status {self.status!r}; use one of {fitting}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayerInfo:
    """What filled a role in one conversation, as the transcript records it.

    Example: ``PlayerInfo(policy="learner", version=17, model="smollm2-135m", trained=True)``
    """

    policy: str  # "learner", "frozen", "scripted", "human", ...
    version: int = 0  # policy version it began with; 0 for scripts and humans
    model: str = ""  # the model's name; "": no model
    trained: bool = False  # whether its turns may become training rows
    brief: str = ""  # the private instructions it was given
    sampling: Mapping[str, Any] = field(default_factory=dict)  # settings its turns were sampled with

    @property
    def label(self) -> str:
        """The player's name in a turn: "learner@17"; scripts and humans have no version."""
        return f"{self.policy}@{self.version}" if self.model else self.policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """One dialog: where it started, who played, what was said, how it ended.

    Example: ``Conversation(id="000420-g05-2", scenario=..., players={"host": ..., "guest": ...}, turns=(...,))``
    """

    id: str  # <step>-g<group>-<index>: where it belongs, not who played it
    scenario: Scenario
    players: Mapping[str, PlayerInfo] = field(default_factory=dict)  # role -> what filled it
    turns: tuple[Turn, ...] = ()  # [K]
    outcome: Outcome | None = None  # None while it is being played
    seed: int = 0  # what its players' draws come from
    view: Literal["perspective", "shared"] = "perspective"
    error: str | None = None  # one line, only when failed
    started_at: str = ""  # UTC, ISO 8601
    seconds: float = 0.0  # wall time from first request to end

    @property
    def num_turns(self) -> int:
        """Number of turns spoken so far."""
        return len(self.turns)

    @property
    def group(self) -> str:
        """Id of the group of conversations that share this scenario: the id without its index."""
        return self.id.rpartition("-")[0]

    @property
    def step(self) -> int:
        """Training step the conversation was played for."""
        return int(self.id.split("-", 1)[0])

    def turns_of(self, role: str) -> list[Turn]:
        """Return the turns that one role spoke, in order."""
        return [turn for turn in self.turns if turn.role == role]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What one reward says of one conversation: a number a turn, credited to the turn's speaker.

    NaN means "does not apply": it adds nothing, and statistics skip it.
    """

    values: Floats  # [K] raw reward units
    why: tuple[str, ...] = ()  # [K] or empty: one short reason a turn
    parts: Mapping[str, Floats] = field(default_factory=dict)  # name -> [K] what else was measured; it never counts


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredConversation:
    """A conversation with its rewards."""

    conversation: Conversation
    rewards: Floats  # [K] weighted sum of the parts, undiscounted, credited to each turn's speaker
    parts: Mapping[str, Scores] = field(default_factory=dict)  # reward name -> its scores


def conversation_id(*, step: int, group: int, index: int, letter: str = "g") -> str:
    """Return ``<step>-g<group>-<index>``, e.g. "000420-g05-2"; evaluation has another letter: "000420-e05-0"."""
    return f"{step:06d}-{letter}{group:02d}-{index}"


def id_order(id: str) -> tuple[int, str, int, int]:
    """Return what sorts ids by step, then letter, group and index; raises ValueError for what is no id."""
    step, middle, index = id.split("-")
    return int(step), middle.rstrip("0123456789"), int(middle.lstrip("abcdefghijklmnopqrstuvwxyz")), int(index)


def clean_text(text: str) -> str:
    """Return text that can be encoded: half a surrogate pair becomes U+FFFD, everything else stays."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
