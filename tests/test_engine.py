"""The engine against transformers: the same tokens, the same log-probabilities, whatever the batch."""

import numpy as np
import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.llama.modeling_llama import LlamaAttention

from selfplay.dialog import Conversation, Scenario
from selfplay.errors import UserError
from selfplay.generate.engine import TokenGenerator
from selfplay.interfaces import Completion, Request, Sampling, Weights

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
GROUPED = {**SHAPE, "num_key_value_heads": 2, "head_dim": 8}
GPT2_SHAPE = {
    "vocab_size": 97,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
FAMILIES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**{**SHAPE, "num_key_value_heads": 2})),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**GROUPED)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2_SHAPE)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**GROUPED, sliding_window=200)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**GROUPED)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**GROUPED, attn_logit_softcapping=5.0, sliding_window=128)),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE)),
}
CONVERSATION = Conversation(
    id="000000-g00-0", scenario=Scenario(env="test", seed=0, split="train", roles=("host", "guest"))
)
GREEDY = Sampling(temperature=0.0, max_new_tokens=12)
# Nothing ends a turn early, so that lengths are known.
TO_THE_END = Sampling(max_new_tokens=10, ignore_end_of_turn=True)


def make(family: str) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = FAMILIES[family]().eval().requires_grad_(False)
        # Random weights this small give flat logits, whose maximum rounding could move.
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.mul_(4.0)
    return model


@pytest.fixture(params=sorted(FAMILIES))
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return make(request.param)


def engine_for(model: PreTrainedModel, *, end_of_turn: tuple[int, ...] = (1,), **limits: int) -> TokenGenerator:
    engine = TokenGenerator(**limits)
    engine.add_policy("policy", model, end_of_turn=end_of_turn)
    return engine


def prompt(length: int, *, start: int = 2) -> list[int]:
    return [2 + (start + 7 * i) % 90 for i in range(length)]


def ask(stream: str, tokens: list[int], sampling: Sampling, *, seed: int = 0, policy: str = "policy") -> Request:
    return Request(
        conversation=CONVERSATION,
        role="host",
        policy=policy,
        stream=stream,
        tokens=np.array(tokens, dtype=np.int32),
        sampling=sampling,
        seed=seed,
    )


def run(engine: TokenGenerator, requests: list[Request]) -> dict[str, Completion]:
    for request in requests:
        engine.submit(request)
    done: dict[str, Completion] = {}
    for _ in range(2000):
        done.update({completion.request.stream: completion for completion in engine.step()})
        if len(done) == len(requests):
            return done
    raise AssertionError("the engine did not finish")


def continuation(model: PreTrainedModel, tokens: list[int], *, num: int) -> list[int]:
    row = torch.tensor([tokens])
    out = model.generate(
        row, attention_mask=torch.ones_like(row), do_sample=False, max_new_tokens=num, eos_token_id=1, pad_token_id=1
    )
    return out[0, len(tokens) :].tolist()


def logprobs_of(model: PreTrainedModel, tokens: list[int], num_last: int) -> torch.Tensor:
    logits = model(torch.tensor([tokens])).logits[0].float()
    logprobs = logits.log_softmax(dim=-1)[:-1].gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]
    return logprobs[-num_last:]


def test_greedy_turn_equals_generate(model: PreTrainedModel):
    done = run(engine_for(model), [ask("a", prompt(9), GREEDY)])
    assert done["a"].said.tolist() == continuation(model, prompt(9), num=12)


def test_greedy_turns_of_a_ragged_batch_equal_generate(model: PreTrainedModel):
    prompts = {f"s{i}": prompt(length, start=i) for i, length in enumerate((1, 5, 17, 17, 40))}
    done = run(engine_for(model), [ask(name, tokens, GREEDY) for name, tokens in prompts.items()])
    for name, tokens in prompts.items():
        assert done[name].said.tolist() == continuation(model, tokens, num=12), name


def test_greedy_continuation_over_three_turns_equals_generate(model: PreTrainedModel):
    engine, seen = engine_for(model, max_tokens_per_step=5), []
    for turn in range(3):
        heard = prompt(6 + turn, start=11 * turn)
        seen += heard
        said = run(engine, [ask("a", heard, GREEDY)])["a"].said.tolist()
        assert said == continuation(model, seen, num=12), f"turn {turn}"
        seen += said


def test_sampled_logprobs_equal_a_full_forward_pass(model: PreTrainedModel):
    requests = [ask(f"s{i}", prompt(4 + 9 * i, start=i), TO_THE_END, seed=i) for i in range(4)]
    done = run(engine_for(model), requests)
    for request in requests:
        completion = done[request.stream]
        tokens = request.tokens.tolist() + completion.said.tolist()
        expected = logprobs_of(model, tokens, len(completion.said))
        torch.testing.assert_close(torch.from_numpy(completion.logprobs), expected, atol=1e-4, rtol=0)


def test_streams_that_open_alike_are_prefilled_once_and_say_what_they_said_alone():
    model = make("llama")
    shared = prompt(33)
    requests = [ask(f"s{i}", shared + prompt(i, start=50 + i), TO_THE_END, seed=i) for i in range(6)]
    together = engine_for(model)
    done = run(together, requests)
    for request in requests:
        alone = run(engine_for(model), [request])[request.stream]
        assert done[request.stream].said.tolist() == alone.said.tolist()
    # 33 tokens are four whole blocks of 8, copied five times.
    assert together.statistics.shared_tokens == 5 * 32
    assert together.statistics.prefilled_tokens == sum(len(r.tokens) for r in requests) - 5 * 32


@pytest.mark.parametrize("limits", [{"max_batch": 1}, {"max_batch": 3}, {"max_tokens_per_step": 7}])
def test_turns_do_not_depend_on_batch_size_or_order(limits: dict[str, int]):
    model = make("llama")
    requests = [ask(f"s{i}", prompt(3 + 5 * i, start=i), TO_THE_END, seed=i) for i in range(8)]
    wide = run(engine_for(model), requests)
    narrow = run(engine_for(model, **limits), list(reversed(requests)))
    assert {s: c.said.tolist() for s, c in wide.items()} == {s: c.said.tolist() for s, c in narrow.items()}


def test_turn_ends_at_any_of_the_end_of_turn_tokens_which_is_said():
    model = make("llama")
    everything = tuple(range(97))
    done = run(engine_for(model, end_of_turn=everything), [ask("a", prompt(5), Sampling())])
    assert (len(done["a"].said), done["a"].finish) == (1, "stop")


def test_stream_limit_cuts_a_turn_and_refuses_the_next():
    engine = engine_for(make("llama"))
    sampling = Sampling(max_new_tokens=50, max_stream_tokens=20, ignore_end_of_turn=True)
    first = run(engine, [ask("a", prompt(12), sampling)])["a"]
    assert (len(first.said), first.finish) == (8, "token_limit")
    second = run(engine, [ask("a", prompt(1), sampling)])["a"]
    assert (len(second.said), second.finish) == (0, "token_limit")


@pytest.mark.parametrize(("family", "context"), [("llama", 256), ("mistral", 200), ("gemma2", 128), ("gpt2", 256)])
def test_context_that_fills_up_ends_the_turn_and_the_last_tokens_are_still_right(family: str, context: int):
    model = make(family)
    sampling = Sampling(max_new_tokens=500, ignore_end_of_turn=True)
    done = run(engine_for(model), [ask("a", prompt(context - 6), sampling)])["a"]
    assert (len(done.said), done.finish) == (6, "context_full")
    expected = logprobs_of(model, prompt(context - 6) + done.said.tolist(), 6)
    torch.testing.assert_close(torch.from_numpy(done.logprobs), expected, atol=1e-4, rtol=0)


def test_new_version_answers_new_streams_and_open_streams_keep_theirs():
    old, new = make("llama"), make("llama")
    for parameter in new.parameters():
        parameter.data.mul_(1.3)
    engine = engine_for(old)
    first = run(engine, [ask("open", prompt(20), GREEDY)])["open"]
    engine.load("policy", Weights(version=1, state=new.state_dict()))
    done = run(engine, [ask("open", prompt(3), GREEDY), ask("fresh", prompt(20), GREEDY)])
    seen = prompt(20) + first.said.tolist() + prompt(3)
    assert (done["open"].version, done["fresh"].version) == (0, 1)
    assert done["open"].said.tolist() == continuation(old, seen, num=12)
    assert done["fresh"].said.tolist() == continuation(new, prompt(20), num=12)


def test_version_stays_what_it_was_when_the_learner_changes_its_own_copy():
    model, learner = make("llama"), make("llama")
    engine = engine_for(model)
    engine.load("policy", Weights(version=1, state=dict(learner.named_parameters())))
    expected = continuation(learner, prompt(12), num=12)
    for changed in (model, learner):
        for parameter in changed.parameters():
            parameter.data.add_(0.5)
    assert run(engine, [ask("a", prompt(12), GREEDY)])["a"].said.tolist() == expected


def test_two_versions_with_one_number_do_not_mix():
    first, second = make("llama"), make("llama")
    for parameter in second.parameters():
        parameter.data.mul_(1.3)
    engine = engine_for(make("llama"))
    engine.load("policy", Weights(version=1, state=first.state_dict()))
    run(engine, [ask("x", prompt(9), GREEDY)])
    engine.load("policy", Weights(version=1, state=second.state_dict()))
    done = run(engine, [ask("y", prompt(9), GREEDY)])
    assert done["y"].said.tolist() == continuation(second, prompt(9), num=12)


def test_row_that_held_nan_is_clean_for_the_next_stream():
    model, broken = make("llama"), make("llama")
    engine = engine_for(model)
    broken.model.layers[0].self_attn.v_proj.weight.data.fill_(torch.nan)
    run(engine, [ask("other", prompt(40, start=3), TO_THE_END)])
    [version] = engine._versions["policy"]
    healthy, version.playing.model = version.playing.model, broken_twin(broken)
    assert run(engine, [ask("ill", prompt(30), TO_THE_END)])["ill"].error is not None
    version.playing.model = healthy
    engine.close("ill")
    # The longer neighbour makes the next stream of that row read, masked, what the row held before.
    done = run(engine, [ask("well", prompt(3, start=9), TO_THE_END), ask("other", prompt(40), TO_THE_END)])
    assert done["well"].error is None


def broken_twin(model: PreTrainedModel) -> PreTrainedModel:
    model.set_attn_implementation("selfplay_ragged")
    return model


def test_model_that_computes_nan_from_the_start_is_refused():
    model = make("llama")
    model.lm_head.weight.data.fill_(torch.nan)
    with pytest.raises(UserError, match="other logits"):
        engine_for(model)


def test_closed_stream_gets_no_completion():
    engine = engine_for(make("llama"))
    engine.submit(ask("a", prompt(300), GREEDY))
    engine.close("a")
    assert engine.step() == []


def test_opening_stays_shared_while_any_stream_holds_it():
    engine = engine_for(make("llama"))
    run(engine, [ask(f"s{i}", prompt(20), TO_THE_END, seed=i) for i in range(2)])
    engine.close("s0")
    before = engine.statistics.shared_tokens
    run(engine, [ask("s2", prompt(20), TO_THE_END, seed=2)])
    assert engine.statistics.shared_tokens - before == 16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_greedy_turns_on_a_gpu_equal_generate():
    model = make("llama").to("cuda")
    requests = [ask(f"s{i}", prompt(5 + 7 * i, start=i), GREEDY) for i in range(4)]
    done = run(engine_for(model), requests)
    for request in requests:
        row = torch.tensor([request.tokens.tolist()], device="cuda")
        out = model.generate(row, do_sample=False, max_new_tokens=12, eos_token_id=1, pad_token_id=1)
        assert done[request.stream].said.tolist() == out[0, row.shape[1] :].tolist()


def test_closed_streams_give_their_rows_back():
    engine = engine_for(make("llama"))
    run(engine, [ask(f"s{i}", prompt(30, start=i), TO_THE_END) for i in range(8)])
    largest = engine.statistics.cache_bytes
    for round_number in range(5):
        for i in range(8):
            engine.close(f"s{i}")
        run(engine, [ask(f"s{i}", prompt(30, start=i + round_number), TO_THE_END) for i in range(8)])
    assert engine.statistics.cache_bytes == largest
    for i in range(8):
        engine.close(f"s{i}")
    [version] = engine._versions["policy"]
    assert version.cache.num_rows == 0


def test_memory_of_a_cache_follows_what_streams_hold():
    engine = engine_for(make("llama"))
    run(engine, [ask("a", prompt(20), TO_THE_END), ask("b", prompt(5, start=3), TO_THE_END)])
    # 20 + 5 heard, 10 + 10 said of which the last is not fed; 2 key heads x 8 floats, keys and values, 2 layers.
    assert engine.statistics.cache_bytes == (20 + 5 + 9 + 9) * 16 * 4 * 2 * 2


def test_cache_rows_keep_what_they_hold_when_the_cache_grows():
    # The first room is 8 rows x 256 positions; 20 streams and a second, longer turn go beyond both.
    model = make("gpt2")
    engine = engine_for(model)
    prompts = {f"s{i}": prompt(20 + i, start=i) for i in range(20)}
    first = run(engine, [ask(name, tokens, GREEDY) for name, tokens in prompts.items()])
    second = run(engine, [ask("s7", prompt(190), GREEDY)])["s7"]
    seen = prompts["s7"] + first["s7"].said.tolist() + prompt(190)
    assert second.said.tolist() == continuation(model, seen, num=12)


def test_model_that_computes_nan_fails_its_turn_and_no_other():
    model, broken = make("llama"), make("llama")
    broken.lm_head.weight.data.fill_(torch.nan)
    engine = engine_for(model)
    engine.add_policy("broken", model, end_of_turn=(1,))
    engine.load("broken", Weights(version=1, state=broken.state_dict()))
    done = run(engine, [ask("a", prompt(5), TO_THE_END), ask("b", prompt(5), TO_THE_END, policy="broken")])
    assert done["a"].error is None
    assert "not finite" in str(done["b"].error)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: BloomForCausalLM(BloomConfig(vocab_size=97, hidden_size=32, n_layer=1, n_head=4)), "bloom.*ALiBi"),
        (lambda: MambaForCausalLM(MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=1)), "mamba.*state"),
    ],
)
def test_families_without_a_key_value_cache_are_refused_by_name(model, words: str):
    with pytest.raises(UserError, match=words):
        engine_for(model())


class OwnAttention(LlamaAttention):
    """Attention that does not ask transformers for its implementation, so the engine cannot step in."""

    def forward(self, hidden_states: torch.Tensor, **_: object) -> tuple[torch.Tensor, None]:
        return self.o_proj(self.q_proj(hidden_states).cumsum(dim=1)), None


def test_model_whose_attention_cannot_be_replaced_is_refused_because_its_logits_differ():
    model = make("llama")
    for layer in model.model.layers:
        layer.self_attn.__class__ = OwnAttention
    with pytest.raises(UserError, match="other logits than the model for the family 'llama'"):
        engine_for(model)


def test_unknown_policy_and_double_request_are_user_errors():
    engine = engine_for(make("llama"))
    with pytest.raises(UserError, match="unknown policy 'nobody'"):
        engine.submit(ask("a", prompt(3), GREEDY, policy="nobody"))
    engine.submit(ask("a", prompt(3), GREEDY))
    with pytest.raises(UserError, match="talking already"):
        engine.submit(ask("a", prompt(3), GREEDY))
