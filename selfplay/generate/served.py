"""Which models the engine serves: those whose logits it computes as they do themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from selfplay.errors import UserError
from selfplay.generate.adapters import AdaptedLinear, Adapter, Places, adapt_layers, restore_layers
from selfplay.generate.cache import Layout, RaggedCache, Segment, ragged_attention
from selfplay.generate.linear import Keeping, PackedLinear, copy_for_playing, copy_structure
from selfplay.interfaces import Weights
from selfplay.learn.adapters import FACTORS

ATTENTION = "selfplay_ragged"
# The engine's logits must agree with the model's own before it is used, relative to their spread.
SELF_TEST_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}
SELF_TEST_ENDS = (7, 11, 12)  # a prefill, another one, and a single token
SELF_TEST_RANK = 2
# Families whose position or state lives where a cache of keys and values cannot hold it.
UNSUPPORTED = {
    "bloom": "ALiBi positions",
    "mpt": "ALiBi positions",
    "mamba": "a state-space layer",
    "mamba2": "a state-space layer",
    "falcon_mamba": "a state-space layer",
    "jamba": "a state-space layer",
    "bamba": "a state-space layer",
    "zamba": "a state-space layer",
    "zamba2": "a state-space layer",
    "recurrent_gemma": "a recurrent layer",
    "rwkv": "a recurrent layer",
}


@dataclass(slots=True, kw_only=True)
class PlayingModel:
    """A model laid out for playing, and the cache of all streams that talk to it, whichever adapter it has for them."""

    model: PreTrainedModel  # packed where possible
    structure: PreTrainedModel  # the same without parameters: what a new version's are put into
    cache: RaggedCache
    context: int  # tokens that a stream may hold
    places: Places = field(default_factory=Places)

    @classmethod
    def of(cls, model: PreTrainedModel, *, parameters: Keeping) -> PlayingModel:
        """Lay a model out; parameters as in `selfplay.generate.linear.copy_for_playing`."""
        AttentionInterface.register(ATTENTION, cast(Any, ragged_attention))
        twin = copy_for_playing(model, parameters=parameters)
        twin.set_attn_implementation(ATTENTION)
        cache = RaggedCache(num_layers=int(text_config(model).num_hidden_layers))
        return cls(model=twin, structure=copy_structure(model), cache=cache, context=context_of(model))

    @property
    def weight_bytes(self) -> int:
        """All parameters, packed ones included; tied ones count once."""
        tensors: list[Tensor] = [*self.model.parameters()]
        for part in self.model.modules():
            if isinstance(part, PackedLinear):
                tensors += [part.packed] if part.bias is None else [part.packed, part.bias]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def adapter(self, weights: Weights) -> Adapter:
        """Return an adapter of this model, whose layers will heed it.

        Raises UserError if it does not fit, or the model computes something else with it in its layers.
        """
        adapter = Adapter.of(weights, structure=self.structure, device=self.model.device, dtype=self.model.dtype)
        new = adapt_layers(self.model, adapter.factors, places=self.places)
        if new:
            try:
                _check_adapters(self, new)
            except UserError:
                restore_layers(self.model, new)
                raise
        return adapter

    @torch.inference_mode()
    def logits(self, tokens: list[int], layout: Layout, keep: list[int], adapters: dict[int, Adapter]) -> Tensor:
        """Return logits [len(keep), V] of the flat row at the positions `keep`.

        adapters: those that the layout's segments name.
        """
        device = layout.rows.device
        self.places.now = [(adapters[number], start, end) for number, start, end in layout.parts]
        try:
            output = self.model(
                input_ids=torch.tensor([tokens], device=device),
                position_ids=layout.positions[None],
                use_cache=False,
                logits_to_keep=torch.tensor(keep, dtype=torch.int64, device=device),
                layout=layout,
            )
        finally:
            self.places.now = []
        return cast(Tensor, output.logits)[0]


def refuse_unsupported(model: PreTrainedModel) -> None:
    """Raise UserError, naming the family and the reason, for models whose state is not keys and values."""
    config: Any = model.config
    reason = UNSUPPORTED.get(config.model_type)
    if getattr(config, "alibi", False):
        reason = "ALiBi positions"
    if config.is_encoder_decoder:
        reason = "an encoder"
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds and reason is None:
        reason = f"layers of kind {', '.join(sorted(kinds))}"
    if reason:
        raise UserError(f"models of the family {config.model_type!r} have {reason}, which the engine does not serve")


def text_config(model: PreTrainedModel) -> Any:
    """Return the configuration of the language model: its own, or the part of a multimodal one."""
    return cast(Any, model.config).get_text_config()


def context_of(model: PreTrainedModel) -> int:
    """Return how many tokens a stream may hold: the model's positions, and within its sliding window if it has one."""
    config = text_config(model)
    limits = [getattr(config, "max_position_embeddings", None) or 2**20]
    uses_window = getattr(config, "use_sliding_window", True)
    if uses_window and getattr(config, "sliding_window", None):
        limits.append(config.sliding_window)
    return int(min(limits))


def check_model(model: PreTrainedModel, playing: PlayingModel) -> None:
    """Compare with the model's own forward pass.  Raises UserError, naming the family, if the logits differ."""
    family, tokens = cast(Any, model.config).model_type, _tokens(model)
    try:
        [ours] = _feed(playing, tokens, [None])
    except (AttributeError, TypeError, RuntimeError, IndexError) as error:
        raise UserError(f"the engine cannot run models of the family {family!r}: {error}") from error
    with torch.inference_mode():
        theirs = model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False).logits[0, -1].float()
    if not _agree(ours, theirs, model.dtype):
        raise UserError(
            f"the engine computes other logits than the model for the family {family!r}, so it does not serve it"
        )


def _check_adapters(playing: PlayingModel, names: Sequence[str]) -> None:
    """Compare streams of two adapters and of none, in one row, with each alone and its whole product added."""
    model = playing.model
    drawn = [_draw_adapter(playing, names, seed=seed) for seed in range(2)]
    adapters = [
        Adapter.of(weights, structure=playing.structure, device=model.device, dtype=model.dtype) for weights in drawn
    ]
    tokens = _tokens(model)
    together = _feed(playing, tokens, [adapters[0], None, adapters[1]])
    for ours, weights in zip((together[0], together[2]), drawn, strict=True):
        with _added(playing, weights):
            [theirs] = _feed(playing, tokens, [None])
        if not _agree(ours, theirs, model.dtype):
            family = cast(Any, model.config).model_type
            raise UserError(
                f"the engine computes other logits with adapters than the adapted model for the family {family!r}; "
                "merge them first"
            )


def _draw_adapter(playing: PlayingModel, names: Sequence[str], *, seed: int) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name in names:
        layer = cast(nn.Linear, playing.structure.get_submodule(name))
        rows, columns = layer.weight.shape
        state[name + FACTORS[0]] = torch.randn(SELF_TEST_RANK, columns, generator=generator) / columns**0.5
        state[name + FACTORS[1]] = torch.randn(rows, SELF_TEST_RANK, generator=generator) / 10
    return Weights(version=0, state=state, adapter_scale=1.0)


@contextmanager
def _added(playing: PlayingModel, weights: Weights) -> Iterator[None]:
    """Add the whole product of an adapter's factors to its layers, for every token."""
    with ExitStack() as stack:
        for name in {key.rpartition(".")[0] for key in weights.state}:
            factors = tuple(weights.state[name + factor] for factor in FACTORS)
            is_turned = isinstance(playing.structure.get_submodule(name), Conv1D)
            inside = cast(AdaptedLinear, playing.model.get_submodule(name)).layer
            hook = partial(_add_product, factors=factors, is_turned=is_turned)
            stack.callback(inside.register_forward_hook(hook).remove)
        yield


def _add_product(
    _: nn.Module, inputs: tuple[Tensor], outputs: Tensor, *, factors: tuple[Tensor, ...], is_turned: bool
) -> Tensor:
    product = (factors[1] @ factors[0]).to(outputs)
    return outputs + torch.matmul(inputs[0], product if is_turned else product.T)


def _tokens(model: PreTrainedModel) -> list[int]:
    return [(7 * i + 1) % int(text_config(model).vocab_size) for i in range(SELF_TEST_ENDS[-1])]


def _feed(playing: PlayingModel, tokens: list[int], adapters: Sequence[Adapter | None]) -> list[Tensor]:
    """Feed the tokens in pieces to one stream for each adapter; return their last logits [V]."""
    cache = RaggedCache(num_layers=playing.cache.num_layers)
    rows = [cache.take_row() for _ in adapters]
    cache.reserve(len(tokens))
    present = {number: adapter for number, adapter in enumerate(adapters, 1) if adapter is not None}
    for start, end in pairwise((0, *SELF_TEST_ENDS)):
        segments = [
            Segment(row=row, start=start, end=end, adapter=number if number in present else 0)
            for number, row in enumerate(rows, 1)
        ]
        layout = Layout(segments, cache=cache, device=playing.model.device)
        logits = playing.logits(tokens[start:end] * len(rows), layout, layout.last, present)
    return [logits[layout.order.index(i)].float() for i in range(len(rows))]


def _agree(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> bool:
    difference = float((ours - theirs).abs().max() / theirs.std().clamp_min(1e-6))
    # Written so that NaN, which compares as False, is refused.
    return difference <= SELF_TEST_TOLERANCE[dtype]
