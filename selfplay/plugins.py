"""Building an environment or a reward from its name and its settings."""

from __future__ import annotations

import copyreg
import dataclasses
import functools
import hashlib
import importlib
import importlib.metadata
import sys
import traceback
import types
import typing
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from selfplay.errors import UserError
from selfplay.written import as_written, nearest, takes_text, wrong_value

FILE_MODULE = "_plugin_"  # how the names of modules begin that were files
SOURCE = "__selfplay_source__"  # where such a module keeps its text
NEW = getattr(copyreg, "__newobj__")  # noqa: B009 (a class's body would mangle the name)
ENTRY_POINTS = {"env": "selfplay.envs", "reward": "selfplay.rewards"}


class PluginSpec(BaseModel):
    """A plug-in's name and its free settings, e.g. ``PluginSpec(name="chitchat", max_turns=6)``.

    Which settings there are is known when the plug-in is found: `build_plugin` checks them.  Values are kept as
    numbers, text, None, lists and mappings, the way a YAML file gives them back.
    """

    model_config = ConfigDict(extra="allow", frozen=True, coerce_numbers_to_str=True)

    name: str = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping):
            return {str(key): as_written(item) for key, item in value.items()}
        return value

    @property
    def settings(self) -> Mapping[str, Any]:
        """The free settings, without the name."""
        return self.model_extra or {}


def build_plugin(spec: PluginSpec, table: Mapping[str, Any], kind: Literal["env", "reward"] = "env") -> object:
    """Return the plug-in that a spec names, with its settings checked against the fields of its frozen dataclass.

    A reward may be a plain function: it becomes what the decorator `reward` makes of it.

    The name is looked up in the table, then among the entry points of `selfplay.envs` or `selfplay.rewards`, then
    read as `path/file.py:Name` or `package.module:Name`.
    """
    found = _find_plugin(spec.name, table, kind)
    if not isinstance(found, type):
        if spec.settings:
            raise UserError(f"{kind}.{next(iter(spec.settings))}: {kind} {spec.name} has no settings")
        return found
    values = _check_settings(found, spec, kind)
    try:
        return found(**values)
    except (ValueError, TypeError) as error:
        raise UserError(f"{kind}={spec.name}: {error}") from error


def own_line(plugin: object, error: BaseException) -> str:
    """Return where the code of a plug-in's author raised an error, as " (mine.py, line 7)"; "": not in their code."""
    own = _file_of(getattr(plugin, "function", plugin))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == own]
    return f" ({own.name}, line {frames[-1].lineno})" if own is not None and frames else ""


def _file_of(plugin: object) -> Path | None:
    """Return the file that defines a function, or an object's class; None: it is not known."""
    kind = plugin if isinstance(plugin, types.FunctionType) else type(plugin)
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return Path(file) if file else None


def source_digest(text: bytes) -> str:
    """Return what tells versions of a source apart: "sha256:..."."""
    return f"sha256:{hashlib.sha256(text).hexdigest()[:16]}"


def source_file(spec: PluginSpec) -> Path | None:
    """Return the file of a plug-in that is written as `path/file.py:Name`; None: it comes from a package."""
    place, _, attribute = spec.name.rpartition(":")
    return Path(place) if place.endswith(".py") and attribute else None


def complete_spec(spec: PluginSpec, plugin: object) -> PluginSpec:
    """Return the spec with every setting that the built plug-in has, defaults included."""
    if not dataclasses.is_dataclass(plugin):
        return spec
    settings = {field.name: getattr(plugin, field.name) for field in dataclasses.fields(plugin) if field.init}
    return PluginSpec.model_validate({**settings, "name": spec.name})


def spec_of(plugin: object) -> PluginSpec:
    """Return a spec that names an object where it was written: its class and settings, or the object itself.

    What was written in a script or at a prompt has a name too, but only there: it cannot be built again from it.
    """
    source = _attribute_of(plugin)
    if source is not None:
        return PluginSpec(name=f"{source[0].path}:{source[1]}")
    module = sys.modules.get(type(plugin).__module__)
    kind = type(plugin).__qualname__
    is_function = getattr(plugin, "function", None) is not None
    if is_function:
        function = plugin.function  # type: ignore[attr-defined]  # just asked
        return PluginSpec(name=f"{function.__module__}:{function.__qualname__}")
    name = f"{getattr(module, '__name__', '__main__')}:{kind}"
    return complete_spec(PluginSpec(name=name), plugin)


def installed_plugins(kind: Literal["env", "reward"]) -> dict[str, object]:
    """Return the plug-ins that installed packages offer as entry points, by name."""
    return {name: _load_point(point, kind) for name, point in _entry_points(kind).items()}


def _entry_points(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS[kind])}


def _load_point(point: importlib.metadata.EntryPoint, kind: str) -> Any:
    return _imported(point.load, name=point.module, prefix=f"{kind}={point.name}: ")


def _find_plugin(name: str, table: Mapping[str, Any], kind: str) -> Any:
    if name in table:
        return table[name]
    points = _entry_points(kind)
    if name in points:
        return _load_point(points[name], kind)
    place, colon, attribute = name.rpartition(":")
    if not colon and name.endswith(".py"):
        own = _own_plugins(_module(name, prefix=f"{kind}={name}: "))
        advice = f"say which: {' or '.join(f'{name}:{one}' for one in own)}" if own else f"{name} defines no {kind}"
        raise UserError(f"{kind}={name}: {advice}")
    if not colon:
        names = sorted({*table, *points})
        forms = f"there are {', '.join(names)}; path/file.py:Name and package.module:Name work too"
        raise UserError(f"{kind}={name}: no {kind} has that name{nearest(name, names, is_list_shown=False)} ({forms})")
    module = _module(place, prefix=f"{kind}={name}: ")
    if not hasattr(module, attribute):
        raise UserError(f"{kind}={name}: {place} has no {attribute}{nearest(attribute, _own_plugins(module))}")
    if kind != "reward":
        return getattr(module, attribute)
    try:
        return _as_reward(module, attribute)
    except UserError as error:
        raise UserError(f"{kind}={name}: {error}") from error


def _as_reward(module: types.ModuleType, attribute: str) -> Any:
    """Return a module's reward; a function becomes one in its place, so that it can be found there again."""
    found = getattr(module, attribute)
    if not isinstance(found, types.FunctionType):
        return found
    from selfplay.function_reward import reward

    made = reward(found)
    if module.__name__.startswith(FILE_MODULE):
        setattr(module, attribute, made)
    return made


def _module(place: str, *, prefix: str) -> types.ModuleType:
    if not place.endswith(".py"):
        module = _imported(functools.partial(importlib.import_module, place), name=place, prefix=prefix)
    elif Path(place).is_file():
        module = _imported(functools.partial(_import_file, Path(place)), name=place, prefix=prefix)
    else:
        raise UserError(f"{prefix}there is no file {place}")
    return cast("types.ModuleType", module)


def _own_plugins(module: types.ModuleType) -> list[str]:
    """Return the names of the public classes and functions, and of rewards made of functions, that a module defines."""
    home = f"{module.__name__}."
    public = {key: value for key, value in vars(module).items() if key[0] != "_"}
    classes = [
        key for key, value in public.items() if isinstance(value, type) and f"{value.__module__}.".startswith(home)
    ]
    made = [key for key, value in public.items() if not isinstance(value, type) and hasattr(value, "score")]
    functions = [key for key, value in public.items() if isinstance(value, types.FunctionType)]
    return classes + made + [key for key in functions if f"{public[key].__module__}.".startswith(home)]


def _imported(load: Callable[[], Any], *, name: str, prefix: str) -> Any:
    """Import somebody else's code; whatever it raises becomes one sentence with file, line and error."""
    try:
        return load()
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise UserError(f"{prefix}no module {error.name!r} can be imported from here") from error
        raise UserError(prefix + _import_failure(name, error)) from error


def _import_file(path: Path) -> types.ModuleType:
    # The path is part of the module's name: two games called game.py are two modules.
    name = f"{FILE_MODULE}{path.stem}_{zlib.crc32(str(path.resolve()).encode()):08x}"
    return _import_source(_Source(module=name, path=str(path), text=path.read_bytes()))


# ----- plug-ins that travel -----


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """The file that a plug-in was written in, as it was when it was imported."""

    module: str  # the name of its module
    path: str
    text: bytes


def make_portable(plugin: object) -> None:
    """Let a plug-in be unpickled where the file it was written in is not; one from a package needs that package there.

    The file's text travels with it and is run there once.  What that reads or imports by itself has to be there.
    """
    module = _file_modules().get(type(plugin).__module__)
    if module is not None:
        for kind in _own_types(module):
            copyreg.pickle(kind, _reduce_with_source)
    elif _attribute_of(plugin) is not None:
        copyreg.pickle(type(plugin), _reduce_with_source)


def _import_source(source: _Source) -> types.ModuleType:
    if source.module in sys.modules:
        return sys.modules[source.module]
    module = types.ModuleType(source.module)
    module.__file__ = source.path
    vars(module)[SOURCE] = source
    sys.modules[source.module] = module
    try:
        exec(compile(source.text, source.path, "exec", dont_inherit=True), vars(module))
    except BaseException:
        del sys.modules[source.module]
        raise
    return module


def _file_modules() -> dict[str, types.ModuleType]:
    return {name: module for name, module in sys.modules.items() if name.startswith(FILE_MODULE)}


def _own_types(module: types.ModuleType) -> list[type]:
    return [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__]


def _attribute_of(instance: object) -> tuple[_Source, str] | None:
    """Return where a file has this very object under a name, as a reward that decorates a function; None: nowhere."""
    for module in _file_modules().values():
        for name, value in vars(module).items():
            if value is instance:
                return vars(module)[SOURCE], name
    return None


def _reduce_with_source(instance: object) -> str | tuple[Any, ...]:
    place = _attribute_of(instance)
    if place is not None:
        return _get_from_source, place
    module = _file_modules().get(type(instance).__module__)
    reduced = instance.__reduce_ex__(2)
    if module is None or isinstance(reduced, str) or reduced[0] is not NEW:
        return reduced
    _, (kind, *arguments), *rest = reduced
    # The state is unpickled after this call, so whatever it holds of the module is found.
    return _new_from_source, (vars(module)[SOURCE], kind.__name__, *arguments), *rest


def _get_from_source(source: _Source, name: str) -> Any:
    return _as_reward(_import_source(source), name)


def _new_from_source(source: _Source, kind_name: str, *arguments: Any) -> Any:
    kind = getattr(_import_source(source), kind_name)
    return kind.__new__(kind, *arguments)


def _import_failure(name: str, error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    if isinstance(error, UserError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).resolve() == Path(name).resolve()]
    frame = (own or frames)[-1]
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"{frame.filename}, line {frame.lineno}: {what}"


def _check_settings(plugin: type, spec: PluginSpec, kind: str) -> dict[str, Any]:
    if not dataclasses.is_dataclass(plugin):
        raise UserError(f"{kind}={spec.name}: {plugin.__name__} is not a frozen dataclass")
    fields = {field.name: field for field in dataclasses.fields(plugin) if field.init}
    for key in spec.settings:
        if key not in fields:
            has = f"{spec.name} has {', '.join(fields) or 'no settings'}"
            hint = nearest(f"{kind}.{key}", [f"{kind}.{name}" for name in fields], is_list_shown=False)
            raise UserError(f"{kind}.{key}: unknown key{hint} ({has})")
    for name, field in fields.items():
        needs_value = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needs_value and name not in spec.settings:
            raise UserError(f"{kind}.{name}: is missing; {spec.name} needs it")
    try:
        hints = typing.get_type_hints(plugin, include_extras=True)
    except NameError as error:
        raise UserError(f"{kind}={spec.name}: the type of a field cannot be read: {error}") from error
    return {key: _check_value(f"{kind}.{key}", value, hints[key]) for key, value in spec.settings.items()}


def _check_value(key: str, value: Any, hint: Any) -> Any:
    if takes_text(hint) and isinstance(value, int | float):
        value = str(value)
    # As a dict's value, because pydantic takes no configuration beside a type that is itself a dataclass.
    holder = cast("type[dict[str, Any]]", types.GenericAlias(dict, (str, hint)))
    adapter = TypeAdapter(holder, config=ConfigDict(coerce_numbers_to_str=True, arbitrary_types_allowed=True))
    try:
        return adapter.validate_python({key: value})[key]
    except ValidationError as error:
        problem = error.errors()[0]
        raise UserError(wrong_value(".".join(str(part) for part in problem["loc"]), problem)) from error
