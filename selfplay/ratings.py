"""Which numbers about a chat go with what people thought of it: rank correlations with ratings of human chats.

The ratings are those of the Chit-Chat Challenge (package chitchat-dataset): students chatted in pairs and moved three
sliders at the end.  The data hold one set of ratings a chat and not who gave them, so a rating is taken as one of the
whole chat.  A slider left at 5, where it starts, is no rating.

Legend: N chats, V variables, R resamples, C clusters.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from selfplay.dialog import Conversation, Outcome, PlayerInfo, Scenario, Turn, clean_text, conversation_id
from selfplay.errors import UserError
from selfplay.spoken_words import words_of

PACKAGE, DATASET = "chitchat_dataset", "dataset.json"
QUESTIONS = ("witty", "upbeat", "interesting")
SLIDER_START = 5
FEWEST_TURNS = 6
ROLES = ("first", "second")  # in the order in which they first spoke

# What longer chats have more of; partial correlations hold both fixed.
TURNS, WORDS_A_TURN = "number of turns", "words a turn"
CONFIDENCE = 0.95
NUM_RESAMPLES = 2000
PART = 100  # resamples at once: they stay in the processor's cache
# A heuristic that differs from its most common value in fewer chats says nothing about the rest.
FEWEST_DIFFERENT = 20

Column = npt.NDArray[np.float64]  # [N], NaN: nothing was measured
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedChat:
    """A chat between two people and what one of them, or both, thought of it."""

    conversation: Conversation
    people: tuple[str, str]  # who talked, sorted: chats of the same two are one cluster
    ratings: Mapping[str, int]  # question -> 1 to 10; a slider that was not moved is left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A correlation with its interval; NaN where there was too little to measure."""

    value: float
    low: float
    high: float
    p_value: float  # two-sided, of no correlation
    halves: tuple[float, float]  # the same in two halves of the chats, with no two people in both
    is_clear: bool = False  # after Holm's correction over the heuristics of its question


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """How one heuristic goes with one question."""

    heuristic: str
    question: str
    num_chats: int
    plain: Estimate  # Spearman's rho
    partial: Estimate  # the same with the number of turns and words a turn held fixed


@dataclass(frozen=True, slots=True, kw_only=True)
class Halves:
    """Whether two halves of the chats, with no two people in both, put the heuristics in the same order.

    NaN with fewer than three heuristics.
    """

    question: str
    plain: float  # Spearman's rho between the halves' correlations, over heuristics
    partial: float
    num_heuristics: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingStudy:
    """Every heuristic against every question."""

    correlations: tuple[Correlation, ...]  # questions in order; within each, heuristics as they were given
    halves: tuple[Halves, ...]
    num_chats: int


# ----- the data -----


def load_chats(package: str = PACKAGE) -> list[RatedChat]:
    """Return the rated chats of the installed package; raises UserError if it is not installed."""
    try:
        file = resources.files(package) / DATASET
    except ModuleNotFoundError as error:
        raise UserError(
            "the rated chats are not installed (package chitchat-dataset): pip install 'selfplay-dialog[data]'"
        ) from error
    return rated_chats(json.loads(file.read_text(encoding="utf-8")))


def rated_chats(data: Mapping[str, Mapping[str, Any]]) -> list[RatedChat]:
    """Return the chats of two people that have at least 6 turns and a slider that was moved, in the data's order.

    data: id -> ``{"messages": [[{"text", "sender", ...}, ...], ...], "ratings": {question: 1 to 10}, "prompt"}``;
    messages of one sender that follow each other become one turn, a line each.
    """
    return [chat for number, entry in enumerate(data.values()) if (chat := _rated_chat(number, entry)) is not None]


def _rated_chat(number: int, entry: Mapping[str, Any]) -> RatedChat | None:
    ratings = {question: int(value) for question, value in (entry.get("ratings") or {}).items()}
    moved = {question: value for question, value in ratings.items() if value != SLIDER_START and question in QUESTIONS}
    messages = [message for group in entry["messages"] for message in group if message["text"].strip()]
    spoken = [
        (sender, "\n".join(clean_text(message["text"]) for message in group))
        for sender, group in groupby(messages, key=lambda message: str(message["sender"]))
    ]
    people = list(dict.fromkeys(sender for sender, _ in spoken))
    if not moved or len(spoken) < FEWEST_TURNS or len(people) != len(ROLES):
        return None
    return RatedChat(
        conversation=_conversation(number, spoken, dict(zip(people, ROLES, strict=True)), entry.get("prompt") or ""),
        people=(min(people), max(people)),
        ratings=moved,
    )


def _conversation(
    number: int, spoken: Sequence[tuple[str, str]], role_of: Mapping[str, str], prompt: str
) -> Conversation:
    heard = ["", *(text for _, text in spoken)]
    return Conversation(
        id=conversation_id(step=0, group=number, index=0),
        scenario=Scenario(env="chitchat-dataset", seed=number, split="train", roles=ROLES, public={"topic": prompt}),
        players={role: PlayerInfo(policy="human") for role in ROLES},
        turns=tuple(
            Turn(role=role_of[sender], text=text, heard_text=before, player="human")
            for (sender, text), before in zip(spoken, heard, strict=False)
        ),
        outcome=Outcome(status="terminated", reason="leaving"),
    )


def lengths(chats: Iterable[RatedChat]) -> dict[str, Column]:
    """Return the two baselines: the number of turns, and words a turn."""
    counts = [[len(words_of(turn.text)) for turn in chat.conversation.turns] for chat in chats]
    return {
        TURNS: np.array([float(len(words)) for words in counts]),
        WORDS_A_TURN: np.array([sum(words) / len(words) for words in counts]),
    }


# ----- the study -----


def correlate(
    chats: Sequence[RatedChat], columns: Mapping[str, Column], *, seed: int, num_resamples: int = NUM_RESAMPLES
) -> RatingStudy:
    """Correlate heuristics with every question, beside the two baselines of `lengths`.

    columns: heuristic -> its number for each chat [N]; NaN leaves the chat out for that heuristic.

    - Correlations are Spearman's (equal values share their mean rank); partial ones are those of what is left of the
      ranks after a linear fit on the ranks of the number of turns and words a turn.
    - Intervals come from resampling pairs of people with all their chats; ranks are found anew in each resample.
    - p-values take Fisher's z as normal, with the resamples' deviation; a correlation is clear if Holm's procedure
      keeps it at 5% among the heuristics of its question.
    """
    baselines = lengths(chats)
    clusters = _clusters(chats)
    found: list[Correlation] = []
    halves: list[Halves] = []
    for number, question in enumerate(QUESTIONS):
        ratings = np.array([chat.ratings.get(question, math.nan) for chat in chats])
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))
        ranked = _Ranked({question: ratings, **baselines}, _weights(clusters, rng, num_resamples))
        rows = [_correlation(name, question, *ranked.with_(name, column)) for name, column in baselines.items()]
        rows += [_correlation(name, question, *ranked.with_(name, column)) for name, column in columns.items()]
        found.extend(_with_holm(rows))
        halves.append(_halves(question, rows))
    return RatingStudy(correlations=tuple(found), halves=tuple(halves), num_chats=len(chats))


def _clusters(chats: Sequence[RatedChat]) -> npt.NDArray[np.intp]:
    """Return the number of each chat's pair of people [N]."""
    numbers: dict[tuple[str, str], int] = {}
    return np.array([numbers.setdefault(chat.people, len(numbers)) for chat in chats], dtype=np.intp)


def _weights(clusters: npt.NDArray[np.intp], rng: np.random.Generator, num_resamples: int) -> Matrix:
    """Return how often each chat counts [N, 3 + R]: in the whole, in two halves, and in each resample.

    The chats of one pair of people stay together.
    """
    num_clusters = int(clusters.max()) + 1
    is_first = rng.permutation(num_clusters) % 2 == 0  # [C]
    drawn = rng.multinomial(num_clusters, np.full(num_clusters, 1.0 / num_clusters), size=num_resamples)  # [R, C]
    counts = np.vstack([np.ones(num_clusters), is_first, ~is_first, drawn])  # [3 + R, C]
    return counts.T[clusters].astype(np.float64)


class _Ranked:
    """A question's ratings and what is held fixed, ranked once for all heuristics."""

    def __init__(self, fixed: Mapping[str, Column], weights: Matrix) -> None:
        self._names = list(fixed)
        self._table = np.stack(list(fixed.values()))
        self._weights = weights
        self._known: dict[bytes, list[tuple[Matrix, Matrix]]] = {}  # which chats -> weights and ranks, part by part

    def with_(self, name: str, column: Column) -> tuple[Column, Matrix]:
        """Return the heuristic where both it and the rating are known, and all correlations [3 + R, V, V].

        The heuristic is the first variable and the rating the second; a control that is the heuristic is left out.
        """
        is_whole = np.isfinite(column) & np.isfinite(self._table).all(axis=0)
        if is_too_rare(column[is_whole]):
            return column[is_whole], np.full((self._weights.shape[1], 2, 2), math.nan)
        kept = [number for number, known in enumerate(self._names) if known != name]
        parts = [
            _cosines(np.concatenate([scaled_ranks(column[is_whole], weights)[None], ranks[kept]]))
            for weights, ranks in self._parts(is_whole)
        ]
        return column[is_whole], np.concatenate(parts)

    def _parts(self, is_whole: npt.NDArray[np.bool_]) -> list[tuple[Matrix, Matrix]]:
        key = is_whole.tobytes()
        if key not in self._known:
            chosen = self._weights[is_whole]
            parts = [chosen[:, start : start + PART].copy() for start in range(0, chosen.shape[1], PART)]
            table = self._table[:, is_whole]
            self._known[key] = [(part, np.stack([scaled_ranks(values, part) for values in table])) for part in parts]
        return self._known[key]


def is_too_rare(values: Column) -> bool:
    """Whether hardly any of the values differs from the most common one."""
    counts = np.unique(values, return_counts=True)[1]
    return len(values) - int(counts.max(initial=0)) < FEWEST_DIFFERENT


def rank_correlations(table: Matrix, weights: Matrix) -> Matrix:
    """Return Spearman's correlations of all pairs of variables in each resample [R, V, V]; NaN where one is constant.

    table [V, N] without NaN; weights [N, R]: how often each chat counts.
    """
    return _cosines(np.stack([scaled_ranks(values, weights) for values in table]))


def scaled_ranks(values: Column, weights: Matrix) -> Matrix:
    """Return ranks in each resample [N, R], minus their mean and times the root of the weight.

    Equal values share their mean rank.  The cosine of two variables' scaled ranks is Spearman's rho.
    """
    order = np.argsort(values, kind="stable")
    is_last = np.append(np.diff(values[order]) > 0.0, True)  # [N] of its group of equal values
    upto = np.cumsum(weights[order], axis=0)[is_last]  # [groups, R] how many are at most that large
    below = np.concatenate([np.zeros((1, weights.shape[1])), upto[:-1]])
    # The mean rank of a group is (below + 1 + upto) / 2, and the mean of all ranks (n + 1) / 2.
    ranks = (below + upto - upto[-1]) / 2.0
    group = np.unique(values, return_inverse=True)[1]
    scaled: Matrix = ranks[group] * np.sqrt(weights)
    return scaled


def _cosines(variables: Matrix) -> Matrix:
    """Return the cosines of all pairs of variables [V, N, R] over the chats: [R, V, V]."""
    products: Matrix = np.einsum("vnr,wnr->rvw", variables, variables)
    squares = np.diagonal(products, axis1=1, axis2=2)  # [R, V]
    norms = np.sqrt(np.where(squares > 0.0, squares, math.nan))
    cosines: Matrix = products / (norms[:, :, None] * norms[:, None, :])
    return cosines


def partial_correlation(correlations: Matrix) -> Matrix:
    """Return the correlation of the first two variables with all others held fixed.

    correlations [..., V, V]; the result [...] comes from the inverse: -P01 / sqrt(P00 P11).
    """
    is_known = np.asarray(np.isfinite(correlations).all(axis=(-2, -1)))
    safe = np.where(is_known[..., None, None], correlations, np.eye(correlations.shape[-1]))
    inverse = np.linalg.pinv(safe, hermitian=True)
    found: Matrix = -inverse[..., 0, 1] / np.sqrt(inverse[..., 0, 0] * inverse[..., 1, 1])
    return np.where(is_known, found, math.nan)


def _correlation(name: str, question: str, values: Column, correlations: Matrix) -> Correlation:
    return Correlation(
        heuristic=name,
        question=question,
        num_chats=len(values),
        plain=_estimate(correlations[:, 0, 1]),
        partial=_estimate(partial_correlation(correlations)),
    )


def _estimate(found: Matrix) -> Estimate:
    """Return an estimate from the correlations [3 + R] in the whole, in two halves and in every resample."""
    value, first, second = (float(one) for one in found[:3])
    known = found[3:][np.isfinite(found[3:])]
    if not math.isfinite(value) or len(known) < 2:
        low = high = p_value = math.nan
    else:
        outside = (1.0 - CONFIDENCE) / 2.0
        low, high = (float(bound) for bound in np.quantile(known, [outside, 1.0 - outside]))
        p_value = _p_value(value, known)
    return Estimate(value=value, low=low, high=high, p_value=p_value, halves=(first, second))


def _p_value(value: float, drawn: Matrix) -> float:
    # Fisher's z of 1 is infinite.
    limit = 1.0 - 1e-12
    deviation = float(np.arctanh(np.clip(drawn, -limit, limit)).std(ddof=1))
    score = math.atanh(min(limit, max(-limit, value))) / max(deviation, 1e-12)
    return math.erfc(abs(score) / math.sqrt(2.0))


def _with_holm(rows: Sequence[Correlation]) -> Iterator[Correlation]:
    plain = holm([row.plain.p_value for row in rows])
    partial = holm([row.partial.p_value for row in rows])
    for row, is_clear, is_partial_clear in zip(rows, plain, partial, strict=True):
        yield replace(
            row,
            plain=replace(row.plain, is_clear=is_clear),
            partial=replace(row.partial, is_clear=is_partial_clear),
        )


def holm(p_values: Sequence[float], *, level: float = 1.0 - CONFIDENCE) -> list[bool]:
    """Return which hypotheses Holm's step-down procedure rejects; a NaN is none and does not count.

    Source: S. Holm 1979, Scandinavian Journal of Statistics 6: the k-th smallest of m, from 0, against level / (m - k).
    """
    order = sorted((p_value, i) for i, p_value in enumerate(p_values) if not math.isnan(p_value))
    rejected = [False] * len(p_values)
    for k, (p_value, i) in enumerate(order):
        if p_value > level / (len(order) - k):
            break
        rejected[i] = True
    return rejected


def _halves(question: str, rows: Sequence[Correlation]) -> Halves:
    plain, partial = (
        np.array([one.halves for one in estimates if np.isfinite(one.halves).all()]).reshape(-1, 2)
        for estimates in ([row.plain for row in rows], [row.partial for row in rows])
    )
    return Halves(question=question, plain=_agreement(plain), partial=_agreement(partial), num_heuristics=len(plain))


def _agreement(halves: Matrix) -> float:
    """Return Spearman's rho between the columns of [heuristics, 2]; NaN with fewer than three."""
    if len(halves) < 3:
        return math.nan
    return float(rank_correlations(halves.T, np.ones((len(halves), 1)))[0, 0, 1])


# ----- as files -----


def study_to_json(study: RatingStudy) -> dict[str, Any]:
    """Return a study as JSON values; what could not be measured is None."""
    return {
        "schema": "selfplay.ratings/1",
        "num_chats": study.num_chats,
        "confidence": CONFIDENCE,
        "correlations": [
            {
                "heuristic": row.heuristic,
                "question": row.question,
                "num_chats": row.num_chats,
                "spearman": _estimate_to_json(row.plain),
                "partial": _estimate_to_json(row.partial),
            }
            for row in study.correlations
        ],
        "halves": [
            {
                "question": one.question,
                "num_heuristics": one.num_heuristics,
                "spearman": _number(one.plain),
                "partial": _number(one.partial),
            }
            for one in study.halves
        ],
    }


def _estimate_to_json(estimate: Estimate) -> dict[str, Any]:
    numbers = {key: _number(getattr(estimate, key)) for key in ("value", "low", "high", "p_value")}
    return {**numbers, "halves": [_number(half) for half in estimate.halves], "is_clear": estimate.is_clear}


def _number(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None
