"""Settings: defaults, presets, files and words, and what is said of wrong ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from envs import ENVS
from selfplay.commands.building import build_rewards
from selfplay.config import (
    PlaySettings,
    PluginSpec,
    SamplingSettings,
    build_plugin,
    complete_spec,
    preset_names,
    preset_text,
    resolve,
    sampling_of,
    to_yaml,
)
from selfplay.errors import UserError
from selfplay.interfaces import Sampling
from selfplay.train_settings import AlgorithmName, TrainSettings
from selfplay.written import read_source


@dataclass(frozen=True, slots=True, kw_only=True)
class Riddle:
    """A plug-in with one setting of each kind."""

    word: str = "sea"
    num_guesses: int = 3
    share: float = 0.5
    is_strict: bool = False
    hints: tuple[str, ...] = ()
    folder: Path | None = None

    def __post_init__(self) -> None:
        if self.num_guesses < 1:
            raise ValueError(f"num_guesses={self.num_guesses} must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Needy:
    depth: int


TABLE: dict[str, type] = {"riddle": Riddle, "needy": Needy}


def riddle(*words: str) -> object:
    return build_plugin(resolve(PlaySettings, ["env=riddle", *words]).env, TABLE)


def complaint(*words: str) -> str:
    with pytest.raises(UserError) as caught:
        resolve(PlaySettings, words)
    return str(caught.value)


def plugin_complaint(*words: str) -> str:
    with pytest.raises(UserError) as caught:
        riddle(*words)
    return str(caught.value)


# ----- precedence -----


def test_resolve_without_words_gives_the_defaults():
    settings = resolve(PlaySettings, [])
    assert settings == PlaySettings()
    assert (settings.seed, settings.conversations, settings.model, settings.out) == (0, 4, "smollm2-135m", None)


def test_resolve_lets_words_win_over_file_over_preset(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("conversations: 11\nsampling: {temperature: 0.5, top_k: 7}\n")
    settings = resolve(PlaySettings, ["sampling.top_k=9", f"config={file}", "preset=tiny"])
    # preset tiny: model tiny, 8 conversations, 16 tokens; the file: 11 conversations, 0.5, 7; the word: 9
    assert (settings.model, settings.conversations) == ("tiny", 11)
    assert settings.sampling == SamplingSettings(temperature=0.5, top_k=9, max_new_tokens=16)


def test_resolve_of_a_word_given_twice_takes_the_later():
    assert resolve(PlaySettings, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    "words", [("env=riddle", "env.depth=3"), ("env.depth=3", "env=riddle"), ("env={name: riddle, depth: 3}",)]
)
def test_env_is_written_as_name_or_mapping_in_any_order(words):
    assert resolve(PlaySettings, words).env == PluginSpec(name="riddle", depth=3)


def test_env_in_a_file_may_be_its_name_alone(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("env: riddle\n")
    assert resolve(PlaySettings, [f"config={file}", "env.depth=3"]).env == PluginSpec(name="riddle", depth=3)


def test_another_env_drops_the_settings_of_the_one_in_the_file(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("env: {name: chitchat, max_turns: 8}\n")
    assert resolve(PlaySettings, [f"config={file}", "env.opener=Hi"]).env == PluginSpec(
        name="chitchat", max_turns=8, opener="Hi"
    )
    assert resolve(PlaySettings, [f"config={file}", "env=riddle"]).env == PluginSpec(name="riddle")


# ----- what scalars mean -----


def test_text_settings_keep_what_was_written():
    settings = resolve(
        PlaySettings, ["model=123", "out=2026", "players.host=007", "players.guest=no", "from=1/000000-g00-0"]
    )
    assert (settings.model, settings.out, settings.from_) == ("123", Path("2026"), "1/000000-g00-0")
    assert settings.players == {"host": "007", "guest": "no"}


def test_text_settings_keep_what_was_written_in_a_file(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("model: 123\nout: 2026\nplayers: {host: 007, guest: no}\n")
    settings = resolve(PlaySettings, [f"config={file}"])
    assert (settings.model, settings.out, settings.players) == ("123", Path("2026"), {"host": "007", "guest": "no"})


def test_plugin_settings_become_what_the_field_is():
    words = (
        "env.word=007",
        "env.num_guesses=6",
        "env.share=1e-1",
        "env.is_strict=yes",
        "env.hints=[wet, 3, no]",
        "env.folder=9",
    )
    expected = Riddle(word="007", num_guesses=6, share=0.1, is_strict=True, hints=("wet", "3", "no"), folder=Path("9"))
    assert riddle(*words) == expected


@pytest.mark.parametrize(
    "word",
    [
        *("true", "null-ish", "1.50", "#3", "a: b", "'x'", "é", "[smiles] Hello", "[1] #2"),
        *("{topic}", "{a} and {b}", "{topic}: a talk", "{a} {b: c}", "{topic:.2f}", "{}{}"),
    ],
)
def test_plugin_text_is_taken_as_it_stands(word):
    assert riddle(f"env.word={word}") == Riddle(word=word)


def test_a_word_that_begins_with_a_brace_is_text_unless_it_is_a_mapping():
    words = ["env={x}", "env.a={topic}", "env.briefs.host={nope}", "env.b={}", "env.c={x: 1}", 'env.d={"x":1}']
    env = resolve(PlaySettings, words).env
    assert env.name == "{x}"
    assert env.settings == {"a": "{topic}", "briefs": {"host": "{nope}"}, "b": {}, "c": {"x": 1}, "d": {"x": 1}}


@pytest.mark.parametrize("text", ["null", "~", ""])
def test_an_optional_setting_can_be_set_back_to_absent(text):
    assert resolve(PlaySettings, ["out=here", f"out={text}", "turn=null"]).out is None


# ----- round trips -----


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("preset=tiny",),
        ("model=007", "out=2026", "players.host=no", "env.topic=it's: #a day", "env.hints=[bye, no, 007, 1]"),
        ("env=riddle", "env.is_strict=true", "env.share=1e-7", "env.big=123456789012345678901", "env.none=null"),
        ("from=runs/a/000000-g00-0", "turn=3", "view=shared", "transcripts.tokens=sample:0.25", "sampling.top_p=1e-6"),
    ],
)
def test_to_yaml_read_back_gives_equal_settings(words, tmp_path):
    settings = resolve(PlaySettings, words)
    file = tmp_path / "resolved.yaml"
    file.write_text(to_yaml(settings), encoding="utf-8")
    assert resolve(PlaySettings, [f"config={file}"]) == settings


plugin_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["C"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=6,
)


@given(value=plugin_values)
def test_to_yaml_keeps_any_plugin_setting(value, tmp_path_factory):
    settings = PlaySettings(env=PluginSpec.model_validate({"name": "riddle", "value": value}))
    file = tmp_path_factory.mktemp("config") / "resolved.yaml"
    file.write_text(to_yaml(settings), encoding="utf-8")
    assert resolve(PlaySettings, [f"config={file}"]) == settings


def test_complete_spec_adds_the_defaults_and_builds_the_same_plugin():
    plugin = riddle("env.hints=[wet]", "env.is_strict=true")
    spec = complete_spec(PluginSpec(name="riddle"), plugin)
    assert spec.settings["num_guesses"] == 3
    assert build_plugin(spec, TABLE) == plugin


def test_sampling_of_copies_every_field():
    settings = resolve(PlaySettings, ["sampling.temperature=0.5", "sampling.min_p=0.1", "sampling.top_k=9"])
    assert sampling_of(settings) == Sampling(temperature=0.5, min_p=0.1, top_k=9)


# ----- presets -----


def test_preset_chat_spells_out_the_defaults():
    assert resolve(PlaySettings, ["preset=chat"]) == PlaySettings()
    assert resolve(TrainSettings, ["preset=chat"]) == TrainSettings()


def settings_of(preset):
    return PlaySettings if preset.startswith("play/") else TrainSettings


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_complete_and_begins_with_what_it_is(name):
    preset = preset_text(name)
    assert paths_of(yaml.safe_load(preset)) == paths_of(yaml.safe_load(to_yaml(settings_of(name)())))
    assert preset.startswith("# ")


def paths_of(tree, prefix=""):
    """Return the path of every setting; which rewards, and what an env takes, is a preset's own."""
    found = {prefix}
    for key, value in tree.items():
        is_free = key in ("rewards", "env")
        found |= {prefix + key} if is_free or not isinstance(value, dict) else paths_of(value, f"{prefix}{key}.")
    return found


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_names_an_env_that_builds(name):
    settings = resolve(settings_of(name), [f"preset={name.removeprefix('play/')}"])
    build_plugin(settings.env, ENVS)
    build_rewards(getattr(settings, "rewards", {}))


def test_the_settings_name_every_algorithm():
    from selfplay.learn.algorithms import ALGORITHMS

    assert set(get_args(AlgorithmName)) == set(ALGORITHMS)


def test_a_rewards_weight_and_settings_can_be_written_apart():
    settings = resolve(TrainSettings, ["rewards.question.form=way_off_policy", "rewards.question.weight=0.5"])
    assert (settings.rewards["question"].weight, settings.rewards["question"].settings) == (
        0.5,
        {"form": "way_off_policy"},
    )
    assert resolve(TrainSettings, ["rewards.payoff=2"]).rewards["payoff"].weight == 2


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("conversations=6", "conversations=6 must be a multiple of group_size=4"),
        ("block_size=6", "block_size=6 must be a multiple of group_size=4"),
        ("sampling.top_p=0.9", "sampling.top_p=0.9: training takes the model's whole distribution"),
        ("sampling.temperature=0", "sampling.temperature=0 always says the same, so nothing could be learned; try 1"),
        ("kl.estimator=k1", "kl.estimator=k1 with kl.place=loss: its gradient as a loss is zero on average"),
        ("kl.horizon=0", "kl.horizon=0: must be above 0"),
        ("learner.algorithm=pro", "learner.algorithm=pro: must be reinforce, rloo, grpo"),
        ("rewards.question=much", "rewards.question.weight=much: must be a number"),
        ("learner.learnin_rate=1", "learner.learnin_rate: unknown key; did you mean learner.learning_rate?"),
    ],
)
def test_training_refuses_what_cannot_be_trained_with(word, message):
    with pytest.raises(UserError) as caught:
        resolve(TrainSettings, [word])
    assert str(caught.value).startswith(message)


# ----- what is said of wrong words -----


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("sampling.temprature=1", "sampling.temprature: unknown key; did you mean sampling.temperature?"),
        ("temperature=1", "temperature: unknown key; did you mean sampling.temperature?"),
        ("cofig=a.yaml", "cofig: unknown key; did you mean config?"),
        ("seed.x=1", "seed.x: unknown key; seed has no keys of its own"),
        ("sampling.temperature=-1", "sampling.temperature=-1: must be at least 0"),
        ("sampling.top_p=0", "sampling.top_p=0: must be above 0"),
        ("sampling.top_p=1.5", "sampling.top_p=1.5: must be at most 1"),
        ("sampling.min_p=1", "sampling.min_p=1: must be below 1"),
        ("sampling.top_p=nan", "sampling.top_p=nan: must be a finite number"),
        ("seed=true", "seed=true: must be a whole number"),
        ("conversations=2.5", "conversations=2.5: must be a whole number"),
        ("view=both", "view=both: must be perspective or shared"),
        ("players=3", "players=3: must hold keys and values such as {a: b}"),
        ("sampling=3", "sampling=3: is a group of settings; give its keys, as in group.key=value"),
        ("env=", "env.name=: must not be empty"),
        ("seed=[1", "seed=[1: not a list or mapping such as [a, b] or {a: 1}"),
        ("chat", "'chat' is not a setting: expected key=value, for example conversations=8"),
        ("config=/no/such.yaml", "config=/no/such.yaml: there is no such file"),
        ("config=/", "config=/: it is a folder"),
        ("preset=caht", "preset=caht: no preset has that name; did you mean chat?"),
    ],
)
def test_a_wrong_word_is_named_with_what_would_be_right(word, expected):
    assert complaint(word) == expected


@pytest.mark.parametrize("text", ["sample:2", "sample:", "sample:x", "some", "sample:-1", "sample:1e9"])
def test_transcripts_tokens_refuses_what_is_no_share(text):
    assert complaint(f"transcripts.tokens={text}").startswith(
        f"transcripts.tokens={text}: must be all, evaluation, none"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "seed: 1\nsampling:\n  temprature: 1\n",
            "line 3: sampling.temprature: unknown key; did you mean sampling.temperature?",
        ),
        ("seed: 1\n\nsampling:\n  top_k: -1\n", "line 4: sampling.top_k=-1: must be at least 0"),
        ("seed: 1\nsampling: [1\n", "line 3: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("seed: 1\nseed: 2\n", "line 2: seed is given twice"),
        ("- 1\n", "line 1: expected `key: value` lines"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(text, expected, tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text(text)
    assert complaint(f"config={file}") == f"{file}, {expected}"


def test_a_value_inside_itself_is_refused(tmp_path):
    file = tmp_path / "loop.yaml"
    file.write_text("env:\n  briefs: {host: &a [*a]}\n")
    for word in ("env.briefs={host: &a [*a]}", f"config={file}"):
        assert "nested too deeply, or one is inside itself" in complaint(word)


def test_settings_lie_over_those_they_change(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 2\n")
    under = read_source("stored", "seed: 1\nview: shared\nenv: {name: chitchat, max_turns: 3}\n")
    settings = resolve(PlaySettings, [f"config={file}", "env.opener=Go."], under=under)
    assert (settings.seed, settings.view) == (2, "shared")
    assert settings.env.settings == {"max_turns": 3, "opener": "Go."}


def test_an_empty_file_changes_nothing(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("# nothing yet\n")
    assert resolve(PlaySettings, [f"config={file}"]) == PlaySettings()


# ----- plug-ins -----


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (
            "env.num_gueses=2",
            "env.num_gueses: unknown key; did you mean env.num_guesses? (riddle has word, num_guesses, "
            "share, is_strict, hints, folder)",
        ),
        ("env.num_guesses=few", "env.num_guesses=few: must be a whole number"),
        ("env.hints=wet", "env.hints=wet: must be a list such as [a, b]"),
        ("env.num_guesses=0", "env=riddle: num_guesses=0 must be at least 1"),
        ("env=needy", "env.depth: is missing; needy needs it"),
        (
            "env=ridle",
            "env=ridle: no env has that name; did you mean riddle? (there are needy, riddle; path/file.py:Name and "
            "package.module:Name work too)",
        ),
        ("env=no/file.py:Game", "env=no/file.py:Game: there is no file no/file.py"),
        ("env=no_such_module:Game", "env=no_such_module:Game: no module 'no_such_module' can be imported from here"),
        (
            "env=selfplay.dialog:Scenarios",
            "env=selfplay.dialog:Scenarios: selfplay.dialog has no Scenarios; did you mean Scenario?",
        ),
    ],
)
def test_a_wrong_plugin_word_is_named_with_what_would_be_right(word, expected):
    assert plugin_complaint(word) == expected


GAME = """
from dataclasses import dataclass
from selfplay.dialog import Split

@dataclass(frozen=True, slots=True, kw_only=True)
class Game:
    depth: int = 1
    split: "Split" = "train"
"""


def test_build_plugin_loads_a_file_by_path(tmp_path):
    file = tmp_path / "game.py"
    file.write_text(GAME)
    plugin = build_plugin(PluginSpec(name=f"{file}:Game", depth="4", split="held_out"), {})
    assert (plugin.depth, plugin.split) == (4, "held_out")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = 1\nb = (\n", "line 2: SyntaxError: '(' was never closed"),
        ("a = 1\nb = 1 / 0\n", "line 2: ZeroDivisionError: division by zero"),
        ("import no_such_module\n", "line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("import sys\nsys.exit(3)\n", "line 2: SystemExit: 3"),
        ("raise SystemExit\n", "line 1: SystemExit"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named_with_line_and_error(text, expected, tmp_path):
    file = tmp_path / "broken.py"
    file.write_text(text)
    assert plugin_complaint(f"env={file}:Game") == f"env={file}:Game: {file}, {expected}"


def test_a_file_without_the_right_class_is_told_which_classes_it_defines(tmp_path):
    file, empty = tmp_path / "my_game.py", tmp_path / "empty.py"
    file.write_text("from selfplay.dialog import Scenario\n\nclass Countdown: pass\n\nclass _Hidden: pass\n")
    empty.write_text("")
    assert plugin_complaint(f"env={file}") == f"env={file}: say which: {file}:Countdown"
    assert plugin_complaint(f"env={file}:Nope") == f"env={file}:Nope: {file} has no Nope; choose from Countdown"
    assert plugin_complaint(f"env={empty}") == f"env={empty}: {empty} defines no env"
    assert plugin_complaint("env=no_game.py") == "env=no_game.py: there is no file no_game.py"


def test_build_plugin_refuses_a_class_without_fields():
    with pytest.raises(UserError, match=r"env=selfplay.errors:UserError: UserError is not a frozen dataclass"):
        build_plugin(PluginSpec(name="selfplay.errors:UserError"), {})


def test_one_key_of_a_group_leaves_the_commands_own_defaults_of_the_others():
    # `train` samples at temperature 1, 24 tokens; the group by itself would at 0.7, 48 tokens.
    sampling = resolve(TrainSettings, ["sampling.max_new_tokens=30"]).sampling
    assert (sampling.temperature, sampling.max_new_tokens) == (1.0, 30)
    assert resolve(TrainSettings, ["sampling.temperature=0.9"]).sampling.max_new_tokens == 24


def test_one_key_of_a_group_in_a_file_leaves_the_commands_own_defaults_of_the_others(tmp_path):
    (tmp_path / "mine.yaml").write_text("sampling:\n  max_new_tokens: 30\n", encoding="utf-8")
    assert resolve(TrainSettings, [f"config={tmp_path / 'mine.yaml'}"]).sampling.temperature == 1.0
