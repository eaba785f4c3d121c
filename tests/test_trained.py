"""Models that training runs wrote: found by RUN[@STEP], loaded here and by plain transformers and peft."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from selfplay import checkpoint, models, trained
from selfplay.commands import merge
from selfplay.commands.words import read_words
from selfplay.errors import UserError
from selfplay.interfaces import Weights
from selfplay.learn import adapters
from selfplay.store import RunWriter

TOKENS = torch.tensor([[72, 101, 108, 108, 111]])
LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
WEIGHT = "model.layers.0.self_attn.q_proj.weight"
# Two factors of rank 1, scaled by alpha / r = 2 / 1.
CONFIG = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 1, "lora_alpha": 2, "target_modules": ["q_proj"]}
# What a person would write who has never heard of this package.
PLAIN = """
import sys, torch, warnings
from transformers import AutoModelForCausalLM, AutoTokenizer
from peft import AutoPeftModelForCausalLM
kind, folder = sys.argv[1:]
model = (AutoPeftModelForCausalLM if kind == "peft" else AutoModelForCausalLM).from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
logits = model(input_ids=torch.tensor([tokenizer.encode("Hello")])).logits
print(float(logits.double().sum()), float(logits[0, -1].argmax()))
"""


def write_adapter(folder: Path, *, base: str, size: float = 0.5) -> None:
    """Write an adapter that adds a multiple of one matrix to each q_proj of tiny, by hand."""
    state = {}
    for layer in range(2):
        name = LAYER.replace("0", str(layer))
        state[f"{name}.lora_A.weight"] = torch.linspace(-1, 1, 64).reshape(1, 64)
        state[f"{name}.lora_B.weight"] = torch.linspace(0, size, 64).reshape(64, 1)
    save_file(state, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, "base_model_name_or_path": base}))
    models.load("tiny", device="cpu").tokenizer.save_pretrained(folder)


def write_full(folder: Path, *, seed: int) -> None:
    loaded = models.load(f"tiny:{seed}", device="cpu")
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """A folder of three runs: `full` with two checkpoints, `lora` with one on a base of its own, `play` with none."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs"
    for name in ("full", "lora", "play"):
        RunWriter.create(folder / name, {}, "").close()
    for seed in (1, 2):
        checkpoint.write(folder / "full", 10 * seed, lambda place, seed=seed: write_full(place, seed=seed))
    base = models.prepare_base("tiny:3", Path("runs/lora"))
    checkpoint.write(folder / "lora", 10, lambda place: write_adapter(place, base=str(base)))
    return folder


def logits_of(model) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


def plainly(kind: str, folder: Path) -> list[float]:
    command = [sys.executable, "-c", PLAIN, kind, str(folder)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    return [float(word) for word in answer.stdout.split()]


def ours(name: str) -> list[float]:
    loaded = models.load(name, device="cpu")
    with torch.no_grad():
        logits = loaded.model(torch.tensor([loaded.tokenizer.encode("Hello")])).logits
    return [float(logits.double().sum()), float(logits[0, -1].argmax())]


def test_run_is_its_newest_checkpoint_and_run_at_step_that_one(runs):
    for name, seed in (("full", 2), ("full@20", 2), ("full@10", 1), (f"{runs}/full@10", 1), ("full@000010", 1)):
        loaded = models.load(name, device="cpu")
        expected = models.load(f"tiny:{seed}", device="cpu").model
        assert torch.equal(logits_of(loaded.model), logits_of(expected))
        assert (loaded.name, loaded.folder.resolve()) == (name, runs / f"full/checkpoints/{10 * seed:06d}")
        assert loaded.adapter is None


def test_runs_are_looked_up_where_they_are_kept(runs, monkeypatch):
    monkeypatch.chdir("/")
    models.check_name("full@10", runs=runs)
    assert models.is_ready("lora", runs=runs)
    assert models.folder_of("lora", runs=runs) == runs / "lora/checkpoints/000010"
    with pytest.raises(UserError, match=r"^model=full: there is no such model"):
        models.check_name("full")


def test_adapter_is_merged_into_a_plain_model(runs):
    loaded = models.load("lora", device="cpu")
    base = models.load("tiny:3", device="cpu").model
    # W + alpha / r * B A, by hand
    added = 2 * torch.linspace(0, 0.5, 64).reshape(64, 1) @ torch.linspace(-1, 1, 64).reshape(1, 64)
    assert type(loaded.model) is type(base)
    assert loaded.model.state_dict().keys() == base.state_dict().keys()
    assert torch.equal(loaded.model.state_dict()[WEIGHT], base.state_dict()[WEIGHT] + added)
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert (loaded.folder.name, loaded.adapter) == ("000010", None)


def test_merged_model_is_the_one_that_played_in_training_bit_for_bit(runs):
    base = models.load("tiny:3", device="cpu").model.state_dict()
    stored = load_file(runs / "lora/checkpoints/000010/adapter_model.safetensors")
    state = {name.removeprefix("base_model.model.").removesuffix(".weight"): value for name, value in stored.items()}
    played = adapters.merged(base, Weights(version=10, state=state, adapter_scale=2.0))
    loaded = models.load("lora", device="cpu").model.state_dict()
    assert all(torch.equal(loaded[name], played[name]) for name in base)


def test_adapter_is_told_apart_from_its_base_when_not_merged(runs):
    loaded = models.load("lora", device="cpu", merged=False)
    assert torch.equal(logits_of(loaded.model), logits_of(models.load("tiny:3", device="cpu").model))
    assert loaded.name == "lora"
    assert loaded.adapter.resolve() == runs / "lora/checkpoints/000010"
    assert loaded.folder == runs / "lora/base"


def test_adapter_finds_its_base_in_a_run_that_was_moved(runs):
    expected = logits_of(models.load("lora", device="cpu").model)
    shutil.move(runs / "lora", runs / "moved")
    models.prepare_base("tiny:9", runs / "lora")  # another run in its old place
    assert torch.equal(logits_of(models.load("moved@10", device="cpu").model), expected)


def test_adapter_on_a_model_made_in_memory_or_on_another_run(runs, tmp_path):
    for number, base in enumerate(("tiny:3", str(runs / "full/checkpoints/000010"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_adapter(folder, base=base, size=0.0)
        assert torch.equal(
            logits_of(models.load(str(folder), device="cpu").model), logits_of(models.load(base, device="cpu").model)
        )


def test_prepare_base_is_for_models_without_a_folder_and_done_once(runs):
    base = runs / "lora/base"
    written = (base / "model.safetensors").stat()
    assert models.prepare_base("tiny:3", runs / "lora") == base
    assert (base / "model.safetensors").stat() == written
    assert models.prepare_base("smollm2-135m", runs / "full") is None
    assert not (runs / "full/base").exists()
    assert torch.equal(
        logits_of(models.load(str(base), device="cpu").model), logits_of(models.load("tiny:3", device="cpu").model)
    )


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [("plain", "full"), ("peft", "lora")])
def test_checkpoint_loads_without_this_package(runs, kind, name):
    assert plainly(kind, checkpoint.newest(runs / name)) == pytest.approx(ours(name), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("full@15", r"^model=full@15: run runs/full has no checkpoint 15; it has 10, 20$"),
        ("play", r"^model=play: run runs/play has no checkpoints; `train` writes one every"),
        ("ful@10", r"^model=ful@10: there is no run 'ful'; did you mean full\?$"),
        ("ful", r"^model=ful: there is no such model; did you mean full\? \(a model is one of .* RUN or RUN@STEP "),
        ("full@last", r"^model=full@last: there is no such model"),
        ("runs", r"^model=runs: this folder has no config\.json"),
    ],
)
def test_model_that_no_run_has_is_refused_with_what_there_is(runs, name, message):
    with pytest.raises(UserError, match=message):
        models.check_name(name)


@pytest.mark.parametrize(
    ("config", "step", "ending"),
    [
        ("checkpoints: {keep: 2}", 5, "has no checkpoint 5; it has 10, 20; older ones are deleted, and "),
        ("checkpoints: {keep: 2}", 15, "it has 10, 20$"),  # between them: nothing was deleted there
        ("checkpoints: {keep: 2}", 30, "it has 10, 20$"),
        ("checkpoints: {keep: 2}", 0, "it has 10, 20$"),  # never written
        ("checkpoints: {keep: 3}", 5, "it has 10, 20$"),  # there was room for it
        ("epochs: 3", 5, "it has 10, 20$"),  # imitation has no such setting
    ],
)
def test_step_before_the_kept_checkpoints_says_what_keeps_more(runs, config, step, ending):
    (runs / "full/config.yaml").write_text(config)
    with pytest.raises(UserError, match=ending) as caught:
        models.check_name(f"full@{step}")
    assert str(caught.value).endswith(" and checkpoints.keep= keeps more than 2") == ("deleted" in ending)


def test_step_that_neither_checkpoints_nor_the_league_have_says_what_keeps_more(runs):
    (runs / "full/config.yaml").write_text("checkpoints: {keep: 2}")
    shutil.copytree(runs / "full/checkpoints/000010", runs / "full/league/000003")
    assert models.folder_of("full@3") == Path("runs/full/league/000003")
    message = "has no checkpoint and no past policy 5; it has 3, 10, 20; older ones are deleted, and checkpoints.keep= "
    with pytest.raises(UserError, match=message):
        models.check_name("full@5")


def test_changed_checkpoint_is_never_loaded(runs):
    weights = runs / "full/checkpoints/000020/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(UserError, match=r"000020 is no whole checkpoint: its file model\.safetensors was changed"):
        models.load("full", device="cpu")


def test_local_model_folder_goes_before_a_run_of_that_name(runs, tmp_path):
    models.save(models.load("tiny:7", device="cpu"), tmp_path / "full")
    assert models.load("full", device="cpu").folder == Path("full")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state | {LAYER + ".lora_A.weight": torch.zeros(1, 63)}, "cannot be put on its base: "),
        (
            lambda state: state | {LAYER.replace("0", "7") + ".lora_A.weight": torch.zeros(1, 64)},
            "does not fit its base",
        ),
        (lambda state: dict(list(state.items())[:2]), "does not fit its base"),
    ],
    ids=["another shape", "more layers", "fewer layers"],
)
def test_adapter_that_does_not_fit_its_base_is_refused(tmp_path, change, message):
    write_adapter(tmp_path, base="tiny:3")
    file = tmp_path / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    with pytest.raises(UserError, match=message):
        models.load(str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{torn", r"adapter_config\.json cannot be read"),
        ("{}", "does not say which model the adapter belongs to"),
        (
            '{"base_model_name_or_path": "no-model"}',
            "the model that its adapter belongs to cannot be had: model=no-model:",
        ),
    ],
)
def test_adapter_without_a_base_is_refused(tmp_path, text, message):
    write_adapter(tmp_path, base="tiny")
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        models.load(str(tmp_path), device="cpu")


def test_save_writes_a_model_whole_and_over_nothing(tiny, tmp_path):
    models.save(tiny, tmp_path / "new/model")
    modes = {path.stat().st_mode for path in (tmp_path / "new/model").glob("*[nr]s*")}
    assert len(modes) == 1
    with pytest.raises(UserError, match=r"cannot write a model to .*/new: Directory not empty"):
        models.save(tiny, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.rglob(".*")) == []


def test_fingerprint_tells_weights_apart(runs):
    names = ("tiny:1", "tiny:2", "full@10", "lora")
    tiny1, tiny2, full10, lora = (models.fingerprint(models.load(name, device="cpu")) for name in names)
    unmerged = models.fingerprint(models.load("lora", device="cpu", merged=False))
    assert tiny1 == full10
    assert len({tiny1, tiny2, lora, unmerged, models.fingerprint(models.load("tiny:3", device="cpu"))}) == 5


def test_names_are_those_of_runs_with_checkpoints(runs):
    assert sorted(trained.names(runs)) == ["full", "lora"]
    assert trained.names(runs / "nowhere") == []


# ----- merge -----


def merged(*words: str) -> int:
    return merge.run(read_words(words))


@pytest.mark.parametrize(("name", "other"), [("lora", "full"), ("full@10", "full@20")])
def test_merged_folder_is_the_trained_model(runs, capsys, name, other):
    assert merged(name, "out=made/model") == 0
    assert capsys.readouterr().out.startswith(f"{name} is in made/model; talk to it with ")
    expected = logits_of(models.load(name, device="cpu").model)
    loaded = models.load("made/model", device="cpu")
    assert torch.equal(logits_of(loaded.model), expected)
    assert not torch.equal(logits_of(models.load(other, device="cpu").model), expected)
    assert loaded.tokenizer.encode("Hi") == models.load("tiny", device="cpu").tokenizer.encode("Hi")


@pytest.mark.slow
def test_merged_folder_loads_with_plain_transformers(runs, tmp_path):
    merged("lora", "out=model")
    assert plainly("plain", tmp_path / "model") == pytest.approx(ours("lora"), rel=1e-5)


def test_merge_answers_as_json(runs, capsys):
    merged("lora", f"runs={runs}", "out=model", "--json")
    assert json.loads(capsys.readouterr().out) == {"model": "lora", "folder": "model"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lora"], r"^out= is missing: the folder to write, such as out=my-model$"),
        (["out=x"], r"^expected one RUN, not 0; write selfplay merge RUN\[@STEP\] out=FOLDER$"),
        (["lora", "full", "out=x"], "^expected one RUN, not 2; "),
        (["lora", "outt=x"], r"^unknown setting 'outt'; did you mean out\?$"),
        (["lora@11", "out=x"], "^lora@11: run runs/lora has no checkpoint 11; it has 10$"),
        (["lora", "out=runs"], "^out=runs: there is something already; choose a new folder$"),
        (["play", "out=x"], "^play: run runs/play has no checkpoints; `train` writes one every [^;]*$"),
        (["nosuch@3", "out=x"], "^nosuch@3: there is no run 'nosuch'; "),
        (
            ["no", "out=x"],
            r"^no: there is no such model \(a model is one of .*\); the newest runs with checkpoints in ",
        ),
        (["ful", "out=x"], r"^ful: there is no such model; did you mean full\? .* runs/ are (full, lora|lora, full)$"),
        (["no", "out=x", "runs=nowhere"], "; no run in nowhere/ has checkpoints$"),
    ],
)
def test_wrong_words_are_refused_with_what_is_right(runs, words, message):
    with pytest.raises(UserError, match=message):
        merged(*words)
