"""What stored conversations were rewarded for, and whether two sides' rewards are in the same unit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["RewardedFor", "Weight", "rewarded_for", "why_incomparable", "why_part_incomparable"]

Weight = float | Literal["gate"] | None  # None: there is no such part

BELOW = "below are the numbers both have"


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardedFor:
    """What one side's conversations were rewarded for.

    Example: ``RewardedFor(digest="sha256:4be1c0de", weights={"question": 1.0}, sources={"question": "sha256:07aa"})``
    """

    digest: str | None  # of the whole set of rewards; None: the records name none
    weights: Mapping[str, Weight]  # part -> weight; 0: measured, and not rewarded
    sources: Mapping[str, str]  # part -> digest of its code, of plug-ins

    def counting(self, names: Collection[str]) -> dict[str, Weight]:
        """Return the weights, among these parts, of those that count."""
        return {name: weight for name, weight in sorted(self.weights.items()) if weight != 0.0 and name in names}


def rewarded_for(records: Iterable[Mapping[str, Any]], usual: Mapping[str, float | None]) -> RewardedFor:
    """Return what some transcript records say that they were rewarded for.

    usual: weights in the run as a whole, for what these records do not mention; None is a gate.
    """
    digest: str | None = None
    weights: dict[str, Weight] = {name: "gate" if weight is None else weight for name, weight in usual.items()}
    sources: dict[str, str] = {}
    for record in records:
        block = record.get("rewards") or {}
        digest = digest or block.get("set")
        sources |= block.get("sources") or {}
        weights |= {part["name"]: _weight(part) for part in block.get("parts") or ()}
    return RewardedFor(digest=digest, weights=weights, sources=sources)


def why_incomparable(a: RewardedFor, b: RewardedFor, *, names: Collection[str]) -> str:
    """Say in a sentence why the rewards of both sides have no common unit; "": they have one.

    names: parts that apply in the conversations in question; the others cannot have made a difference.
    """
    if a.digest is not None and a.digest == b.digest:
        return ""
    counting = a.counting(names), b.counting(names)
    if counting[0] != counting[1]:
        said = [_words(own, other) for own, other in (counting, counting[::-1])]
        return f"a was rewarded for {said[0]}, b for {said[1]}: their rewards are in different units; {BELOW}"
    changed = [name for name in counting[0] if _has_changed(a, b, name)]
    if changed:
        return f"{_listed(changed)} had other code in a than in b: their rewards may be in different units; {BELOW}"
    return ""


def why_part_incomparable(a: RewardedFor, b: RewardedFor, *, part: str, owners: tuple[bool, bool]) -> str:
    """Say in a sentence why a part's raw numbers cannot be compared; "": they can.

    owners: whether the part applies in a, and in b.
    """
    if not all(owners):
        who = "neither side's" if not any(owners) else "only a's" if owners[0] else "only b's"
        return f"{who} conversations have the part {part}; {BELOW}"
    if _has_changed(a, b, part):
        return f"{part} had other code in a than in b: its numbers may be in different units; {BELOW}"
    return ""


def _weight(part: Mapping[str, Any]) -> Weight:
    return "gate" if part.get("gate") else float(part.get("weight") or 0.0)


def _has_changed(a: RewardedFor, b: RewardedFor, name: str) -> bool:
    sources = a.sources.get(name), b.sources.get(name)
    return None not in sources and sources[0] != sources[1]


def _words(own: Mapping[str, Weight], other: Mapping[str, Weight]) -> str:
    """Return parts by name, with the weights of those that the other side weighs differently."""
    return _listed([_word(name, own[name], other.get(name, own[name])) for name in own]) or "nothing"


def _word(name: str, weight: Weight, other: Weight) -> str:
    if weight == other:
        return name
    return f"{name} as a gate" if weight == "gate" else f"{name} x {weight:g}"


def _listed(names: Collection[str]) -> str:
    first, last = list(names)[:-1], list(names)[-1:]
    return " and ".join([", ".join(first), *last]) if first else "".join(last)
