"""What the base did on held-out scenarios, kept to the bit: a run that goes on takes it, and plays it only once.

RUN/base_evaluation.json holds what transcripts round: rewards, payoffs, likelihoods.  What was said is read from the
transcripts.  A fingerprint says what the numbers depend on, and they are taken only where it is still the same:

    {"schema": "selfplay.base_evaluation/1", "of": "sha256:...", "conversations": [{"id": "000000-e00-0",
     "facts": {}, "payoff": {}, "rewards": [0.1, 0.2], "parts": {"question": [0.1, 0.2]},
     "num_tokens": 16, "nll": 21.5, "kl": 0.01}]}
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from selfplay import __version__
from selfplay.dialog import Conversation, Floats, ScoredConversation, Scores
from selfplay.errors import UserError
from selfplay.evaluate import Measured
from selfplay.interfaces import Env, Likelihood
from selfplay.line_files import json_from_line
from selfplay.play import Match
from selfplay.play_plan import fixed_players
from selfplay.players import CHANCE, SCRIPTED
from selfplay.plugins import source_digest
from selfplay.records_json import conversation_from_json, plain_json, token_counts
from selfplay.run_folder import PACKAGE_FOLDER, git_commit
from selfplay.score import WeightedReward
from selfplay.store import RunReader
from selfplay.train_settings import TrainSettings
from selfplay.whole_files import write_whole

__all__ = ["BASE_EVALUATION", "fingerprint", "read", "write"]

BASE_EVALUATION = "base_evaluation.json"
SCHEMA = "selfplay.base_evaluation/1"
# What the policy before training neither says nor gets anything by.
WITHOUT_EFFECT = {"steps", "out", "runs", "checkpoints", "log", "alarms", "max_failed_share"}


def fingerprint(
    settings: TrainSettings,
    matches: Sequence[Match],
    *,
    env: Env,
    rewards: Sequence[WeightedReward],
    facts: Mapping[str, Any],
) -> str:
    """Return what tells two evaluations of a base apart: "sha256:..."; "": that cannot be told.

    settings: with the specs of this env and these rewards; facts: JSON values that are known of the models and the
    machine.  Two are the same only if settings, matches, facts, this package and the files that env and rewards were
    written in are.  It cannot be told where such a file is not to be had, or where a fixed player is a model: what its
    name stands for may have changed.
    """
    if not set(fixed_players(settings).values()) <= {SCRIPTED, CHANCE}:
        return ""
    sources = [_source(plugin) for plugin in (env, *(weighted.reward for weighted in rewards))]
    if not all(sources):
        return ""
    known = {
        "package": [__version__, git_commit(PACKAGE_FOLDER)],
        "settings": settings.model_dump(mode="json", by_alias=True, exclude=WITHOUT_EFFECT),
        "rewards": [[weighted.name, repr(weighted.term)] for weighted in rewards],  # in their order
        "sources": sources,
        "matches": repr(list(matches)),
        "facts": facts,
    }
    return source_digest(json.dumps(known, sort_keys=True).encode("ascii"))


def write(folder: Path, measured: Sequence[Measured], *, of: str) -> None:
    """Keep in a run's folder what was measured; its conversations are stored there already.

    of: their fingerprint; where there is none, nothing is written.  Raises UserError if it cannot be written.
    """
    if of:
        record = {"schema": SCHEMA, "of": of, "conversations": [_to_json(one) for one in measured]}
        write_whole(folder / BASE_EVALUATION, json.dumps(record, allow_nan=False).encode("ascii") + b"\n")


def read(folder: Path, *, of: str) -> list[Measured] | None:
    """Return what was measured and kept under this fingerprint, to the bit; but likelihoods are not token for token.

    None: there is nothing, it is of something else, or not all of it is there, tokens included.
    """
    try:
        record = json_from_line((folder / BASE_EVALUATION).read_bytes())
        if not of or (record.get("schema"), record.get("of")) != (SCHEMA, of):
            return None
        reader = RunReader(folder)
        return [_from_json(kept, reader) for kept in record["conversations"]]
    except (OSError, UserError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _source(plugin: object) -> str:
    """Return the hash of the file that a plug-in's code stands in; "": it cannot be had, as that of a prompt."""
    try:
        file = inspect.getsourcefile(getattr(plugin, "function", None) or type(plugin))
        return "" if file is None else source_digest(Path(file).read_bytes())
    except (OSError, TypeError):
        return ""


def _to_json(measured: Measured) -> dict[str, Any]:
    scored, likelihood, outcome = measured.scored, measured.likelihood, measured.scored.conversation.outcome
    plain: dict[str, Any] = plain_json(
        {
            "id": scored.conversation.id,
            "facts": None if outcome is None else outcome.facts,
            "payoff": None if outcome is None else outcome.payoff,
            "rewards": scored.rewards,
            "parts": {name: scores.values for name, scores in scored.parts.items()},
            "num_tokens": likelihood.num_tokens,
            "nll": likelihood.nll,
            "kl": likelihood.kl,
        },
        decimals=None,
    )
    return plain


def _from_json(kept: Mapping[str, Any], reader: RunReader) -> Measured:
    conversation = _as_it_was(kept, reader)
    likelihood = Likelihood(
        conversation=conversation.id, num_tokens=kept["num_tokens"], nll=_number(kept["nll"]), kl=_number(kept["kl"])
    )
    parts = {name: Scores(values=_numbers(values, conversation)) for name, values in kept["parts"].items()}
    scored = ScoredConversation(conversation=conversation, rewards=_numbers(kept["rewards"], conversation), parts=parts)
    return Measured(scored=scored, likelihood=likelihood)


def _as_it_was(kept: Mapping[str, Any], reader: RunReader) -> Conversation:
    """Return a stored conversation with its tokens and, not rounded, what it was paid; ValueError: not all is there."""
    record = reader.record(kept["id"])
    conversation = conversation_from_json(record, reader.tokens_record(record["id"]))
    if [counts.said for counts in token_counts(record)] != [len(turn.said) for turn in conversation.turns]:
        raise ValueError(f"conversation {conversation.id} is stored without its tokens")
    if conversation.outcome is None:
        return conversation
    payoff = {role: _number(paid) for role, paid in kept["payoff"].items()}
    return replace(conversation, outcome=replace(conversation.outcome, facts=kept["facts"], payoff=payoff))


def _numbers(values: Sequence[float | None], conversation: Conversation) -> Floats:
    """Return numbers a turn [K]; in 64 bits, which hold those of 32 to the bit."""
    numbers: Floats = np.array([_number(value) for value in values])
    if numbers.shape != (conversation.num_turns,):
        raise ValueError(f"{len(numbers)} numbers for the {conversation.num_turns} turns of {conversation.id}")
    return numbers


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
