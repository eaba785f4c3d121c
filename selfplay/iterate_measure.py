"""What a round's training changed: gold and proxy reward, the twin's, and the distance from the first policy of all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from selfplay import models
from selfplay.dialog import Conversation, ScoredConversation
from selfplay.errors import UserError
from selfplay.evaluate import Comparison, Measured, compare, comparison_from_json, comparison_to_json
from selfplay.experience import trace
from selfplay.interfaces import Likelihood
from selfplay.iterate_rounds import Round, write_result
from selfplay.iterate_settings import RM, TWIN, IterateSettings, reward_model_spec, seed_of
from selfplay.run_evaluation import EVALUATION, evaluated_version
from selfplay.run_reader import RunReader
from selfplay.score import as_played, prepare, score
from selfplay.train_settings import RewardSpec

if TYPE_CHECKING:
    from selfplay.iterate import Tools

__all__ = ["KL", "measure"]

KL = "kl/per_token_nats"
TOKENS_PER_MICROBATCH = 2048

Sides = tuple[list[Conversation], list[Conversation]]  # before the round's training, and after it


def measure(place: Round, settings: IterateSettings, *, tools: Tools) -> None:
    """Compare the policies before and after a round on the held-out conversations that its training run stored.

    In the comparison `reward/total` and `reward/per_conversation` are gold, `reward/rm` and `reward/twin` the two
    reward models, and KL and likelihood are taken against the first policy of all, not the round's own start.
    """
    sides = _held_out(place)
    if not all(sides):
        raise UserError(f"{place.train} has no held-out conversations of both policies; remove it to train anew")
    weighted = tools.build_rewards(_specs(place, settings, tools))
    prepare(weighted)
    scored = [score(side, weighted, timeout_seconds=settings.reward_timeout_seconds) for side in sides]
    found = _likelihoods([one for side in scored for one in side], settings, tools)
    measured = [
        [Measured(scored=one, likelihood=found[one.conversation.id]) for one in side if one.conversation.id in found]
        for side in scored
    ]
    comparison = compare(measured[0], measured[1], seed=seed_of(settings, "measure", place.number))
    kl = _kl_from_start(place)
    write_result(
        place.evaluation,
        {
            "round": place.ordinal,
            "version": evaluated_version(place.train),
            "kl_from_start": kl if math.isfinite(kl) else None,
            "has_gold": bool(tools.gold),
            "comparison": comparison_to_json(comparison),
        },
    )


def _held_out(place: Round) -> Sides:
    reader, last = RunReader(place.train), evaluated_version(place.train)
    played = [as_played(one) for one in reader.conversations(with_tokens=True) if one.scenario.split == "held_out"]
    return [one for one in played if one.step == 0], [one for one in played if one.step == last]


def _specs(place: Round, settings: IterateSettings, tools: Tools) -> Mapping[str, RewardSpec]:
    """Return gold with its weights, and all else without: the sum is gold's alone.

    Both reward models say what their members think on average.  The proxy that is trained on may be less, by what
    pessimism takes off; the gap, and the alarm of it, are about means.
    """
    rm = place.newest_rm(settings)
    both = {RM: rm, TWIN: rm / TWIN}
    learnt = {name: reward_model_spec(folder, weight=0.0) for name, folder in both.items()}
    also = {name: spec.model_copy(update={"weight": 0.0, "gate": False}) for name, spec in settings.also.items()}
    return {**also, **tools.gold, **learnt}


def _likelihoods(
    scored: Sequence[ScoredConversation], settings: IterateSettings, tools: Tools
) -> Mapping[str, Likelihood]:
    """Return what the first policy of all says of what was said, by conversation."""
    from selfplay.learn.likelihood import likelihoods

    engine = settings.engine
    base = models.load(settings.model, device=engine.device, dtype="float32", say=tools.say, runs=settings.runs)
    found = likelihoods(
        base.model,
        [trajectory for one in scored for trajectory in trace(one)],
        temperature=settings.sampling.temperature,
        tokens_per_microbatch=TOKENS_PER_MICROBATCH,
    )
    return {likelihood.conversation: likelihood for likelihood in found}


def _kl_from_start(place: Round) -> float:
    """Return how far the round's training went from where it began, as the training run measured it."""
    own: Comparison = comparison_from_json(json.loads((place.train / EVALUATION).read_text(encoding="utf-8")))
    return next((row.trained for row in own.rows if row.name == KL), math.nan)
