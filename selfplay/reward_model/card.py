"""The card of a reward model: what it was trained on, how good it is, how it is used, what it is not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selfplay.config import to_yaml
from selfplay.reward_model.accuracy import Share
from selfplay.reward_model.report import Report

if TYPE_CHECKING:
    from selfplay.reward_model.model import ModelInfo

__all__ = ["card_of", "per_cent", "with_interval"]

SENTENCE_BACKBONES = ("minilm", "words")
LIMITS = (
    "It knows the kind of dialog that it was trained on, and nothing tells what it makes of another kind.",
    "A policy that is trained against it moves away from that kind: watch the held-out model's gap (twin=true), judge "
    "by something else than this model, and label again.",
    "It may have learnt how long an answer is, or who speaks: compare with the baselines above.",
    "Its numbers are in deviations from the reference's mean; those of two reward models cannot be compared.",
)


def card_of(
    info: ModelInfo, report: Report, *, name: str, folder: str, data: Sequence[str], notes: Sequence[str]
) -> str:
    """Return a model card as markdown.

    name: of the model; folder: how `rm:` names it; data: what it was trained on, as it was typed; notes: what its
    readers must know of the data, such as lines that were skipped.
    """
    lines = [
        *_front_matter(info),
        f"# {name}",
        "",
        *_what(info, data),
        "",
        "## Use",
        "",
        "```bash",
        f"python run.py train -r rm:{folder}=0.5",
        f"python run.py rescore RUN -r rm:{folder}=1",
        f"python run.py reward report {folder}",
        "```",
        "",
        *_loading(info),
        "## How good it is",
        "",
        *_results(report),
        "",
        "## What it was trained on",
        "",
        "| source | examples to train on |",
        "| --- | --- |",
        *(f"| {_cell(source)} | {count:,} |" for source, count in info.sources.items()),
        "",
        f"Held out: {info.num_held_out:,} examples (`held_out.jsonl`).",
        *(f"- {note}" for note in notes),
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in LIMITS),
        "",
        "## Settings",
        "",
        "```yaml",
        to_yaml(info.settings).rstrip(),
        "```",
    ]
    return "\n".join(lines) + "\n"


def per_cent(value: float) -> str:
    """Return a share in per cent; "-": it is not known."""
    return f"{100 * value:.1f}%" if math.isfinite(value) else "-"


def with_interval(share: Share) -> str:
    """Return a share in per cent with its 95% interval, if it has one: ``61.0% (57.2% to 64.9%)``."""
    if not math.isfinite(share.low):
        return per_cent(share.value)
    return f"{per_cent(share.value)} ({per_cent(share.low)} to {per_cent(share.high)})"


def _front_matter(info: ModelInfo) -> list[str]:
    # Only a hub id means something to the hub.
    base = [f"base_model: {info.backbone}"] if "/" in info.backbone and not Path(info.backbone).exists() else []
    tags = ["tags:", "- reward-model", "- preference-learning"]
    return ["---", "library_name: selfplay-dialog", *base, *tags, "---", ""]


def _what(info: ModelInfo, data: Sequence[str]) -> list[str]:
    per = "each turn of a role" if info.scope == "turn" else "a role's whole conversation"
    where = "over the turns of" if info.scope == "turn" else "on"
    members = "one member" if info.num_members == 1 else f"{info.num_members} members, whose mean counts"
    return [
        f"A reward model: a number for {per}, higher where people or judges like those it learnt from would prefer it.",
        f"Backbone {info.backbone}, {members}. Trained on {' '.join(f'`{_cell(word)}`' for word in data)}"
        f"{f', {info.created}' if info.created else ''}.",
        f"Its numbers have mean 0 and deviation 1 {where} {info.reference or 'its training dialogs'}.",
    ]


def _loading(info: ModelInfo) -> list[str]:
    if info.backbone in SENTENCE_BACKBONES or info.num_members > 1:
        return []
    loader = f"Auto{'Peft' if info.settings.method == 'lora' else ''}ModelForSequenceClassification"
    return [
        f"It is a Hugging Face folder as well: `{loader}.from_pretrained(FOLDER, num_labels=1)` gives the",
        "number of the last token, before it is normalised (`reward_model.json` holds the constants).",
        "",
    ]


def _results(report: Report) -> Iterator[str]:
    accuracy, num_groups = report.accuracy, report.num_groups
    if report.has_too_few:
        yield from (f"**{finding}**" for finding in report.findings)
        return
    yield f"On {accuracy.num_pairs:,} held-out pairs with a clear label, of {num_groups:,} independent groups:"
    yield ""
    yield "| who | prefers what was preferred (95% interval) | model minus it, points |"
    yield "| --- | --- | --- |"
    yield f"| this model | {with_interval(accuracy)} | |"
    for baseline in report.baselines:
        name = _cell(baseline.name if baseline.sign > 0 else f"{baseline.name}, less is better")
        difference = baseline.difference
        points = f"{100 * difference.value:+.1f} ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"
        yield f"| {name} | {with_interval(baseline.accuracy)} | {points if math.isfinite(difference.low) else '-'} |"
    yield ""
    yield f"The baselines were chosen on {report.choice.chosen_on}."
    calibration = report.calibration
    yield (
        f"Log loss {calibration.log_loss:.3f} nats a pair (one that always says one half: {math.log(2):.3f}), "
        f"calibration error {per_cent(calibration.error)}, over {calibration.num_pairs:,} pairs"
        f"{f' ({report.num_ties:,} of them ties)' if report.num_ties else ''}."
    )
    for finding in (*report.verdicts, *report.findings):
        yield ""
        yield f"**{finding}**"
    yield from _groups("source", report.by_source)
    yield from _groups("length", report.by_length)


def _groups(title: str, shares: Mapping[str, Share]) -> Iterator[str]:
    yield from ("", f"| {title} | pairs | accuracy (95% interval) |", "| --- | --- | --- |")
    for label, share in shares.items():
        yield f"| {_cell(label)} | {share.num_pairs:,} | {with_interval(share)} |"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").replace("`", "'").split())
