"""Adapters that are played unmerged, many in one batch: what each says is what its merged model says alone."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.pytorch_utils import Conv1D

from selfplay import models
from selfplay.errors import UserError
from selfplay.generate.engine import TokenGenerator
from selfplay.generate.linear import can_pack
from selfplay.interfaces import Completion, Request, Weights
from selfplay.learn.adapters import merged
from tests.test_engine import FAMILIES, GREEDY, TO_THE_END, ask, continuation, logprobs_of, make, prompt, run

NOTHING = Weights(version=0, state={}, adapter_scale=1.0)


def inside(model: PreTrainedModel) -> dict[str, nn.Linear | Conv1D]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not model.get_output_embeddings()
    }


def adapter(
    model: PreTrainedModel, *, seed: int, version: int = 0, rank: int = 4, only: str = "", deviation: float = 0.25
) -> Weights:
    """Random factors for the layers with `only` in their names, in the orientation of each stored weight."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, layer in inside(model).items():
        if only in name:
            rows, columns = layer.weight.shape
            state[f"{name}.lora_A"] = torch.randn(rank, columns, generator=generator) * deviation
            state[f"{name}.lora_B"] = torch.randn(rows, rank, generator=generator) * deviation
    return Weights(version=version, state=state, adapter_scale=0.5)


def merged_model(family: str, weights: Weights) -> PreTrainedModel:
    model = make(family)
    model.load_state_dict(merged(model.state_dict(), weights))
    return model


def engine_for(model: PreTrainedModel, adapters: dict[str, Weights], **limits: int) -> TokenGenerator:
    engine = TokenGenerator(**limits)
    engine.add_policy("base", model, end_of_turn=(1,))
    for name, weights in adapters.items():
        engine.add_adapter(name, weights, of="base", version=weights.version)
    return engine


def agrees(completion: Completion, request: Request, model: PreTrainedModel) -> None:
    tokens = request.tokens.tolist() + completion.said.tolist()
    expected = logprobs_of(model, tokens, len(completion.said))
    torch.testing.assert_close(torch.from_numpy(completion.logprobs), expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_adapters_and_their_base_in_one_batch_say_what_their_merged_models_say(family: str):
    model = make(family)
    adapters = {f"past:{seed}": adapter(model, seed=seed) for seed in range(3)}
    engine = engine_for(model, adapters, max_tokens_per_step=40)
    policies = ["base", *adapters]
    requests = [ask(f"s{i}", prompt(4 + 5 * i, start=i), TO_THE_END, seed=i, policy=policies[i % 4]) for i in range(12)]
    done = run(engine, requests)
    alone = {"base": make(family), **{name: merged_model(family, weights) for name, weights in adapters.items()}}
    for request in requests:
        agrees(done[request.stream], request, alone[request.policy])
    # The adapters are no small change, so that the tolerance tells them apart.
    with pytest.raises(AssertionError):
        agrees(done["s1"], requests[1], alone["base"])


def test_adapters_in_one_batch_say_what_each_says_alone_over_several_turns():
    model = make("llama")
    adapters = {f"past:{seed}": adapter(model, seed=seed, rank=2 + seed) for seed in range(3)}
    together = engine_for(model, adapters)
    alone = {name: engine_for(model, {name: weights}) for name, weights in adapters.items()}
    for turn in range(3):
        requests = [
            ask(f"{name}/{i}", prompt(3 + 4 * i, start=i + turn), TO_THE_END, seed=i, policy=name)
            for i in range(3)
            for name in adapters
        ]
        done = run(together, requests)
        for request in requests:
            said = run(alone[request.policy], [request])[request.stream]
            assert done[request.stream].said.tolist() == said.said.tolist()
            np.testing.assert_allclose(done[request.stream].logprobs, said.logprobs, atol=1e-4)


def test_all_policies_of_a_model_are_fed_in_one_pass():
    model = make("llama")
    adapters = {f"past:{seed}": adapter(model, seed=seed) for seed in range(3)}
    engine = engine_for(model, adapters)
    passes: list[int] = []
    engine._versions["base"][0].playing.model.register_forward_pre_hook(lambda *_: passes.append(1))
    run(engine, [ask(name, prompt(9), TO_THE_END, policy=name) for name in ("base", *adapters)])
    # One for what was heard and the first token, then one for each of the nine others.
    assert len(passes) == 10


def test_openings_are_shared_within_an_adapter_and_not_between_adapters():
    model = make("llama")
    engine = engine_for(model, {"a": adapter(model, seed=0), "b": adapter(model, seed=1)})
    run(engine, [ask(f"{name}/{i}", prompt(20), TO_THE_END, policy=name) for name in ("a", "b") for i in range(3)])
    # 20 tokens open with two whole blocks of 8, copied by two of the three streams of each.
    assert engine.statistics.shared_tokens == 2 * 2 * 16


def test_adapter_of_some_layers_beside_one_of_others_changes_only_its_own():
    model = make("llama")
    adapters = {"attention": adapter(model, seed=0, only="self_attn"), "mlp": adapter(model, seed=1, only="mlp")}
    engine = engine_for(model, {**adapters, "nothing": NOTHING})
    done = run(engine, [ask(name, prompt(12), GREEDY, policy=name) for name in ("attention", "mlp", "nothing")])
    for name, weights in adapters.items():
        assert done[name].said.tolist() == continuation(merged_model("llama", weights), prompt(12), num=12)
    assert done["nothing"].said.tolist() == continuation(model, prompt(12), num=12)


def test_new_version_of_an_adapter_answers_new_streams_and_open_streams_keep_theirs():
    model = make("llama")
    old, new = adapter(model, seed=0), adapter(model, seed=1, version=1)
    engine = engine_for(model, {"policy": old, "other": adapter(model, seed=2)})
    first = run(engine, [ask("open", prompt(20), GREEDY)])["open"]
    engine.load("policy", new)
    requests = [ask("open", prompt(3), GREEDY), ask("fresh", prompt(20), GREEDY)]
    done = run(engine, [*requests, ask("beside", prompt(20), GREEDY, policy="other")])
    seen = prompt(20) + first.said.tolist() + prompt(3)
    assert (done["open"].version, done["fresh"].version) == (0, 1)
    assert done["open"].said.tolist() == continuation(merged_model("llama", old), seen, num=12)
    assert done["fresh"].said.tolist() == continuation(merged_model("llama", new), prompt(20), num=12)


def test_adapter_stays_what_it_was_when_the_learner_changes_its_own_copy():
    model = make("llama")
    weights = adapter(model, seed=0)
    engine = engine_for(model, {"policy": weights})
    expected = continuation(merged_model("llama", weights), prompt(12), num=12)
    for tensor in weights.state.values():
        tensor.add_(1.0)
    assert run(engine, [ask("a", prompt(12), GREEDY)])["a"].said.tolist() == expected


def test_removed_policy_finishes_its_open_streams_and_takes_no_new_ones():
    model = make("llama")
    weights = adapter(model, seed=0)
    engine = engine_for(model, {"past:1": weights})
    first = run(engine, [ask("open", prompt(9), GREEDY, policy="past:1")])["open"]
    engine.remove_policy("past:1")
    engine.remove_policy("past:1")
    second = run(engine, [ask("open", prompt(4), GREEDY, policy="past:1")])["open"]
    seen = prompt(9) + first.said.tolist() + prompt(4)
    assert second.said.tolist() == continuation(merged_model("llama", weights), seen, num=12)
    with pytest.raises(UserError, match="unknown policy 'past:1'"):
        engine.submit(ask("fresh", prompt(9), GREEDY, policy="past:1"))


def num_bytes(weights: Weights) -> int:
    return sum(tensor.numel() * 4 for tensor in weights.state.values())


def test_memory_is_the_base_once_and_the_adapters():
    model = make("gemma")  # its output layer is its embeddings
    parameters = sum(parameter.numel() * 4 for parameter in model.parameters())
    # What is packed is a copy of its own, of the output layer too.
    base = parameters + (model.lm_head.weight.numel() * 4 if can_pack() else 0)
    adapters = {f"past:{seed}": adapter(model, seed=seed, rank=seed + 1) for seed in range(8)}
    engine = engine_for(model, adapters)
    assert engine.weight_bytes == base + sum(map(num_bytes, adapters.values()))
    for name in list(adapters)[:6]:
        engine.remove_policy(name)
    assert engine.weight_bytes == base + num_bytes(adapters["past:6"]) + num_bytes(adapters["past:7"])


def test_versions_of_an_adapter_that_nobody_talks_to_are_dropped():
    model = make("llama")
    engine = engine_for(model, {"policy": adapter(model, seed=0)}, keeps_previous_version=False)
    before = engine.weight_bytes
    for version in range(1, 4):
        engine.load("policy", adapter(model, seed=version, version=version))
    assert engine.weight_bytes == before
    run(engine, [ask("open", prompt(9), GREEDY)])
    engine.load("policy", adapter(model, seed=4, version=4))
    assert engine.weight_bytes == before + num_bytes(adapter(model, seed=4))


def test_closed_streams_of_all_adapters_give_their_rows_back():
    model = make("llama")
    engine = engine_for(model, {f"past:{seed}": adapter(model, seed=seed) for seed in range(3)})
    for round_number in range(3):
        run(
            engine,
            [ask(f"{i}", prompt(20, start=round_number), TO_THE_END, policy=f"past:{i % 3}") for i in range(9)],
        )
        for i in range(9):
            engine.close(f"{i}")
        assert engine._versions["base"][0].cache.num_rows == 0


def test_adapter_that_computes_nan_fails_its_turn_and_no_other():
    model = make("llama")
    ill = adapter(model, seed=0)
    for tensor in ill.state.values():
        tensor.fill_(torch.nan)
    engine = engine_for(model, {"ill": ill, "well": adapter(model, seed=1)})
    requests = [ask(name, prompt(9), TO_THE_END, policy=name) for name in ("ill", "well", "base")]
    done = run(engine, requests)
    assert "not finite" in str(done["ill"].error)
    assert (done["well"].error, done["base"].error) == (None, None)


def test_added_whole_policy_says_what_its_model_says():
    other = make("gpt2")
    for parameter in other.parameters():
        parameter.data.mul_(1.2)
    engine = engine_for(make("gpt2"), {})
    engine.add_whole("past:3", Weights(version=3, state=other.state_dict()), of="base")
    done = run(engine, [ask("a", prompt(9), GREEDY, policy="past:3")])["a"]
    assert (done.version, done.said.tolist()) == (3, continuation(other, prompt(9), num=12))


def changed(weights: Weights, **state: torch.Tensor) -> Weights:
    kept = {name: tensor for name, tensor in weights.state.items() if name not in state}
    return Weights(version=0, state={**kept, **state}, adapter_scale=1.0)


def test_adapters_that_do_not_fit_are_refused_by_their_layers_name():
    model = make("llama")
    engine, fine = engine_for(model, {}), adapter(model, seed=0)
    q = "model.layers.0.self_attn.q_proj"
    head = {"lm_head.lora_A": torch.ones(2, 32), "lm_head.lora_B": torch.ones(97, 2)}
    refused = {
        "q_proj' does not fit": changed(fine, **{f"{q}.lora_A": torch.ones(4, 31)}),
        "q_proj' does not fit the": Weights(
            version=0, state={f"{q}.lora_A": torch.ones(2, 32), f"{q}.lora_B": torch.ones(32, 3)}, adapter_scale=1.0
        ),
        "k_proj.*does not fit": Weights(
            version=0, state={"model.layers.0.self_attn.k_proj.lora_A": torch.ones(2, 32)}, adapter_scale=1.0
        ),
        "elsewhere.*does not fit": changed(fine, **{"elsewhere.lora_A": torch.ones(1, 1)}),
        "'lm_head'.*inside": changed(fine, **head),
        "'model.norm'.*inside": changed(fine, **{"model.norm.lora_A": torch.ones(1, 32)}),
        "not a whole model": Weights(version=0, state=model.state_dict()),
    }
    for words, weights in refused.items():
        with pytest.raises(UserError, match=words):
            engine.add_adapter("policy", weights, of="base", version=0)
    with pytest.raises(UserError, match="cannot be loaded into it"):
        engine.load("base", fine)


class TurnedAround(LlamaMLP):
    """Gives its layers the tokens in another order: right for each token, but not where adapters look for theirs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.flip(1)).flip(1)


def test_model_that_moves_tokens_about_is_refused_adapters_there_and_goes_on_without():
    model = make("llama")
    for layer in model.model.layers:
        layer.mlp.__class__ = TurnedAround
    engine = engine_for(model, {"attention": adapter(model, seed=0, only="self_attn")})
    for _ in range(2):
        with pytest.raises(UserError, match="with adapters than the adapted model for the family 'llama'"):
            engine.add_adapter("mlp", adapter(model, seed=1), of="base", version=0)
    done = run(engine, [ask("a", prompt(9), GREEDY, policy="base")])
    assert done["a"].said.tolist() == continuation(make("llama"), prompt(9), num=12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_adapters_on_a_gpu_say_what_their_merged_models_say(family: str):
    adapters = {f"past:{seed}": adapter(make(family), seed=seed) for seed in range(3)}
    engine = engine_for(make(family).to("cuda"), adapters)
    requests = [ask(f"s{i}", prompt(4 + 5 * i), TO_THE_END, policy=f"past:{i % 3}") for i in range(6)]
    done = run(engine, requests)
    for request in requests:
        agrees(done[request.stream], request, merged_model(family, adapters[request.policy]))


@pytest.mark.slow
def test_adapters_of_smollm2_in_one_batch_say_what_their_merged_models_say():
    try:
        model = models.load("smollm2-135m", device="cpu").model
    except UserError as error:
        pytest.skip(f"SmolLM2 is neither in the cache nor to be fetched: {error}")
    adapters = {f"past:{seed}": adapter(model, seed=seed, rank=8, only="7.", deviation=0.1) for seed in range(2)}
    engine = engine_for(model, adapters)
    requests = [ask(f"s{i}", prompt(5 + 8 * i), TO_THE_END, seed=i, policy=f"past:{i % 2}") for i in range(4)]
    done = run(engine, requests)
    before = model.state_dict()
    for number, weights in enumerate(adapters.values()):
        model.load_state_dict(merged(before, weights), assign=True)
        for request in requests[number::2]:
            agrees(done[request.stream], request, model)
