"""Adapters on their way to where the policy plays: the same numbers as peft's own, for every layout of weights."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedModel

from selfplay.errors import UserError
from selfplay.interfaces import Weights
from selfplay.learn.adapters import merged
from selfplay.learn.lora import AdapterPolicy, lora_config, merge_adapter
from selfplay.models import load

TOKENS = torch.tensor([[5, 9, 30, 7, 8]])


def tiny() -> PreTrainedModel:
    return load("tiny:2", device="cpu").model


def gpt2() -> PreTrainedModel:
    # Its attention's second layer is square and stored as [in, out]: a shape cannot tell which way it goes.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2))
    return model.eval().requires_grad_(False)


def trained(model: PreTrainedModel, *, rank: int = 4) -> AdapterPolicy:
    """A policy whose adapter changes something."""
    policy = AdapterPolicy(model, lora_config(rank=rank, alpha=8.0, targets="all-linear"), seed=0, base_name="base")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 10)
    return policy


@pytest.mark.parametrize("make", [tiny, gpt2])
def test_merged_weights_say_what_the_adapted_model_says(make):
    policy, plain = trained(make()), make()
    before = plain(TOKENS).logits
    plain.load_state_dict(merged(plain.state_dict(), policy.weights(3)))
    with torch.no_grad():
        torch.testing.assert_close(plain(TOKENS).logits, policy.model(TOKENS).logits, atol=1e-5, rtol=1e-4)
    assert (plain(TOKENS).logits - before).abs().max() > 0.01


@pytest.mark.parametrize("make", [tiny, gpt2])
def test_weights_have_the_documented_layout(make):
    policy, base = trained(make()), make().state_dict()
    weights = policy.weights(3)
    assert (weights.version, weights.adapter_scale) == (3, 2.0)  # alpha / rank
    for name in {key.rpartition(".")[0] for key in weights.state}:
        rows, columns = base[f"{name}.weight"].shape
        assert weights.state[f"{name}.lora_A"].shape == (4, columns)
        assert weights.state[f"{name}.lora_B"].shape == (rows, 4)


def test_merging_gives_the_same_bits_every_time_and_shares_what_is_not_adapted():
    policy, base = trained(tiny()), tiny().state_dict()
    first, second = (merged(base, policy.weights(1)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in base)
    assert first["model.norm.weight"] is base["model.norm.weight"]
    assert not torch.equal(first["model.layers.0.mlp.up_proj.weight"], base["model.layers.0.mlp.up_proj.weight"])


def test_new_adapter_changes_nothing():
    plain = tiny()
    policy = AdapterPolicy(tiny(), lora_config(rank=4, alpha=8.0, targets="q_proj, v_proj"), seed=0, base_name="base")
    assert torch.equal(policy.model(TOKENS).logits, plain(TOKENS).logits)
    assert {key.split(".")[-2] for key in policy.weights(0).state} == {"q_proj", "v_proj"}


def test_a_saved_adapter_is_one_that_plain_peft_loads(tmp_path):
    from peft import LoraConfig
    from peft.utils import set_peft_model_state_dict
    from safetensors.torch import load_file

    policy = trained(tiny())
    policy.save(tmp_path)
    assert LoraConfig.from_pretrained(str(tmp_path)).base_model_name_or_path == "base"
    other = AdapterPolicy(tiny(), LoraConfig.from_pretrained(str(tmp_path)), seed=5, base_name="base")
    result = set_peft_model_state_dict(other.model, load_file(tmp_path / "adapter_model.safetensors"))
    assert not result.unexpected_keys
    assert torch.equal(policy.model(TOKENS).logits, other.model(TOKENS).logits)


def test_merge_for_good_leaves_a_plain_model_that_says_the_same(tmp_path):
    policy, plain = trained(tiny()), tiny()
    policy.save(tmp_path)
    merge_adapter(plain, tmp_path)
    assert sorted(plain.state_dict()) == sorted(tiny().state_dict())
    torch.testing.assert_close(plain(TOKENS).logits, policy.model(TOKENS).logits, atol=1e-5, rtol=1e-4)


def test_adapter_of_another_model_is_refused():
    weights = trained(tiny()).weights(1)
    with pytest.raises(UserError, match="does not fit the model"):
        merged(gpt2().state_dict(), weights)


def test_weights_of_a_whole_model_come_back_as_they_are():
    state = tiny().state_dict()
    assert merged({}, Weights(version=1, state=state)) == state


def test_targets_that_no_model_has_or_adapters_must_leave_alone_are_refused():
    for targets, message in (("query", "lora.targets"), ("embed_tokens", "leave alone"), ("lm_head", "leave alone")):
        with pytest.raises(UserError, match=message):
            AdapterPolicy(tiny(), lora_config(rank=2, alpha=4.0, targets=targets), seed=0, base_name="base")
