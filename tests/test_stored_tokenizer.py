"""Tokenizers kept in a run folder: what single tokens read, and what is refused."""

import gzip
import json
import subprocess
import sys

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from selfplay.players import tokenizer_description, tokenizer_hash
from selfplay.stored_tokenizer import StoredTokenizer, load, store

DIGEST = "sha256:00ff00ff00ff00ff"


def test_each_token_of_the_tiny_model_is_a_byte_or_a_name(tiny, tmp_path):
    digest = tokenizer_hash(tiny)
    store(tmp_path, digest, tokenizer_description(tiny))
    found = load(tmp_path, digest)
    ids = tiny.tokenizer("<|im_start|>a é\n<|im_end|>", add_special_tokens=False)["input_ids"]
    # "é" is two bytes in UTF-8; neither alone is a character.
    assert found.texts(ids) == ["<|im_start|>", "a", " ", "\ufffd", "\ufffd", "\n", "<|im_end|>"]


def test_space_before_a_word_is_kept_where_the_decoder_drops_it_at_the_start_of_a_text():
    vocabulary = {"<unk>": 0, "\u2581": 1, "\u2581hello": 2, "lo": 3, "a": 4, "\u2581a": 5, "<0xC3>": 6}
    merges = [("\u2581", "a")]
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    to_text = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(to_text)
    made.add_special_tokens(["<s>"])
    made.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 7)])
    assert made.decode([2, 3]) == "hellolo"
    assert StoredTokenizer(made).texts([2, 3, 1, 6, 7]) == [" hello", "lo", " ", "\ufffd", "<s>"]


@pytest.mark.parametrize("id", [-1, 259, 10**9])
def test_id_of_no_token_is_shown_as_unknown(tiny, id):
    assert StoredTokenizer(tiny.tokenizer.backend_tokenizer).texts([id]) == ["\ufffd"]


def test_stored_file_is_what_a_model_folder_has(tiny, tmp_path):
    tiny.tokenizer.save_pretrained(tmp_path)
    path = store(tmp_path, DIGEST, tokenizer_description(tiny))
    assert path == tmp_path / "tokenizers/00ff00ff00ff00ff.json.gz"
    assert json.loads(gzip.decompress(path.read_bytes())) == json.loads((tmp_path / "tokenizer.json").read_text())


def test_stored_twice_a_tokenizer_is_written_once(tmp_path):
    path = store(tmp_path, DIGEST, "{}")
    before = path.stat().st_ino
    assert store(tmp_path, DIGEST, "{}").stat().st_ino == before


@pytest.mark.parametrize("digest", [None, "", "sha256:", DIGEST, "sha256:../../secret", "md5:00ff"])
def test_tokenizer_that_is_not_there_is_none(tmp_path, digest):
    assert load(tmp_path, digest) is None


@pytest.mark.parametrize(
    "content", [b"", b"no gzip", gzip.compress(b"{}"), gzip.compress(b"\xff"), gzip.compress(b"{}")[:-6]]
)
def test_tokenizer_that_cannot_be_read_is_none(tmp_path, content):
    store(tmp_path, DIGEST, "{}").write_bytes(content)
    assert load(tmp_path, DIGEST) is None


def test_reading_needs_neither_torch_nor_transformers(tiny, tmp_path):
    digest = tokenizer_hash(tiny)
    store(tmp_path, digest, tokenizer_description(tiny))
    program = (
        "import sys, pathlib\n"
        "from selfplay.stored_tokenizer import load\n"
        f"print(load(pathlib.Path(sys.argv[1]), {digest!r}).texts([256]))\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout == "['<|im_end|>']\n[]\n"
