"""Random models over bytes or letters: small enough to make anew each time, and the same each time for one seed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from selfplay.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["LETTERS", "make_tiny", "tiny_seed"]

TINY_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TINY_CONTEXT = 2048
TINY_WIDTH = 64
TINY_DEVIATION = 0.02  # of the initial weights, as the library's own
# One over the root of the width: what such a model says first depends on what it hears.  With 0.02 it hardly does, and
# neither role of a signalling game has anything to learn from the other.
LETTERS_DEVIATION = TINY_WIDTH**-0.5

# The capital consonants but V to Z: all that the model over letters reads or says.  Any message of it is one of them.
LETTERS = "BCDFGHJKLMNPQRST"
BYTES_NAME, LETTERS_NAME = "tiny", "tiny-letters"
NAME = re.compile(rf"({BYTES_NAME}|{LETTERS_NAME})(?::(.*))?", re.DOTALL)


def tiny_seed(name: str) -> int | None:
    """Return the seed in tiny, tiny:SEED, tiny-letters or tiny-letters:SEED; None: the name is no such model's.

    Raises UserError for what is no seed.
    """
    match = NAME.fullmatch(name)
    if match is None:
        return None
    if not re.fullmatch(r"[0-9]{0,9}", match[2] or ""):
        raise UserError(f"model={name}: the seed of {match[1]}:SEED must be a whole number from 0 to 999999999")
    return int(match[2] or 0)


def make_tiny(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return two Llama layers with random weights, and a tokenizer with one token a byte, or a letter.

    Over letters there is no token besides the 16: none that ends a turn, so a turn's limit does.
    """
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    seed = tiny_seed(name)
    assert seed is not None, name
    has_letters = name.startswith(LETTERS_NAME)
    tokenizer = _letter_tokenizer() if has_letters else _byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=TINY_WIDTH,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=TINY_CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # Making a model neither reads nor moves the global random state: the weights come from a generator of their own.
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    deviation = LETTERS_DEVIATION if has_letters else TINY_DEVIATION
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, deviation, generator=generator)
    ends = None if has_letters else tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    return model, tokenizer


def _byte_tokenizer() -> PreTrainedTokenizerBase:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())  # one printable symbol a byte
    backend = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=TINY_TEMPLATE,
        model_max_length=TINY_CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def _letter_tokenizer() -> PreTrainedTokenizerBase:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    # A character that is no token, and for which there is no unknown one, is dropped.
    backend = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(LETTERS)}, merges=[]))
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=TINY_CONTEXT, clean_up_tokenization_spaces=False
    )
