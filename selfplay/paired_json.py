"""A comparison of two versions as JSON: for the page, and for `diff --json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from selfplay.paired import PairedComparison, PairedDifference, PairedMeasure, PairedScenario, Result

__all__ = ["paired_to_json"]

COUNTED: Mapping[str, Result] = {"wins": "win", "ties": "tie", "losses": "loss"}


def paired_to_json(comparison: PairedComparison) -> dict[str, Any]:
    """Return a comparison as JSON values; what is unknown is None."""
    return {
        "a": {"run": comparison.a.run, "version": comparison.a.version},
        "b": {"run": comparison.b.run, "version": comparison.b.version},
        "split": comparison.split,
        "part": comparison.part,
        "num_scenarios": len(comparison.scenarios),
        "num_failed": comparison.num_failed,
        "num_unpaired": comparison.num_unpaired,
        "confidence": comparison.confidence,
        "is_comparable": comparison.is_comparable,
        "why_not": comparison.why_not or None,
        **{key: comparison.count(result) if comparison.is_comparable else None for key, result in COUNTED.items()},
        "difference": _whole_to_json(comparison.difference) if comparison.is_comparable else None,
        "parts": [_part_to_json(part) for part in comparison.parts],
        "measures": [_measure_to_json(measure) for measure in comparison.measures],
        "scenarios": [_scenario_to_json(scenario) for scenario in comparison.scenarios],
    }


def _part_to_json(part: PairedDifference) -> dict[str, Any]:
    weights = dict(zip(("a", "b"), part.weights, strict=True))
    return {"name": part.name, **_numbers(part), "value": _finite(part.value), "weight": weights}


def _measure_to_json(measure: PairedMeasure) -> dict[str, Any]:
    difference = measure.difference
    return {"name": difference.name, "words": measure.words, "way": measure.way, **_numbers(difference)}


def _numbers(difference: PairedDifference) -> dict[str, float | None]:
    return {key: _finite(getattr(difference, key)) for key in ("a", "b", "difference", "low", "high")}


def _whole_to_json(difference: PairedDifference) -> dict[str, Any]:
    numbers = _numbers(difference)
    return {"value": numbers.pop("difference"), **numbers}


def _scenario_to_json(scenario: PairedScenario) -> dict[str, Any]:
    return {
        "scenario": scenario.scenario,
        "about": scenario.about,
        "a": list(scenario.a),
        "b": list(scenario.b),
        "reward_a": _finite(scenario.reward_a),
        "reward_b": _finite(scenario.reward_b),
        "difference": _finite(scenario.difference),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
