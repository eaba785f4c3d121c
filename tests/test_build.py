"""From settings to a learner: what is trained, what it stays near, and going on from a checkpoint."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from streams import sampled
from torch import Tensor
from transformers import AutoModelForCausalLM

from selfplay.errors import UserError
from selfplay.learn.build import build_algorithm, build_learner
from selfplay.learn.learner import Learner
from selfplay.models import load
from selfplay.train_settings import TrainSettings

RATE = {"learning_rate": 1e-2, "tokens_per_microbatch": 60}


def settings_of(*, steps: int = 10, **learner: Any) -> TrainSettings:
    groups = {name: learner.pop(name, {}) for name in ("kl", "lora")}
    return TrainSettings.model_validate({"model": "tiny:2", "steps": steps, "learner": {**RATE, **learner}, **groups})


def learner_of(*, adapter: Path | None = None, **settings: Any) -> Learner:
    return build_learner(replace(load("tiny:2", device="cpu"), adapter=adapter), settings_of(**settings))


def rows(**changes: Any):
    return sampled(load("tiny:2", device="cpu").model, **changes)


def copies(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


def test_adapters_are_trained_and_the_model_under_them_stays():
    loaded = load("tiny:2", device="cpu")
    before = copies(loaded.model.state_dict())
    learner = build_learner(loaded, settings_of())
    started = copies(learner.weights().state)
    learner.step(rows())
    after = loaded.model.state_dict()
    assert all(torch.equal(value, after[name.replace("_proj.", "_proj.base_layer.")]) for name, value in before.items())
    assert any(not torch.equal(value, started[name]) for name, value in learner.weights().state.items())


@pytest.mark.parametrize("method", ["lora", "full"])
def test_first_update_is_made_by_the_policy_that_sampled(method: str):
    metrics = learner_of(method=method).step(rows()).metrics
    assert metrics["learn/sampler_gap_nats"] < 1e-4
    assert metrics["learn/ratio_max"] == pytest.approx(1.0, abs=1e-4)
    assert abs(metrics["kl/per_token_nats"]) < 1e-5
    assert metrics["learn/stale_tokens"] == 0


@pytest.mark.parametrize("method", ["lora", "full"])
def test_reference_stays_the_model_that_training_started_from(method: str):
    learner, streams = learner_of(method=method), rows()
    before = learner.measure(streams)
    for _ in range(3):
        learner.step(streams)
    assert learner.measure(streams) == before
    assert before[0].kl == pytest.approx(0.0, abs=1e-4)


def trained_adapter(folder: Path) -> Path:
    learner = learner_of()
    for _ in range(3):
        learner.step(rows())
    learner.save(folder)
    return folder


@pytest.mark.parametrize("method", ["lora", "full"])
def test_reference_is_the_adapter_that_training_started_from(tmp_path, method: str):
    folder = trained_adapter(tmp_path)
    learner = learner_of(adapter=folder, method=method)
    streams = sampled(learner._policy.model)
    base = learner_of().measure(streams)
    # What the adapted model said is likely under itself, and not under the model without the adapter.
    assert learner.step(streams).metrics["kl/per_token_nats"] == pytest.approx(0.0, abs=1e-5)
    assert abs(base[0].kl) > 1e-3


def test_whole_model_is_saved_as_one_that_transformers_loads(tmp_path):
    learner = learner_of(method="full")
    learner.step(rows())
    learner.save(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    state = learner.weights().state
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
    assert plain.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "lora"},
        {"method": "full", "schedule": "cosine", "warmup_steps": 2},
        {"method": "lora", "baseline": "role_average", "kl": {"controller": "adaptive", "target": 0.01}},
        {"method": "full", "algorithm": "ppo", "epochs": 2, "minibatches": 2},
        {"method": "lora", "algorithm": "ppo", "value_model": "separate"},
    ],
    ids=str,
)
def test_restored_learner_goes_on_to_the_bit(tmp_path, changes: dict[str, Any]):
    streams = rows()
    learner, other = learner_of(**copy.deepcopy(changes)), learner_of(**copy.deepcopy(changes))
    for _ in range(2):
        learner.step(streams)
    learner.save(tmp_path)
    other.restore(tmp_path)
    assert learner.step(streams) == other.step(streams)
    theirs = other.weights().state
    assert all(torch.equal(value, theirs[name]) for name, value in learner.weights().state.items())


def test_restored_adapter_stays_near_the_adapter_it_started_from(tmp_path):
    start, saved = tmp_path / "start", tmp_path / "saved"
    start.mkdir(), saved.mkdir()
    trained_adapter(start)
    learner, other = learner_of(adapter=start), learner_of(adapter=start)
    learner.step(rows())
    learner.save(saved)
    other.restore(saved)
    assert learner.measure(rows()) == other.measure(rows())
    assert learner.step(rows()) == other.step(rows())
    with pytest.raises(UserError, match="was started from an adapter, and this is not"):
        learner_of().restore(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "grpo"}, r"trained with learner.algorithm=reinforce\+\+; going on with learner.algorithm=grpo"),
        ({"method": "full"}, r"learner.method=lora; going on with learner.method=full"),
    ],
)
def test_checkpoint_of_other_settings_is_refused(tmp_path, changes: dict[str, Any], message: str):
    learner_of().save(tmp_path)
    with pytest.raises(UserError, match=message):
        learner_of(**changes).restore(tmp_path)


def test_checkpoint_of_another_form_is_refused_and_changes_nothing(tmp_path):
    learner = learner_of()
    learner.step(rows())
    learner.save(tmp_path)
    other = learner_of(lora={"rank": 8})
    before = copies(other.weights().state)
    with pytest.raises(UserError, match="other parameters than this learner's"):
        other.restore(tmp_path)
    assert other.version == 0
    assert all(torch.equal(value, before[name]) for name, value in other.weights().state.items())


@pytest.mark.parametrize("gone", ["training.pt", "adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("is_torn", [False, True])
def test_checkpoint_with_a_missing_or_torn_file_is_refused_and_changes_nothing(tmp_path, gone: str, is_torn: bool):
    learner = learner_of()
    learner.step(rows())
    learner.save(tmp_path)
    content = (tmp_path / gone).read_bytes()
    (tmp_path / gone).write_bytes(content[: len(content) // 2]) if is_torn else (tmp_path / gone).unlink()
    other = learner_of()
    before = copies(other.weights().state)
    with pytest.raises(UserError, match=f"checkpoint .*{gone.partition('.')[0]}"):
        other.restore(tmp_path)
    assert other.version == 0
    assert all(torch.equal(value, before[name]) for name, value in other.weights().state.items())


def test_training_file_without_an_entry_is_refused(tmp_path):
    learner_of().save(tmp_path)
    contents = torch.load(tmp_path / "training.pt", weights_only=True)
    del contents["optimizer"]
    torch.save(contents, tmp_path / "training.pt")
    with pytest.raises(UserError, match="has no 'optimizer'"):
        learner_of().restore(tmp_path)


@pytest.mark.parametrize("changes", [{}, {"method": "full"}, {"algorithm": "ppo", "value_model": "separate"}], ids=str)
def test_recomputing_activations_changes_no_number(changes: dict[str, Any]):
    kept, recomputed = learner_of(**changes), learner_of(**changes, gradient_checkpointing=True)
    assert kept.step(rows()) == recomputed.step(rows())
    assert kept.step(rows()) == recomputed.step(rows())


def test_controller_that_is_off_never_charges_and_never_moves():
    learner = learner_of(kl={"controller": "off", "coefficient": 5.0})
    for _ in range(3):
        metrics = learner.step(rows()).metrics
    assert metrics["kl/coefficient"] == 0.0
    assert "loss/kl" not in metrics
    assert "kl/per_token_nats" in metrics


def test_settings_override_what_the_algorithms_name_stands_for():
    rule = build_algorithm(settings_of(algorithm="grpo", scale="none", clip=0.0, baseline="none", gamma=0.9))
    assert (rule.baseline, rule.scale, rule.clip, rule.gamma) == ("none", "none", 0.0, 0.9)
    kept = build_algorithm(settings_of(algorithm="grpo", scale="algorithm"))
    assert (kept.baseline, kept.scale, kept.clip) == ("group_mean", "group", 0.2)


@pytest.mark.parametrize(
    "wrong", [{"baseline": "batch"}, {"scale": "group"}, {"returns": "normalised_parts"}, {"clip": 0}]
)
def test_what_ppo_cannot_be_combined_with_is_refused(wrong: dict[str, Any]):
    [name] = wrong
    with pytest.raises(UserError, match=f"learner.{name}="):
        build_algorithm(settings_of(algorithm="ppo", **wrong))


@pytest.mark.parametrize("changes", [{}, {"method": "full"}, {"algorithm": "ppo", "method": "full"}], ids=str)
def test_gradient_does_not_depend_on_how_streams_are_packed(changes: dict[str, Any]):
    whole = learner_of(**{**changes, "tokens_per_microbatch": 10_000}).step(rows()).metrics
    single = learner_of(**{**changes, "tokens_per_microbatch": 1}).step(rows()).metrics
    for name in ("learn/gradient_norm", "loss/policy", "entropy/per_token_nats"):
        assert whole[name] == pytest.approx(single[name], rel=1e-4, abs=1e-6), name
