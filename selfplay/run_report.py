"""One page about a run, for somebody who has seen nothing else of it: what was rewarded, gained and lost.

The page is one HTML file without scripts; whatever a model or a configuration says stays text in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from selfplay import __version__
from selfplay.commands.evaluation_table import SHARES, title
from selfplay.commands.words import program_name
from selfplay.curves import RunCurves, curves_of_run, grouped
from selfplay.errors import UserError
from selfplay.evaluate import Comparison, Difference, checks_of, comparison_from_json
from selfplay.evaluate_games import fitting
from selfplay.export.private import last_name, without_private_alarm
from selfplay.figures import Look, caption, svg_figures
from selfplay.line_files import RecordError, json_from_line
from selfplay.plots import can_draw
from selfplay.report_talks import exhibits, surprising
from selfplay.run_evaluation import EVALUATION
from selfplay.run_folder import ALARMS
from selfplay.run_reader import RunReader
from selfplay.transcript_index import TranscriptIndex
from selfplay.whole_files import reason, write_whole

__all__ = ["report_html", "write_report"]

TEMPLATES = Path(__file__).parent / "templates"
MARK = b"<!doctype html>\n<!-- selfplay report -->"  # how every report begins
FIGURE_WORDS = {
    "learning": "The reward over the updates, and the mean number of each of its parts.",
    "kl": "How far the policy moved from the base for its reward, and how sure it is of its words.",
    "parts": "What each part adds to the reward of a turn.",
    "drift": "What else changed: length, variety, repetition.",
    "league": "How good the policy is in each role, against its past and others; a tie is half a point.",
    "opponents": "Whom the policy met: shares of the conversations of all updates so far.",
}
MOST_HEADLINES = 6  # in a row
# In the boxes at the top, the first that were measured.
HEADLINES = (
    "reward/per_conversation",
    *("game/payoff", "game/win", "game/success", "game/protocol_ok"),
    *("kl/per_token_nats", "play/distinct_2", "play/words_per_turn"),
)
# What a reader looks for first; the whole configuration stands at the end.
KEY_SETTINGS = (
    ("partner", "partner"),
    ("view", "view"),
    ("updates", "steps"),
    ("conversations an update", "conversations"),
    ("conversations a scenario", "group_size"),
    ("algorithm", "learner.algorithm"),
    ("trained weights", "learner.method"),
    ("learning rate", "learner.learning_rate"),
    ("temperature", "sampling.temperature"),
    ("tokens a turn, at most", "sampling.max_new_tokens"),
    ("seed", "seed"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """One of the rewards of a run."""

    label: str
    counts: str  # "weight 0.5", "gate", "only measured"
    settings: str
    summary: str  # what it measures; "": it is no reward of this package


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A row of base against trained, in words, and where its interval lies from -1 to 1."""

    name: str
    base: str
    trained: str
    change: str
    interval: str
    direction: str  # "up", "down": the interval excludes 0; "": it does not
    low: float | None  # None: there is no interval
    middle: float
    high: float


def write_report(folder: Path, *, out: Path, private: bool = True) -> None:
    """Write the page about a run folder; an older report is replaced, nothing else is.

    Raises UserError if the file is not a report, or cannot be written.
    """
    if out.is_dir():
        raise UserError(f"out={out}: it is a folder; name a file, such as {out / 'report.html'}")
    if out.exists() and not _is_report(out):
        raise UserError(f"out={out}: there is another file already; choose another name, or remove it")
    page = report_html(folder, private=private).encode("utf-8", "replace")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {reason(error)}") from error
    write_whole(out, page)


def report_html(folder: Path, *, private: bool = True) -> str:
    """Return the page about a run folder.

    private: with what roles alone were told, and with what might quote it: what the environment said, the
    configuration's texts, errors, alarms; and with this machine's folders.
    """
    reader = RunReader(folder)
    manifest, curves = reader.manifest, curves_of_run(folder)
    index = TranscriptIndex(folder)
    index.refresh()
    comparison = _comparison(folder)
    seen = {
        "run": reader.name,
        "status": reader.status,
        "times": {key: manifest.get(key) for key in ("created_at", "ended_at")},
        "made_by": _made_by(manifest),
        "private": private,
        "settings": list(_key_settings(curves.settings, manifest, private=private)),
        "env_words": _env_words(curves.settings) if private else "",
        "kl": _kl_words(curves.settings),
        "rewards": _rewards(curves.settings, private=private),
        "updates": _updates(curves),
        "checks": [] if comparison is None else checks_of(comparison, kl_target=_kl_target(curves.settings)),
        "comparison": comparison,
        "changes": [] if comparison is None else [_change(row) for row in comparison.rows],
        "headlines": _headlines(comparison),
        **_figures(curves),
        "alarms": [alarm if private else without_private_alarm(alarm) for alarm in _alarms(folder)],
        "exhibits": exhibits(index, run=reader.name, private=private),
        "surprising": surprising(index, private=private),
        "counts": _counts(index),
        "problems": _problems([*reader.problems, *index.problems], private=private),
        "commands": _commands(folder, manifest, private=private),
        "config": reader.config_text if private else "",
    }
    return _environment().get_template("report.html.jinja").render(seen)


def _problems(problems: Sequence[str], *, private: bool) -> list[str]:
    distinct = list(dict.fromkeys(problems))
    # What says why a line cannot be read may quote it.
    return distinct if private or not distinct else [f"{len(distinct)} things could not be read"]


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number_words, "signed": _signed_words, "when": _when}
    return environment


def _is_report(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(MARK)) == MARK
    except OSError as error:
        raise UserError(f"cannot write {file}: {reason(error)}") from error


# ----- what was set -----


def _key_settings(
    settings: Mapping[str, Any], manifest: Mapping[str, Any], *, private: bool
) -> Iterator[tuple[str, str]]:
    known = {"model": manifest.get("model"), "environment": manifest.get("env")}
    yield from ((name, _place(value, private=private)) for name, value in known.items() if value)
    for name, key in KEY_SETTINGS:
        is_of_updates = name.endswith("an update") and "steps" not in settings
        if settings.get(key) not in (None, "") and not is_of_updates:
            yield name, _place(settings[key], private=private)


def _place(value: object, *, private: bool) -> str:
    """Return what may name files of this machine: if nothing is private, by their last names."""
    return _word(value) if private else ", ".join(last_name(name) for name in _word(value).split(", "))


def _env_words(settings: Mapping[str, Any]) -> str:
    """Return the environment's own settings; "": there are none."""
    of_env = {key.removeprefix("env."): _word(value) for key, value in settings.items() if key.startswith("env.")}
    return ", ".join(f"{key}={value}" for key, value in of_env.items() if key != "name" and value not in ("", "[]"))


def _kl_target(settings: Mapping[str, Any]) -> float | None:
    target = settings.get("kl.target")
    return float(target) if settings.get("kl.controller") == "adaptive" and isinstance(target, int | float) else None


def _kl_words(settings: Mapping[str, Any]) -> str:
    """Return how the policy was kept near its base, as a sentence; "": it is not known."""
    controller, coefficient = settings.get("kl.controller"), settings.get("kl.coefficient")
    if controller is None:
        return ""
    if controller == "off":
        return "KL from the base was measured, and nothing held it."
    how = f"{settings.get('kl.place', 'loss')}, estimator {settings.get('kl.estimator', '?')}"
    if controller == "adaptive":
        target = _word(settings.get("kl.target"))
        started = f"coefficient {_word(coefficient)} at first"
        return f"KL from the base was steered to {target} nats a token (in the {how}; {started})."
    return f"KL from the base was held by a coefficient of {_word(coefficient)} (in the {how}; {controller})."


def _rewards(settings: Mapping[str, Any], *, private: bool) -> list[Reward]:
    from rewards import REWARDS

    found: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        group, _, rest = key.partition(".")
        label, _, name = rest.partition(".")
        if group == "rewards" and name:
            found.setdefault(label, {})[name] = value
    rewards = []
    for label, spec in found.items():
        name = str(spec.get("name") or label)
        own = {key: value for key, value in spec.items() if key not in ("name", "weight", "gate")}
        plugin = REWARDS.get(name)
        summary = (getattr(plugin, "function", plugin).__doc__ or "").strip().partition("\n")[0] if plugin else ""
        words = [f"{key}={_word(value)}" for key, value in own.items() if value not in ("", None)]
        rewards.append(
            Reward(
                label=label if name == label else f"{label} ({_place(name, private=private)})",
                counts=_counts_for(spec),
                settings=", ".join(words) if private else "",
                summary=summary,
            )
        )
    return rewards


def _counts_for(spec: Mapping[str, Any]) -> str:
    if spec.get("gate") is True:
        return "gate"
    return f"weight {_word(spec['weight'])}" if spec.get("weight") else "only measured"


def _updates(curves: RunCurves) -> int:
    return max((len(series) for series in curves.series.values()), default=0)


def _made_by(manifest: Mapping[str, Any]) -> str:
    """Return which versions and which machine made the run, as far as it is known."""
    known = {key: manifest.get(key) for key in ("device", "dtype", "tokenizers")}
    words = [f"{key} {_word(value)}" for key, value in known.items() if value]
    return ", ".join([f"selfplay {manifest.get('package') or __version__}", *words])


def _commands(folder: Path, manifest: Mapping[str, Any], *, private: bool) -> list[str]:
    program, command = program_name(), str(manifest.get("command") or "")
    commit, shown = manifest.get("git"), folder if private else Path(folder.resolve().name)
    lines = [f"git checkout {commit}"] if commit else []
    # What was typed may hold a brief.
    if command and private:
        lines.append(command if command.startswith("python") else f"{program} {command}")
    elif manifest.get("kind") == "train":
        lines.append(f"{program} train config={shown / 'config.yaml'}")
    return [*lines, f"{program} view {shown}"]


# ----- what came of it -----


def _comparison(folder: Path) -> Comparison | None:
    try:
        found = fitting(comparison_from_json(json.loads((folder / EVALUATION).read_text(encoding="utf-8"))))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if found.rows else None


def _headlines(comparison: Comparison | None) -> list[Change]:
    rows = {} if comparison is None else {row.name: row for row in comparison.rows}
    measured = [rows[name] for name in HEADLINES if name in rows and math.isfinite(rows[name].difference)]
    return [_change(row) for row in measured[:MOST_HEADLINES]]


def _change(row: Difference) -> Change:
    ends = [value for value in (row.low, row.high, row.difference) if math.isfinite(value)]
    scale = max(map(abs, ends), default=0.0) or 1.0
    has_interval = math.isfinite(row.low) and math.isfinite(row.high)
    return Change(
        name=title(row.name),
        base=_value(row, row.base),
        trained=_value(row, row.trained),
        change=_value(row, row.difference, is_signed=True),
        interval=f"{_value(row, row.low, is_signed=True)} to {_value(row, row.high, is_signed=True)}"
        if has_interval
        else "",
        direction="" if not row.is_clear else "up" if row.low > 0 else "down",
        low=row.low / scale if has_interval else None,
        middle=row.difference / scale if math.isfinite(row.difference) else 0.0,
        high=row.high / scale if has_interval else 0.0,
    )


def _figures(curves: RunCurves) -> dict[str, Any]:
    """Return what the template needs of the curves; without matplotlib, why there are none."""
    if not curves.series:
        return {"figures": [], "figures_note": "", "figures_caption": ""}
    if not can_draw():
        note = "The curves are left out: matplotlib is not installed (pip install 'selfplay-dialog[report]')."
        return {"figures": [], "figures_note": note, "figures_caption": ""}
    groups, look = grouped([curves]), Look(is_for_page=True)
    # These elements are ours: every text in them was escaped when it was written.
    drawn = [
        (name, [Markup(panel) for panel in panels], FIGURE_WORDS[name])
        for name, panels in svg_figures(groups, look=look).items()
    ]
    return {"figures": drawn, "figures_note": "", "figures_caption": caption(groups, look=look)}


def _alarms(folder: Path) -> list[dict[str, Any]]:
    """Return the records of alarms that began or ended, the oldest first; what cannot be read is left out."""
    try:
        lines = (folder / f"{ALARMS}.jsonl").read_bytes().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            record = json_from_line(line)
        except RecordError:
            continue
        if isinstance(record.get("text"), str) and isinstance(record.get("name"), str):
            found.append({"step": None, "state": "", "look_at": [], **record})
    return found


def _counts(index: TranscriptIndex) -> list[tuple[str, int]]:
    """Return how many conversations there are of each split and reason, the most frequent reason first."""
    info = index.info()
    of_splits = [(split.replace("_", "-"), index.page(f"split={split}", limit=1).total) for split in info.splits]
    of_reasons = [(str(word), index.page(f"reason={word}", limit=1).total) for word in info.reasons if word]
    ended = [(f"ended: {word.replace('_', ' ')}", total) for word, total in sorted(of_reasons, key=lambda one: -one[1])]
    cut = [("with a turn cut by a limit", index.page("flag=cut", limit=1).total)]
    return [*of_splits, *ended, *cut]


# ----- words -----


def _value(row: Difference, value: float, *, is_signed: bool = False) -> str:
    if not math.isfinite(value):
        return "-"
    if row.name in SHARES:
        return f"{100 * value:+.0f}" if is_signed else f"{value:z.0%}"
    return f"{value:+.3f}" if is_signed else f"{value:z.3f}"


def _number_words(value: float | None) -> str:
    return "-" if value is None else f"{value:z.2f}"


def _signed_words(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _when(value: object) -> str:
    return str(value or "")[:16].replace("T", " ")


def _word(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(sorted({_word(item) for item in value.values()}))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_word, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
