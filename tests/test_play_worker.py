"""Play workers whose policies are adapters of one model, against workers that merge them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from envs.chitchat import ChitChat
from selfplay import models
from selfplay.cluster.model_files import ModelFiles
from selfplay.cluster.play_worker import PlayPlan, PlayWorker
from selfplay.dialog import Conversation
from selfplay.errors import UserError
from selfplay.interfaces import Sampling, Weights
from selfplay.learn.lora import AdapterPolicy, lora_config
from selfplay.play import Match, make_matches

ENV = ChitChat(max_turns=4)
SAMPLING = Sampling(max_new_tokens=8)


def plan(name: str = "tiny:2", **changes: object) -> PlayPlan:
    model = ModelFiles.of(name, runs=Path("runs"), say=lambda _: None)
    made = PlayPlan(env=ENV, model=model, sampling=SAMPLING, device="cpu", threads=1, has_frozen=True)
    return replace(made, **changes)


def started(chosen: PlayPlan) -> PlayWorker:
    worker = PlayWorker(chosen)
    worker.start()
    return worker


def trained(*, seed: int) -> AdapterPolicy:
    """An adapter of tiny:2 that changes something."""
    base = models.load("tiny:2", device="cpu").model
    policy = AdapterPolicy(base, lora_config(rank=4, alpha=8.0, targets="all-linear"), seed=0, base_name="tiny:2")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 10)
    return policy


def adapter(version: int) -> Weights:
    return trained(seed=version).weights(version)


def matches(pairs: Sequence[tuple[str, str]]) -> list[Match]:
    """A match for each pair of (host, guest)."""
    plain = make_matches(ENV, dict.fromkeys(ENV.roles, ""), seed=0, num_matches=len(pairs), split="train")
    named = [dict(zip(ENV.roles, pair, strict=True)) for pair in pairs]
    return [replace(match, players=players) for match, players in zip(plain, named, strict=True)]


def conversations(worker: PlayWorker, pairs: Sequence[tuple[str, str]]) -> dict[str, Conversation]:
    return {played.conversation.id: played.conversation for played in worker.play(matches(pairs))}


def say_the_same(some: Mapping[str, Conversation], others: Mapping[str, Conversation]) -> None:
    assert some.keys() == others.keys()
    for name, conversation in some.items():
        for ours, theirs in zip(conversation.turns, others[name].turns, strict=True):
            assert ours.said.tolist() == theirs.said.tolist()
            np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)


LEAGUE = [("learner", "past:1"), ("past:2", "learner"), ("learner", "frozen"), ("learner", "learner")] * 2


def in_a_league(worker: PlayWorker) -> PlayWorker:
    worker.load(adapter(3))
    worker.meet({f"past:{version}": adapter(version) for version in (1, 2)})
    return worker


def test_unmerged_adapters_play_the_games_of_merged_ones_and_transcripts_name_them():
    unmerged = conversations(in_a_league(started(plan(uses_adapters=True, plays_adapters=True))), LEAGUE)
    merged = conversations(in_a_league(started(plan(uses_adapters=True))), LEAGUE)
    say_the_same(unmerged, merged)
    seen = {
        (player.policy, player.version, player.trained)
        for conversation in unmerged.values()
        for player in conversation.players.values()
    }
    assert seen == {("learner", 3, True), ("past:1", 1, False), ("past:2", 2, False), ("frozen", 0, False)}


def test_whole_models_from_the_past_play_what_those_models_say():
    other = models.load("tiny:5", device="cpu").model
    worker = started(plan())
    worker.meet({"past:7": Weights(version=7, state=other.state_dict())})
    past = conversations(worker, [("past:7", "past:7")] * 3)
    say_the_same(past, conversations(started(plan("tiny:5")), [("learner", "learner")] * 3))
    assert {player.version for talk in past.values() for player in talk.players.values()} == {7}


@pytest.mark.parametrize("plays_adapters", [True, False])
def test_player_met_again_gets_the_new_weights_and_a_forgotten_one_is_unknown(plays_adapters: bool):
    worker = in_a_league(started(plan(uses_adapters=True, plays_adapters=plays_adapters)))
    pairs = [("learner", "past:1")] * 2
    before = [talk.turns[1].text for talk in conversations(worker, pairs).values()]
    worker.meet({"past:1": adapter(2)})
    assert before != [talk.turns[1].text for talk in conversations(worker, pairs).values()]
    say_the_same(conversations(worker, pairs), conversations(worker, [("learner", "past:2")] * 2))
    worker.forget(["past:1", "past:9", "learner"])
    with pytest.raises(UserError, match="has no player"):
        conversations(worker, pairs)
    assert len(conversations(worker, [("learner", "past:2")])) == 1


def test_run_that_starts_from_an_adapter_meets_that_adapter_as_frozen(tmp_path):
    trained(seed=1).save(tmp_path)
    chosen = plan(str(tmp_path), uses_adapters=True)
    assert chosen.model.is_adapter
    merged, unmerged = started(chosen), started(replace(chosen, plays_adapters=True))
    pairs = [("learner", "frozen"), ("frozen", "past:1")] * 2
    for worker in (merged, unmerged):
        # What the learner of such a run sends holds the first adapter already.
        worker.load(adapter(3))
        worker.meet({"past:1": adapter(1)})
    say_the_same(conversations(unmerged, pairs), conversations(merged, pairs))
    # Version 1 is the adapter that the run started from.
    alone = started(plan(uses_adapters=True, plays_adapters=True))
    alone.meet({"past:1": adapter(1)})
    say_the_same(conversations(unmerged, [("frozen", "frozen")] * 2), conversations(alone, [("past:1", "past:1")] * 2))


def test_worker_that_plays_adapters_holds_its_model_once():
    worker = started(plan(uses_adapters=True, plays_adapters=True))
    assert worker._engine is not None
    before = worker._engine.weight_bytes
    assert before == started(plan(has_frozen=False))._engine.weight_bytes
    assert worker._first_state == {}
    in_a_league(worker)
    one = sum(tensor.numel() * 4 for tensor in adapter(1).state.values())
    assert worker._engine.weight_bytes == before + 3 * one


def test_worker_without_a_policy_has_nothing_to_meet():
    worker = started(plan(has_policy=False, fixed=dict.fromkeys(ENV.roles, "scripted")))
    worker.meet({"past:1": adapter(1)})
    worker.forget(["past:1"])
    assert len(conversations(worker, [("scripted", "scripted")])) == 1
