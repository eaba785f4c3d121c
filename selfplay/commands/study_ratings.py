"""`selfplay study ratings`: which rewards go with what people thought of their chats."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.text import Text

from rewards import REWARDS
from rewards.mixes import MIXES
from selfplay.commands.building import MIX, build_rewards, chosen_rewards
from selfplay.commands.terminal import one_line, open_console, plural
from selfplay.commands.words import CommandLine, program_name
from selfplay.config import resolve
from selfplay.dialog import ScoredConversation
from selfplay.errors import UserError
from selfplay.ratings import (
    PACKAGE,
    QUESTIONS,
    Column,
    Correlation,
    Estimate,
    RatedChat,
    RatingStudy,
    correlate,
    load_chats,
    study_to_json,
)
from selfplay.score import WeightedReward, check_failures, score
from selfplay.train_settings import RewardSpec, TrainSettings
from selfplay.whole_files import write_whole
from selfplay.written import nearest

__all__ = ["run"]

OWN = {"out": "runs/study-ratings", "coherence": "0", "seed": "0"}
# They read what people's chats have not: tokens, limits, secrets and payoffs.
LEFT_OUT = frozenset(("cut", "payoff", "private_leak", "stopping"))
COHERENCE = "coherence"
PRESETS = ("chat", "vhrl")
OWN_MIX = "-r"
# Several rewards read one text, and what they remember of it must outlast the others' turns.
CHATS_AT_ONCE = 100
# First part of the spawn key: the choice of chats draws nothing that resampling draws.
DRAW_CHATS = 1000


def run(line: CommandLine, *, package: str = PACKAGE) -> int:
    """Score the chats, correlate, write `table.md` and `correlations.json`; return 0."""
    settings = _settings(line.words)
    console = open_console()
    heuristics = _heuristics(line.rewards)
    num_coherent = _whole_number("coherence", settings["coherence"])
    seed = _whole_number("seed", settings["seed"])
    if line.dry_run:
        print("\n".join([*heuristics, *([COHERENCE] if num_coherent and COHERENCE in REWARDS else [])]))
        return 0
    chats = load_chats(package)
    console.print(f"scoring {plural(len(chats), 'chat')} with {plural(len(heuristics), 'heuristic')}", highlight=False)
    columns = measure(chats, heuristics)
    if num_coherent and COHERENCE in REWARDS:
        columns[COHERENCE] = _coherence(chats, num_chats=num_coherent, seed=seed)
    study = correlate(chats, columns, seed=seed)
    folder = Path(settings["out"])
    folder.mkdir(parents=True, exist_ok=True)
    command = " ".join([program_name(), "study", *line.words, *(f"-r {word}" for word in line.rewards)])
    text = ratings_table(study, command=command)
    write_whole(folder / "correlations.json", (json.dumps(study_to_json(study), indent=1) + "\n").encode())
    write_whole(folder / "table.md", text.encode())
    console.print(Text(text.rstrip()), soft_wrap=True)
    console.print(Text(one_line(f"written: {folder / 'table.md'}, {folder / 'correlations.json'}"), style="dim"))
    return 0


def _settings(words: Sequence[str]) -> dict[str, str]:
    settings = dict(OWN)
    for word in words[1:]:
        key, equals, text = word.partition("=")
        if not equals or key not in OWN:
            raise UserError(f"{word}: unknown to `study ratings`{nearest(key, list(OWN))}")
        settings[key] = text
    return settings


def _whole_number(key: str, text: str) -> int:
    if not text.isdecimal():
        raise UserError(f"{key}={text}: must be a whole number, at least 0")
    return int(text)


def _heuristics(given: Sequence[str]) -> dict[str, list[WeightedReward]]:
    """Return what scores chats, by name: every reward that applies to them, then mixes of rewards."""
    singles = {name: build_rewards({name: RewardSpec()}) for name, cls in REWARDS.items() if _applies(name, cls)}
    mixes = {f"preset {name}": resolve(TrainSettings, [f"preset={name}"]).rewards for name in PRESETS}
    mixes |= {f"{MIX}{name}": chosen_rewards({}, [f"{MIX}{name}=1"]) for name in MIXES}
    built = {name: build_rewards(specs) for name, specs in mixes.items()}
    quick = {name: rewards for name, rewards in built.items() if not any(reward.is_slow for reward in rewards)}
    own = {OWN_MIX: build_rewards(chosen_rewards({}, given))} if given else {}
    return singles | quick | own


def _applies(name: str, cls: type) -> bool:
    scope = getattr(cls, "scope", "conversation")
    return name not in LEFT_OUT and scope != "group" and not getattr(cls, "is_slow", False)


def measure(chats: Sequence[RatedChat], heuristics: Mapping[str, Sequence[WeightedReward]]) -> dict[str, Column]:
    """Return each heuristic's mean a turn for each chat [N], both people's turns together.

    A single reward's is the mean of its raw numbers over the turns where it applies, NaN if there are none; a mix's is
    that of the weighted sums.
    """
    columns: dict[str, list[float]] = {name: [] for name in heuristics}
    together = [name for name, rewards in heuristics.items() if not all(reward.is_cheap for reward in rewards)]
    for start in range(0, len(chats), CHATS_AT_ONCE):
        part = chats[start : start + CHATS_AT_ONCE]
        for name in heuristics.keys() - set(together):
            columns[name] += _means(name, part, heuristics[name])
    for name in together:
        columns[name] = _means(name, chats, heuristics[name])
    return {name: np.array(means) for name, means in columns.items()}


def _means(name: str, chats: Sequence[RatedChat], rewards: Sequence[WeightedReward]) -> list[float]:
    scored = score([chat.conversation for chat in chats], rewards)
    check_failures(scored, 0.0)
    return [_mean(one, name) for one in scored]


def _mean(scored: ScoredConversation, name: str) -> float:
    # A single reward is recorded under its own name; a mix's name is no part's.
    values = scored.parts[name].values if name in scored.parts else scored.rewards
    known = values[np.isfinite(values)]
    return float(known.mean(dtype=np.float64)) if len(known) else math.nan


def _coherence(chats: Sequence[RatedChat], *, num_chats: int, seed: int) -> Column:
    """Return the coherence of some chats, the same for the same seed; NaN for the others, for it takes long."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(DRAW_CHATS,)))
    chosen = sorted(rng.permutation(len(chats))[:num_chats].tolist())
    column = np.full(len(chats), math.nan)
    column[chosen] = _means(COHERENCE, [chats[i] for i in chosen], build_rewards({COHERENCE: RewardSpec()}))
    return column


# ----- the table -----


def ratings_table(study: RatingStudy, *, command: str) -> str:
    """Return the study as markdown: one line a heuristic, from the most positive to the most negative."""
    rows: dict[str, dict[str, Correlation]] = {}
    for row in study.correlations:
        rows.setdefault(row.heuristic, {})[row.question] = row
    known = {name: row for name, row in rows.items() if any(math.isfinite(one.plain.value) for one in row.values())}
    header = ["heuristic", *(text for question in QUESTIONS for text in (question, "lengths fixed"))]
    lines = [
        f"Made by `{command}`: {study.num_chats:,} chats.  Spearman's rho with the rating (95% interval), and the same",
        "with the number of turns and words a turn held fixed; **bold**: clear after Holm's correction.",
        "",
        _line(header),
        _line(["---"] * len(header)),
        *(_line([name, *_cells(row)]) for name, row in sorted(known.items(), key=_place)),
        "",
        *_notes(known, [name for name in rows if name not in known]),
        "",
        "How much two halves of the chats agree on the order of the heuristics (Spearman's rho of their correlations):",
        "",
        _line(["question", "heuristics", "rho", "lengths fixed"]),
        _line(["---"] * 4),
        *(
            _line([one.question, str(one.num_heuristics), _signed(one.plain), _signed(one.partial)])
            for one in study.halves
        ),
    ]
    return "\n".join(lines) + "\n"


def _notes(known: Mapping[str, Mapping[str, Correlation]], too_rare: Sequence[str]) -> list[str]:
    """Say how many chats each correlation is of, and what there was too little of."""
    heuristics: dict[str, list[str]] = {}
    for name, row in known.items():
        counts = ", ".join(f"{row[question].num_chats:,} {question}" for question in QUESTIONS)
        heuristics.setdefault(counts, []).append(name)
    usual, *others = sorted(heuristics, key=lambda counts: -len(heuristics[counts]))
    special = "".join(f"; {', '.join(heuristics[counts])}: {counts}" for counts in others)
    lines = [f"Chats with a rating: {usual}{special}."]
    return [*lines, f"Too rare to measure: {', '.join(too_rare)}."] if too_rare else lines


def _place(item: tuple[str, Mapping[str, Correlation]]) -> float:
    values = [one.plain.value for one in item[1].values() if math.isfinite(one.plain.value)]
    return -sum(values) / len(values)


def _cells(row: Mapping[str, Correlation]) -> list[str]:
    pairs = [row[question] for question in QUESTIONS]
    return [text for one in pairs for text in (_with_interval(one.plain), _marked(one.partial))]


def _with_interval(estimate: Estimate) -> str:
    if not math.isfinite(estimate.value):
        return "-"
    return f"{_marked(estimate)} ({_signed(estimate.low)} to {_signed(estimate.high)})"


def _marked(estimate: Estimate) -> str:
    text = _signed(estimate.value)
    return f"**{text}**" if estimate.is_clear else text


def _signed(value: float) -> str:
    return f"{value:+.2f}" if math.isfinite(value) else "-"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
