"""A language model with a head that makes one number of a dialog, or of each of a role's turns.

It is saved as what transformers and peft call a sequence classifier with one label::

    AutoModelForSequenceClassification.from_pretrained(FOLDER)                       # method=full
    AutoPeftModelForSequenceClassification.from_pretrained(FOLDER, num_labels=1)     # method=lora

Its logit for ``tokenizer.apply_chat_template(messages)`` is the raw number of the last message; `selfplay.reward_model.
lm_tokens` says where tokens differ.

Legend: D dialogs, T tokens of the longest, H hidden size, n numbers of all dialogs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfplay import models, trained
from selfplay.errors import UserError
from selfplay.learn.lora import AdapterPolicy
from selfplay.learn.model import hidden_states
from selfplay.learn.packing import is_packed, lay_out, pack_attention, packed_states
from selfplay.play import draw_seed
from selfplay.players import tokenizer_hash
from selfplay.reward_model import lm_files
from selfplay.reward_model.dialogs import Dialog
from selfplay.reward_model.lm_tokens import DialogTokens, Stream
from selfplay.reward_model.settings import FitSettings, Scope
from selfplay.train_settings import LoraSettings

if TYPE_CHECKING:
    from peft import LoraConfig

__all__ = ["LMScorer", "build_lm_scorer", "load_lm_scorer"]

DRAW_MEMBER = 2011  # first part of the spawn key: of what is random in a new member
# The policy's own, so that a backbone is trained as the policy is.
LORA = LoraSettings()
MOST_PADDED = 2  # times the tokens, of streams that are padded: what tokens_per_microbatch promises, at most twice
UNBOUNDED = 1 << 20  # tokens: a model that does not say what it can read


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """The adapter that is trained, and its form."""

    policy: AdapterPolicy
    config: LoraConfig


class LMScorer:
    """One member on a language model; see `selfplay.reward_model.scorer.Scorer`."""

    def __init__(
        self,
        loaded: models.LoadedModel,
        *,
        scope: Scope,
        max_tokens: int = 0,
        adapter: Adapter | None = None,
        written: Path | None = None,
    ) -> None:
        """Take over a sequence classifier with one label.

        max_tokens: of a dialog; 0: what the model can read.  adapter: what of the model is trained; None: what
        requires a gradient.  written: the folder that it was read from, unless it is trained.
        Raises UserError if the model cannot read so many tokens, or its chat template cannot be used.
        """
        self.model = loaded.model
        self.tokenizer = loaded.tokenizer
        self.tokenizer_hash = tokenizer_hash(loaded)  # tells its tokenizer and chat template from others
        size = _room(loaded, max_tokens)
        self._tokens = DialogTokens(loaded.tokenizer, model_name=loaded.name, scope=scope, max_tokens=size)
        self._adapter = adapter
        self._written = written
        self._truncated: set[str] = set()
        _choose_padding(self.model, self.tokenizer, self._tokens.final_tokens)

    @property
    def scope(self) -> Scope:
        """What a number is about."""
        return self._tokens.scope

    @property
    def num_truncated(self) -> int:
        """How many different dialogs lost old messages."""
        return len(self._truncated)

    @property
    def max_tokens(self) -> int:
        """How many tokens of a dialog it reads."""
        return self._tokens.max_tokens

    def read(self, dialogs: Sequence[Dialog]) -> list[Tensor]:
        """Return each dialog's numbers, in order; what dialogs begin with alike is computed once, on a CPU."""
        if not dialogs:
            return []
        streams = [self._tokens.stream(dialog) for dialog in dialogs]
        for dialog, stream in zip(dialogs, streams, strict=True):
            if stream.is_truncated:
                self._truncated.add(dialog.key)
        places = [[place for place in stream.places if place >= 0] for stream in streams]
        states = self._states(streams, places)
        numbers = linear(states.float(), self._head.float())[:, 0]  # [n]
        return list(torch.split(numbers, [len(own) for own in places]))

    def size(self, dialog: Dialog) -> int:
        """Return how many tokens a dialog has."""
        return len(self._tokens.stream(dialog).tokens)

    def parameters(self) -> list[nn.Parameter]:
        """Return the head, then the adapter's factors or the model's parameters."""
        return list(self._trained().values())

    def state(self) -> Mapping[str, Tensor]:
        """Return a copy of what is trained."""
        return {name: parameter.detach().clone() for name, parameter in self._trained().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        with torch.no_grad():
            for name, parameter in self._trained().items():
                parameter.copy_(state[name])

    def save(self, folder: Path) -> None:
        """Write a folder that `load_lm_scorer`, transformers or peft reads."""
        if self._written is not None:
            lm_files.copy_files(self._written, folder)
        elif self._adapter is None:
            lm_files.save_classifier(self.model, folder)
        else:
            lm_files.save_adapter(self._adapter.policy, self._head, self._adapter.config, folder)
        self.tokenizer.save_pretrained(folder)

    @property
    def _head(self) -> nn.Parameter:
        return cast(nn.Parameter, cast(Any, self.model).score.weight)  # [1, H]

    def _trained(self) -> dict[str, nn.Parameter]:
        named = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        return {name: named[name] for name in sorted(named, key=lambda name: name != lm_files.HEAD)}

    def _states(self, streams: Sequence[Stream], places: Sequence[Sequence[int]]) -> Tensor:
        """Return the hidden states [n, H] at which numbers are read, dialog by dialog."""
        if not is_packed(self.model):
            return self._padded_states(streams, places)
        tokens, exists = _pad(streams, self.model.device)
        rows = torch.tensor([row for row, own in enumerate(places) for _ in own], device=tokens.device)
        columns = torch.tensor([place for own in places for place in own], device=tokens.device)
        # Each dialog keeps its last token for itself: one may be the beginning of another.
        is_last = exists.cumsum(dim=1) == exists.sum(dim=1, keepdim=True)
        layout = lay_out(tokens, exists, exists & is_last)
        return packed_states(self.model, layout)[layout.place[rows, columns]]

    def _padded_states(self, streams: Sequence[Stream], places: Sequence[Sequence[int]]) -> Tensor:
        """Return the same of a model whose streams cannot be packed: those of like length are read together."""
        found: dict[int, Tensor] = {}
        for numbers in _alike([len(stream.tokens) for stream in streams]):
            tokens, exists = _pad([streams[number] for number in numbers], self.model.device)
            states = hidden_states(self.model, tokens, exists=exists)  # [D, T, H]
            found |= {number: states[row, list(places[number])] for row, number in enumerate(numbers)}
        return torch.cat([found[number] for number in range(len(streams))])


def build_lm_scorer(name: str, *, scope: Scope, settings: FitSettings, seed: int, say: models.Say) -> LMScorer:
    """Return a new member on a model: with a random head, and a new adapter with method=lora.

    Raises UserError if there is no such model, or it cannot be had as a classifier.
    """
    is_full = settings.method == "full"
    loaded = models.load(name, dtype=_dtype(is_full=is_full), say=say, runs=settings.runs)
    head_seed, adapter_seed = (draw_seed(seed, (DRAW_MEMBER, part), bits=32) for part in (0, 1))
    loaded = _as_classifier(loaded, seed=head_seed)
    adapter = None
    if not is_full:
        config = lm_files.new_adapter_config(rank=LORA.rank, alpha=LORA.alpha)
        adapter = _adapter(loaded, config, seed=adapter_seed, base_name=str(loaded.folder or name))
    _let_train(loaded.model, adapter)
    return LMScorer(loaded, scope=scope, max_tokens=settings.max_tokens, adapter=adapter)


def load_lm_scorer(
    folder: Path, *, base: str, scope: Scope, is_trainable: bool, settings: FitSettings | None
) -> LMScorer:
    """Return what a member's `save` wrote.

    base: the model that its adapter belongs to, as `build_lm_scorer` took it; a folder of method=full needs none.
    is_trainable: to go on from; else an adapter is merged, and nothing can be trained.
    Raises UserError for a folder that holds none, lacks the head, or does not fit the base or the settings.
    """
    settings = settings or FitSettings()
    is_full = is_trainable and settings.method == "full"
    adapter = None
    if trained.is_adapter(folder):
        config = lm_files.read_adapter_config(folder)
        loaded = models.load(base, dtype=_dtype(is_full=is_full), runs=settings.runs)
        loaded = _as_classifier(loaded, seed=0)
        adapter = _adapter(loaded, config, seed=0, base_name=str(loaded.folder or base))
        lm_files.load_adapter(adapter.policy, cast(Any, loaded.model).score.weight, folder)
        if is_full or not is_trainable:
            lm_files.merge(loaded.model)
            adapter = None
    else:
        loaded = _load_whole(folder, is_full=is_full, is_trainable=is_trainable)
    if is_trainable:
        _let_train(loaded.model, adapter)
    return LMScorer(
        loaded,
        scope=scope,
        max_tokens=settings.max_tokens,
        adapter=adapter,
        written=None if is_trainable else folder,
    )


def _load_whole(folder: Path, *, is_full: bool, is_trainable: bool) -> models.LoadedModel:
    if not trained.is_model_folder(folder):
        raise UserError(f"{folder} holds no reward model: it has neither config.json nor adapter_config.json")
    if is_trainable and not is_full:
        raise UserError(
            f"the reward model {folder} was trained in full: method=lora cannot go on from it; method=full can"
        )
    loaded = lm_files.load_classifier(folder, dtype=_dtype(is_full=is_full))
    _pack(loaded.model)
    return loaded


def _as_classifier(loaded: models.LoadedModel, *, seed: int) -> models.LoadedModel:
    model = lm_files.classifier(loaded, seed=seed)
    _pack(model)
    return replace(loaded, model=model)


def _adapter(loaded: models.LoadedModel, config: LoraConfig, *, seed: int, base_name: str) -> Adapter:
    policy = AdapterPolicy(loaded.model, config, seed=seed, base_name=base_name)
    return Adapter(policy=policy, config=config)


def _let_train(model: PreTrainedModel, adapter: Adapter | None) -> None:
    if adapter is None:
        model.requires_grad_(True)
    cast(Any, model).score.requires_grad_(True)


def _pack(model: PreTrainedModel) -> None:
    if model.device.type == "cpu":
        # On a GPU a call for every stream costs more than padding.
        pack_attention(model)


def _dtype(*, is_full: bool) -> str:
    # Small steps would be lost in the rounding of bfloat16.
    return "float32" if is_full else "auto"


def _room(loaded: models.LoadedModel, max_tokens: int) -> int:
    """Return how many tokens of a dialog the model shall read."""
    config: Any = loaded.model.config.get_text_config()
    can = int(getattr(config, "max_position_embeddings", None) or UNBOUNDED)
    if max_tokens > can:
        raise UserError(f"max_tokens={max_tokens}: the model {loaded.name} reads at most {can}")
    return max_tokens or can


def _choose_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, final: Collection[int]) -> None:
    """Make sure that transformers, which reads the last token that is no padding, reads the one that we read."""
    special = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, *tokenizer.all_special_ids]
    possible = [id for id in special if id is not None and id not in final]
    if possible:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(possible[0])
        model.config.get_text_config().pad_token_id = possible[0]


def _alike(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Yield the numbers of streams, the longest first, in lists whose padding is at most as long as their tokens."""
    part: list[int] = []
    total = 0
    for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        if part and sizes[part[0]] * (len(part) + 1) > MOST_PADDED * (total + sizes[number]):
            yield part
            part, total = [], 0
        part.append(number)
        total += sizes[number]
    yield part


def _pad(streams: Sequence[Stream], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return tokens and what of them exists, right-padded [D, T]."""
    sizes = [len(stream.tokens) for stream in streams]
    tokens = np.zeros((len(streams), max(sizes)), dtype=np.int64)
    for row, stream in zip(tokens, streams, strict=True):
        row[: len(stream.tokens)] = stream.tokens
    exists = np.arange(max(sizes)) < np.array(sizes)[:, None]
    return torch.from_numpy(tokens).to(device), torch.from_numpy(exists).to(device)
