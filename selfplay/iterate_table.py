"""The table of rounds: what the reward model knew, what training changed, and how far the policy went."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfplay.evaluate import Comparison, Difference, comparison_from_json
from selfplay.iterate_measure import KL
from selfplay.iterate_rounds import Round, read_result
from selfplay.iterate_settings import RM, TWIN, IterateSettings

__all__ = [
    "COLUMNS",
    "RoundResult",
    "doubt_of",
    "iterate_report",
    "read_rounds",
    "remarks_on",
    "round_to_json",
    "rows_of",
]

GOLD_ROW = "reward/total"
COLUMNS = (
    "round",
    "labels",
    "accuracy before",
    "after refit",
    "proxy",
    "twin",
    "gap",
    "gold",
    "KL, round",
    "KL, base",
    "distinct-2",
    "words a turn",
    "minutes",
)
FEWEST_CLEAR = 20  # held-out labels that prefer one; fewer say nothing of a reward model
CHANCE = 0.5  # share of right answers of a coin
IN_DOUBT = " (?)"  # behind an accuracy that a coin may have too


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundResult:
    """One finished round."""

    number: int  # from 1, as people count
    labels: Mapping[str, Any]  # as labels.json has it
    refit: Mapping[str, Any]  # as refit.json has it
    comparison: Comparison  # before and after the round's training; likelihood and KL under the first policy of all
    kl_from_start: float  # nats a token, from where the round began; NaN: unknown
    has_gold: bool
    seconds: float  # of all stages, of the attempts that ended them

    def row(self, name: str) -> Difference | None:
        """Return one number of the comparison; None: it was not measured."""
        return next((row for row in self.comparison.rows if row.name == name), None)


def read_rounds(folder: Path, *, rounds: int) -> list[RoundResult]:
    """Return the rounds that are over.  Raises UserError for a damaged result."""
    seconds = _seconds(folder)
    places = [Round(folder=folder, number=number) for number in range(rounds)]
    return [_read(place, seconds.get(place.ordinal, 0.0)) for place in places if place.has("measure")]


def _read(place: Round, seconds: float) -> RoundResult:
    evaluation = read_result(place.evaluation)
    kl = evaluation["kl_from_start"]
    return RoundResult(
        number=place.ordinal,
        labels=read_result(place.labels),
        refit=read_result(place.refit),
        comparison=comparison_from_json(evaluation["comparison"]),
        kl_from_start=math.nan if kl is None else float(kl),
        has_gold=bool(evaluation["has_gold"]),
        seconds=seconds,
    )


def _seconds(folder: Path) -> dict[int, float]:
    stages = json.loads((folder / "iterate.json").read_text(encoding="utf-8"))["stages"]
    found: dict[int, float] = {}
    for stage in stages:
        found[stage["round"]] = found.get(stage["round"], 0.0) + float(stage["seconds"])
    return found


def rows_of(results: Sequence[RoundResult]) -> list[list[str]]:
    """Return the table's cells, round by round."""
    return [_row(result) for result in results]


def _row(result: RoundResult) -> list[str]:
    rm, twin = result.row(f"reward/{RM}"), result.row(f"reward/{TWIN}")
    kl, distinct, words = (result.row(name) for name in (KL, "play/distinct_2", "play/words_per_turn"))
    before, after = (_share(result.refit[name]) for name in ("before", "after"))
    mark = IN_DOUBT if doubt_of(result.refit) else ""
    is_frozen = result.refit["after"] is None
    return [
        str(result.number),
        _labels(result.labels),
        before + (mark if is_frozen else ""),
        after + ("" if is_frozen else mark),
        _change(rm),
        _change(twin),
        _gap(rm, twin),
        _change(result.row(GOLD_ROW), digits=3, has_interval=True) if result.has_gold else "-",
        _number(result.kl_from_start),
        _number(math.nan if kl is None else kl.trained),
        _change(distinct),
        _change(words, digits=1),
        f"{result.seconds / 60:.1f}",
    ]


def doubt_of(refit: Mapping[str, Any]) -> str:
    """Return why the reward model that a round trains against may know nothing; "": it knows something.

    refit: what came of fitting.  Where nothing was fitted, the old reward model is the one.
    """
    share = refit["after"] or refit["before"]
    num = 0 if share is None else share["num_pairs"]
    if num < FEWEST_CLEAR:
        return f"only {num} held-out label{' is' if num == 1 else 's are'} no tie, and it takes {FEWEST_CLEAR} to tell"
    if share["low"] is not None and share["low"] > CHANCE:
        return ""
    return f"right on {_share(share)} held-out labels, and a coin would be on {CHANCE:.2f}"


def remarks_on(results: Sequence[RoundResult]) -> list[str]:
    """Return what a reader of the table must not miss: doubtful reward models, and what the judges are like."""
    doubts = [(result.number, doubt_of(result.refit)) for result in results]
    said = [
        f"{IN_DOUBT.strip()} round {number}: the reward model may know nothing: {why}" for number, why in doubts if why
    ]
    return said + [line for result in results for line in _judge_lines(result)]


def _judge_lines(result: RoundResult) -> list[str]:
    record = result.labels.get("judge")
    if record is None:
        return []
    from selfplay.judge.measures import Measures, measures_text

    return [f"the judge, round {result.number}: {'; '.join(measures_text(Measures.from_json(record)))}"]


def iterate_report(results: Sequence[RoundResult], settings: IterateSettings, *, command: str) -> str:
    """Return the rounds as markdown."""
    header, rule = _line(COLUMNS), _line(["---"] * len(COLUMNS))
    also = [name for name in settings.also if any(result.row(f"reward/{name}") for result in results)]
    lines = [
        "# Rounds without people",
        "",
        f"Made by `{command}`: {len(results)} of {settings.rounds} rounds, labels by {settings.by}, reward model "
        f"{settings.rm.refit} ({settings.rm.backbone}), {settings.steps} updates a round from the {_start(settings)}.",
        "",
        header,
        rule,
        *(_line(row) for row in rows_of(results)),
        "",
        "An arrow goes from before the round's training to after it, on held-out scenarios; behind gold, in brackets, "
        "the 95% interval of the change.",
        "",
        *(_remarks(results)),
        *(_other_rewards(results, also) if also else ()),
        *(f"- {note}" for note in _notes(settings)),
    ]
    return "\n".join(lines) + "\n"


def _remarks(results: Sequence[RoundResult]) -> list[str]:
    remarks = remarks_on(results)
    return [*(f"- {remark}" for remark in remarks), ""] if remarks else []


def _start(settings: IterateSettings) -> str:
    return "policy before it" if settings.continue_from == "previous" else "first policy"


def _notes(settings: IterateSettings) -> list[str]:
    return [
        "labels: those of this round; a tie prefers neither, and teaches little",
        "accuracy: of the reward model on labels of this round that it never saw, before and after it was fitted to "
        "the others; in brackets the 95% interval over scenarios, then the number of clear pairs",
        "proxy: what the policy is trained on, the reward model's number a turn, in deviations from the first round's "
        f"conversations{_pessimism_words(settings)}; twin: the same of one that learnt from the other half of the "
        "labels; gap: proxy minus twin",
        f"gold: {_gold_words(settings)}, a turn"
        if settings.by != "judge"
        else "gold: nobody knows it where a judge labels",
        "KL, nats a token: from where the round began, and from the first policy of all",
        "distinct-2 is measured at equal numbers of words on both sides of an arrow",
    ]


def _pessimism_words(settings: IterateSettings) -> str:
    return f", before the pessimism of {settings.pessimism:g} is taken off" if settings.pessimism else ""


def _gold_words(settings: IterateSettings) -> str:
    named = settings.by.partition(":")[2]
    return named or " + ".join(f"{spec.weight:g} {name}" for name, spec in settings.rewards.items() if spec.weight)


def _other_rewards(results: Sequence[RoundResult], names: Sequence[str]) -> list[str]:
    rows = [
        _line(
            [
                str(result.number),
                *(_change(result.row(f"reward/{name}"), digits=3, has_interval=True) for name in names),
            ]
        )
        for result in results
    ]
    return ["Other rewards, a turn:", "", _line(["round", *names]), _line(["---"] * (len(names) + 1)), *rows, ""]


def round_to_json(result: RoundResult) -> dict[str, Any]:
    """Return a round as JSON values; what could not be measured is None."""
    rm, twin = result.row(f"reward/{RM}"), result.row(f"reward/{TWIN}")
    return {
        "round": result.number,
        "labels": result.labels["num"],
        "ties": result.labels["num_ties"],
        "judge": result.labels.get("judge"),
        "accuracy": {"before": result.refit["before"], "after": result.refit["after"]},
        "doubt": doubt_of(result.refit) or None,
        "proxy": _to_json(rm),
        "twin": _to_json(twin),
        "gap": {side: _finite(_gap_of(rm, twin, side)) for side in ("base", "trained")},
        "gold": _to_json(result.row(GOLD_ROW)) if result.has_gold else None,
        "kl_from_start": _finite(result.kl_from_start),
        "kl_from_base": _to_json(result.row(KL)),
        "distinct_2": _to_json(result.row("play/distinct_2")),
        "words_per_turn": _to_json(result.row("play/words_per_turn")),
        "seconds": result.seconds,
    }


def _to_json(row: Difference | None) -> dict[str, float | None] | None:
    keys = ("base", "trained", "difference", "low", "high")
    return None if row is None else {key: _finite(getattr(row, key)) for key in keys}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# ----- cells -----


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _labels(labels: Mapping[str, Any]) -> str:
    num, num_ties = labels["num"], labels["num_ties"]
    return f"{num} ({num_ties} tie{'' if num_ties == 1 else 's'})" if num_ties else str(num)


def _share(share: Mapping[str, Any] | None) -> str:
    if share is None or share["value"] is None:
        return "-"
    interval = "" if share["low"] is None else f" ({share['low']:.2f} to {share['high']:.2f})"
    return f"{share['value']:.2f}{interval}, {share['num_pairs']}"


def _change(row: Difference | None, *, digits: int = 2, has_interval: bool = False) -> str:
    if row is None or not math.isfinite(row.trained):
        return "-"
    interval = f" ({row.low:+.{digits}f} to {row.high:+.{digits}f})" if has_interval and math.isfinite(row.low) else ""
    return f"{row.base:z.{digits}f} → {row.trained:z.{digits}f}{interval}"


def _gap(rm: Difference | None, twin: Difference | None) -> str:
    before, after = (_gap_of(rm, twin, side) for side in ("base", "trained"))
    return f"{before:z.2f} → {after:z.2f}" if math.isfinite(after - before) else "-"


def _gap_of(rm: Difference | None, twin: Difference | None, side: str) -> float:
    return math.nan if rm is None or twin is None else float(getattr(rm, side) - getattr(twin, side))


def _number(value: float) -> str:
    return f"{value:z.3f}" if math.isfinite(value) else "-"
