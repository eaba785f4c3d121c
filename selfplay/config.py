"""Settings: what a command accepts, and how defaults, a preset, a file and words become one frozen record.

Precedence: defaults < the run that is gone on from < `preset=NAME` < `config=FILE.yaml` < the other words, of which
later ones win.  Scalars stay the text that was written until the field they belong to decides what they are, so
`model=123` is a name.
"""

from __future__ import annotations

import difflib
import importlib.resources
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from selfplay.dialog import Split
from selfplay.errors import UserError
from selfplay.interfaces import Sampling, View
from selfplay.plugins import PluginSpec, build_plugin, complete_spec
from selfplay.store import TOKENS_RULE, sampled_share
from selfplay.written import (
    Source,
    line_of,
    nearest,
    read_source,
    takes_text,
    value_of_word,
    with_booleans,
    wrong_value,
)

__all__ = [
    "EngineSettings",
    "PlaySettings",
    "PluginSpec",
    "SamplingSettings",
    "Settings",
    "TranscriptSettings",
    "build_plugin",
    "complete_spec",
    "preset_names",
    "preset_text",
    "read_config",
    "resolve",
    "sampling_of",
    "to_yaml",
]

FILE_WORDS = ("preset", "config")  # the words that name a file; a config wins over a preset
PRESETS = importlib.resources.files("selfplay") / "presets"


def _path_from_written(value: object) -> object:
    # Path("") would be the current folder: nobody who writes `out=` means that.
    if value == "":
        return None
    return str(value) if isinstance(value, int | float) else value


def _check_tokens(value: str) -> str:
    try:
        sampled_share(value)
    except UserError as error:
        raise ValueError(TOKENS_RULE) from error  # the settings name the key and the value themselves
    return value


WRITTEN_PATH = BeforeValidator(_path_from_written)


class Settings(BaseModel):
    """A frozen group of settings; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, allow_inf_nan=False)
    presets: ClassVar[str] = ""  # what the names of their presets begin with


class SamplingSettings(Settings):
    """How turns are sampled; the fields are those of `selfplay.interfaces.Sampling`."""

    temperature: float = Field(default=0.7, ge=0)  # 0: greedy; 1: the model's own distribution
    top_k: int = Field(default=0, ge=0)  # keep the k likeliest tokens; 0: all
    top_p: float = Field(default=1.0, gt=0, le=1)  # keep the likeliest tokens until their mass reaches top_p; 1: all
    min_p: float = Field(default=0.0, ge=0, lt=1)  # keep tokens at least min_p times as likely as the likeliest
    max_new_tokens: int = Field(default=48, ge=1)  # a turn's limit
    max_stream_tokens: int = Field(default=0, ge=0)  # a stream's limit; 0: the model's context


class EngineSettings(Settings):
    """Where and how wide the model runs."""

    device: str = "auto"  # auto: the GPU if there is one, else the CPU; or a torch device such as cpu, cuda:1
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: float32 on CPU, bfloat16 on a GPU
    threads: int = Field(default=0, ge=0)  # CPU threads; 0: all cores the process may use
    max_batch: int = Field(default=64, ge=1)  # streams that decode at once
    concurrency: int = Field(default=64, ge=1)  # conversations in flight


class TranscriptSettings(Settings):
    """What a run stores of each conversation besides its text."""

    tokens: Annotated[str, AfterValidator(_check_tokens)] = "all"  # all | evaluation | none | sample:<0..1>


class PlaySettings(Settings):
    """What `play` accepts."""

    presets: ClassVar[str] = "play/"

    seed: int = Field(default=0, ge=0)  # every draw derives from it
    conversations: int = Field(default=4, ge=1)  # how many to play
    group_size: int = Field(default=1, ge=1)  # conversations on each scenario; with several they can be compared
    out: Annotated[Path | None, WRITTEN_PATH] = None  # run folder; None: runs/<env>-<model>-<mmdd-HHMMSS>
    model: str = Field(default="smollm2-135m", min_length=1)  # a named model, a local Hugging Face folder, or a hub id
    players: dict[str, str] = {}  # role -> "policy", a model, "scripted", "human"; absent: "policy"
    env: PluginSpec = PluginSpec(name="chitchat")  # which game, and its settings
    view: View = "perspective"  # one stream a role, or one shared by both
    split: Split = "train"  # which scenarios
    sampling: SamplingSettings = SamplingSettings()
    engine: EngineSettings = EngineSettings()
    transcripts: TranscriptSettings = TranscriptSettings()
    from_: str = Field(default="", alias="from")  # RUN/ID of a stored conversation to continue; "": start afresh
    turn: int | None = Field(default=None, ge=0)  # with from: how many of its turns to keep; None: all
    best_of: int = Field(default=1, ge=1)  # candidates for each conversation, or turn; the best one stays
    by: str = ""  # the reward that says which is best, such as rm:FOLDER; "": the sum of `rewards`
    best_of_unit: Literal["conversation", "turn"] = "conversation"
    # Reward -> its weight, or gate: what conversations are scored with.  Empty: those of `by`.
    rewards: dict[str, float | Literal["gate"]] = {}
    runs: Annotated[Path, WRITTEN_PATH] = Path("runs")  # where run folders are looked up


SettingsT = TypeVar("SettingsT", bound=Settings)


def resolve(settings_class: type[SettingsT], words: Sequence[str], *, under: Source | None = None) -> SettingsT:
    """Return the settings that the words describe; `under` is what they change, instead of the bare defaults.

    Raises UserError with the key as the user wrote it, what is wrong with it and what would be right.
    """
    files, pairs = _split_words(words)
    sources = [] if under is None else [under]
    if "preset" in files:
        sources.append(_read_preset(files["preset"], prefix=settings_class.presets))
    if "config" in files:
        sources.append(read_config(files["config"]))
    tree: dict[str, Any] = {}
    for source in sources:
        tree = _merge(settings_class, tree, source.tree)
        _validate(settings_class, tree, source=source)
    written: dict[str, Any] = {}
    for key, text in pairs:
        _put(settings_class, written, key, text)
    tree = _merge(settings_class, _group_defaults(settings_class), {**_free_defaults(settings_class), **tree})
    return _validate(settings_class, _merge(settings_class, tree, written))


def _group_defaults(settings_class: type[Settings]) -> dict[str, Any]:
    """Return what a command's own default of a group sets: one key of `sampling` leaves the others as they are."""
    defaults = {name: field.default for name, field in settings_class.model_fields.items()}
    return {
        name: set_by_default
        for name, default in defaults.items()
        if isinstance(default, Settings) and (set_by_default := default.model_dump(exclude_unset=True))
    }


def _free_defaults(settings_class: type[Settings]) -> dict[str, Any]:
    """Return the defaults of the groups whose keys are free: a word such as `rewards.NAME=1` adds to them."""
    fields = settings_class.model_fields
    free = {name: field.default for name, field in fields.items() if get_origin(field.annotation) is dict}
    dumped = settings_class.model_construct(**free).model_dump(include=set(free)) if free else {}
    return {fields[name].alias or name: value for name, value in dumped.items()}


def to_yaml(settings: Settings) -> str:
    """Return every setting as YAML; read back with `config=`, it gives equal settings."""
    tree = settings.model_dump(mode="json", by_alias=True)
    return yaml.safe_dump(with_booleans(tree), sort_keys=False, allow_unicode=True, width=120)


def sampling_of(settings: PlaySettings) -> Sampling:
    """Return the sampling settings as the record that generators read."""
    return Sampling(**settings.sampling.model_dump())


def preset_names() -> list[str]:
    """Return the names of all presets, sorted; those of `play` begin with "play/"."""
    places = {"": PRESETS, "play/": PRESETS / "play"}
    files = [(prefix, entry.name) for prefix, place in places.items() for entry in place.iterdir()]
    return sorted(prefix + name.removesuffix(".yaml") for prefix, name in files if name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """Return a preset's YAML, comments included."""
    if name not in preset_names():
        raise UserError(f"preset={name}: no preset has that name{nearest(name, preset_names())}")
    return PRESETS.joinpath(*f"{name}.yaml".split("/")).read_text(encoding="utf-8")


# ----- words -----


def _split_words(words: Sequence[str]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    files, pairs = {}, []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UserError(f"{word!r} is not a setting: expected key=value, for example conversations=8")
        if key in FILE_WORDS:
            files[key] = text
        else:
            pairs.append((key, text))
    return files, pairs


def _put(settings_class: type[Settings], tree: dict[str, Any], key: str, text: str) -> None:
    """Add one word to the tree of all words."""
    *parents, last = key.split(".")
    place: dict[str, Any] = tree
    kind: Any = settings_class
    for parent in parents:
        kind = _child_type(kind, parent)
        if not _has_keys(kind):
            raise UserError(f"{key}: unknown key; {parent} has no keys of its own")
        if not isinstance(place.get(parent), dict):
            place[parent] = {}
        place = place[parent]
    kind = _child_type(kind, last)
    is_plugin = kind is PluginSpec
    is_text = (takes_text(kind) and text not in ("null", "~")) or (is_plugin and not text.startswith("{"))
    value = text if is_text else value_of_word(key, text)
    if is_plugin and isinstance(value, str):
        # `env=NAME` is short for `env.name=NAME`, so that it goes with `env.max_turns=6` in either order.
        value = {**(place.get(last) or {}), "name": value}
    place[last] = value


def _has_keys(kind: Any) -> bool:
    is_group = isinstance(kind, type) and issubclass(kind, Settings | PluginSpec)
    return is_group or kind is None or get_origin(kind) is dict


def _read_preset(name: str, *, prefix: str) -> Source:
    own = [known.removeprefix(prefix) for known in preset_names() if known.startswith(prefix)]
    own = [known for known in own if "/" not in known]
    if name not in own:
        raise UserError(f"preset={name}: no preset has that name{nearest(name, own)}")
    return read_source(f"preset {name}", preset_text(prefix + name))


def read_config(path: str) -> Source:
    """Read the file that `config=path` names: raises UserError if it cannot be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"config={path}: there is no such file") from error
    except IsADirectoryError as error:
        raise UserError(f"config={path}: it is a folder") from error
    except OSError as error:
        raise UserError(f"config={path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"config={path}: cannot be read: {error}") from error
    return read_source(path, text)


def _child_type(kind: Any, key: str) -> Any:
    """Return the type of one key of a group, or None where the type is free or the key unknown."""
    if isinstance(kind, type) and issubclass(kind, Settings):
        fields = {field.alias or name: field for name, field in kind.model_fields.items()}
        return fields[key].annotation if key in fields else None
    if isinstance(kind, type) and issubclass(kind, PluginSpec):
        return kind.model_fields[key].annotation if key in kind.model_fields else None
    return get_args(kind)[1] if get_origin(kind) is dict else None


# ----- merging and checking -----


def _merge(settings_class: type[Settings], lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(lower)
    for key, value in upper.items():
        kind = _child_type(settings_class, key)
        if kind is PluginSpec:
            merged[key] = _merge_plugin(settings_class, key, merged.get(key), value)
        elif not isinstance(value, dict) or not isinstance(merged.get(key), dict):
            merged[key] = value
        elif isinstance(kind, type) and issubclass(kind, Settings):
            merged[key] = _merge(kind, merged[key], value)
        else:
            merged[key] = _merge_entries(merged[key], value)
    return merged


def _merge_entries(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Return free keys merged; where both hold keys of their own, those are merged too."""
    merged = dict(lower)
    for key, value in upper.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = {**merged[key], **value} if both else value
    return merged


def _merge_plugin(settings_class: type[Settings], key: str, lower: Any, upper: Any) -> Any:
    """Return the upper plug-in over the lower one; settings of another plug-in are dropped with its name."""
    default = settings_class.model_fields[key].default
    lower = lower or (default.model_dump() if isinstance(default, PluginSpec) else {})
    upper = {"name": upper} if isinstance(upper, str) else upper
    if not isinstance(upper, dict) or not isinstance(lower, dict):
        return upper
    return upper if upper.get("name", lower.get("name")) != lower.get("name") else {**lower, **upper}


def _validate(settings_class: type[SettingsT], tree: Mapping[str, Any], *, source: Source | None = None) -> SettingsT:
    try:
        return settings_class.model_validate(tree)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ""
        if source is not None:
            line = line_of(source, problem["loc"])
            where = f"{source.name}: " if line is None else f"{source.name}, line {line}: "
        raise UserError(where + _sentence(settings_class, problem)) from error


def _sentence(settings_class: type[Settings], problem: ErrorDetails) -> str:
    keys = [str(key) for key in problem["loc"]]
    whole = problem.get("ctx", {}).get("error")
    if isinstance(whole, UserError):  # a rule that several settings must keep together: it names them itself
        return str(whole)
    if problem["type"] == "extra_forbidden":
        return _unknown_key(settings_class, keys)
    return wrong_value(".".join(keys), problem)


def _unknown_key(settings_class: type[Settings], keys: Sequence[str]) -> str:
    group, known = ".".join([*keys[:-1], ""]), list(_known_keys(settings_class))
    siblings = [key.removeprefix(group) for key in known if key.startswith(group)]
    elsewhere = [key for key in known if key.rpartition(".")[2] == keys[-1]]
    close = [group + key for key in difflib.get_close_matches(keys[-1], siblings, n=1)]
    if not group:
        siblings = list(dict.fromkeys(key.split(".")[0] for key in [*known, *FILE_WORDS]))
        close = difflib.get_close_matches(keys[-1], siblings, n=1)
    hint = (elsewhere or close or [""])[0]
    choice = f"did you mean {hint}?" if hint else f"choose from {', '.join(group + key for key in siblings)}"
    return f"{'.'.join(keys)}: unknown key; {choice}"


def _known_keys(settings_class: type[Settings], prefix: str = "") -> Iterator[str]:
    for name, field in settings_class.model_fields.items():
        key = prefix + (field.alias or name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            yield from _known_keys(field.annotation, f"{key}.")
        else:
            yield key
