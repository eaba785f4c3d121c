"""What goes with ratings of human chats: ranks by hand, resamples by other methods, the data's odd cases."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from selfplay.commands import main
from selfplay.commands.building import build_rewards
from selfplay.commands.study_ratings import measure, ratings_table, run
from selfplay.commands.words import CommandLine
from selfplay.errors import UserError
from selfplay.ratings import (
    RatedChat,
    RatingStudy,
    correlate,
    holm,
    lengths,
    load_chats,
    partial_correlation,
    rank_correlations,
    rated_chats,
    study_to_json,
)
from selfplay.train_settings import RewardSpec

ALTERNATING = ("ann", "bob") * 3


def entry(*texts: str, senders: tuple[str, ...] = ALTERNATING, **ratings: int) -> dict[str, object]:
    """A chat as the data hold it; each message in a group of its own."""
    messages = [[{"text": text, "sender": sender}] for text, sender in zip(texts, senders, strict=True)]
    return {"messages": messages, "prompt": "rain", "ratings": {"witty": 5, "upbeat": 5, "interesting": 5} | ratings}


def chats_of(*entries: object) -> list[RatedChat]:
    return rated_chats({str(number): each for number, each in enumerate(entries)})  # type: ignore[misc]  # test data


def many_chats(witty: np.ndarray, *, num_pairs: int) -> list[RatedChat]:
    """Chats of pairs that take turns; their lengths differ, and have nothing to do with the rating."""
    rng = np.random.default_rng(7)
    entries = []
    for number, rating in enumerate(witty):
        pair = (f"a{number % num_pairs}", f"b{number % num_pairs}")
        num_turns = int(rng.integers(6, 12))
        texts = ["word " * int(rng.integers(1, 9)) for _ in range(num_turns)]
        entries.append(entry(*texts, senders=tuple(pair[k % 2] for k in range(num_turns)), witty=int(rating)))
    return chats_of(*entries)


def spearman(x: list[float], y: list[float]) -> float:
    return float(rank_correlations(np.array([x, y]), np.ones((len(x), 1)))[0, 0, 1])


# ----- correlations -----


def test_rho_with_ties_is_that_of_mean_ranks():
    # Ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4; minus 2.5: (-1.5, 0, 0, 1.5) and (-1.5, 0.5, -0.5, 1.5).
    assert spearman([1, 2, 2, 9], [0, 7, 3, 8]) == pytest.approx(4.5 / math.sqrt(4.5 * 5.0))


def test_rho_of_a_reversed_order_is_minus_one():
    assert spearman([1, 2, 3], [30, 20, 10]) == pytest.approx(-1.0)


def test_rho_of_a_constant_is_unknown():
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_weights_count_as_if_the_rows_stood_there_so_often():
    table = np.array([[3.0, 1.0, 2.0, 2.0], [1.0, 5.0, 4.0, 4.0], [2.0, 2.0, 1.0, 7.0]])
    counts = [2, 0, 3, 1]
    repeated = np.repeat(table, counts, axis=1)
    expected = rank_correlations(repeated, np.ones((6, 1)))
    assert rank_correlations(table, np.array([counts], dtype=float).T) == pytest.approx(expected)


def test_partial_correlation_of_three_is_that_of_the_textbook():
    # By the formula for one control: 0.5 - 0.6 * 0.4 above sqrt((1 - 0.36) * (1 - 0.16)).
    correlations = np.array([[1.0, 0.5, 0.6], [0.5, 1.0, 0.4], [0.6, 0.4, 1.0]])
    assert float(partial_correlation(correlations)) == pytest.approx(0.26 / math.sqrt(0.64 * 0.84))


def test_holm_stops_at_the_first_that_fails_and_ignores_what_is_unknown():
    # 0.01 <= 0.05 / 3, then 0.03 > 0.05 / 2 ends it, though 0.04 <= 0.05.
    assert holm([0.04, 0.01, math.nan, 0.03]) == [False, True, False, False]
    assert holm([0.04, 0.01, 0.02]) == [True, True, True]


# ----- the data -----


def test_slider_that_was_not_moved_is_no_rating():
    [chat] = chats_of(entry(*"abcdef", witty=8, interesting=1))
    assert chat.ratings == {"witty": 8, "interesting": 1}


@pytest.mark.parametrize(
    "left_out",
    [
        entry(*"abcdef"),
        entry(*"abcde", senders=ALTERNATING[:5], witty=8),
        entry(*"abcdef", senders=("ann",) * 6, witty=8),
        entry(*"abcdef", senders=("ann", "bob", "ann", "bob", "ann", "eve"), witty=8),
        {"messages": entry(*"abcdef")["messages"]},
    ],
    ids=["nothing moved", "five turns", "alone", "three people", "no ratings"],
)
def test_chat_without_two_people_six_turns_and_a_rating_is_left_out(left_out: dict[str, object]):
    kept = entry(*"abcdef", witty=1)
    assert [chat.conversation.scenario.seed for chat in chats_of(left_out, kept)] == [1]


def test_messages_of_one_sender_in_a_row_are_one_turn():
    senders = ("bob", "bob", "ann", "bob", "ann", "ann", "bob", "ann")
    [chat] = chats_of(entry("hi", "you?", "yo", "a", "b", "  ", "c", "d", senders=senders, upbeat=9))
    turns = chat.conversation.turns
    assert [(turn.role, turn.text) for turn in turns][:4] == [
        ("first", "hi\nyou?"),
        ("second", "yo"),
        ("first", "a"),
        ("second", "b"),
    ]
    assert (turns[0].heard_text, turns[1].heard_text, len(turns)) == ("", "hi\nyou?", 6)
    assert chat.people == ("ann", "bob")


def test_lengths_are_turns_and_words_a_turn():
    found = lengths(chats_of(entry("one two", "it's", "a", "b", "c", "d e f", witty=7)))
    # 2 + 1 + 1 + 1 + 1 + 3 words in 6 turns
    assert {name: column.tolist() for name, column in found.items()} == {
        "number of turns": [6.0],
        "words a turn": [1.5],
    }


def test_missing_package_is_told_in_a_sentence():
    with pytest.raises(UserError, match=r"are not installed .*: pip install 'selfplay-dialog\[data\]'"):
        load_chats("no_such_package_of_chats")


# ----- the study -----


def planted(*, num_pairs: int = 300) -> tuple[list[RatedChat], dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    truth = rng.normal(size=300)
    noisy = truth * 0.5 + rng.normal(size=300) * math.sqrt(0.75)
    # Ratings 6 to 10 are fifths of the order, so no slider stands at 5.
    witty = 6 + np.argsort(np.argsort(truth)) // 60
    columns = {"noisy": noisy, "noise": rng.normal(size=300), "rare": np.eye(300)[0]}
    return many_chats(witty, num_pairs=num_pairs), columns


def row_of(study: RatingStudy, heuristic: str):
    [row] = [row for row in study.correlations if (row.heuristic, row.question) == (heuristic, "witty")]
    return row


def test_interval_covers_the_planted_correlation_and_nothing_is_found_in_noise():
    chats, columns = planted()
    study = correlate(chats, columns, seed=1, num_resamples=300)
    noisy, noise = row_of(study, "noisy"), row_of(study, "noise")
    # Spearman's rho of two normals with r = 0.5; fifths of the order lose about four percent of it.
    expected = 0.96 * 6.0 / math.pi * math.asin(0.25)
    assert noisy.plain.low < expected < noisy.plain.high
    # The interval of a correlation of 300 pairs is about 2 * 1.96 / sqrt(300) * (1 - 0.46 ** 2) = 0.18 wide.
    assert 0.12 < noisy.plain.high - noisy.plain.low < 0.24
    assert noisy.plain.is_clear
    assert noisy.partial.is_clear
    assert noise.plain.low < 0.0 < noise.plain.high
    assert not noise.plain.is_clear


def test_copies_of_a_chat_by_the_same_two_people_make_nothing_surer():
    chats, columns = planted()
    once = correlate(chats, {"noisy": columns["noisy"]}, seed=1, num_resamples=50)
    copies = [chat for chat in chats for _ in range(3)]
    thrice = correlate(copies, {"noisy": np.repeat(columns["noisy"], 3)}, seed=1, num_resamples=50)
    assert row_of(thrice, "noisy").plain.low == pytest.approx(row_of(once, "noisy").plain.low)
    assert row_of(thrice, "noisy").plain.p_value == pytest.approx(row_of(once, "noisy").plain.p_value)
    assert row_of(thrice, "noisy").num_chats == 900


def test_what_only_follows_the_number_of_turns_is_nothing_once_that_is_fixed():
    rng = np.random.default_rng(5)
    chats = many_chats(np.full(300, 9), num_pairs=300)
    turns = np.array([chat.conversation.num_turns for chat in chats])
    ratings = np.clip(turns - 4 + rng.integers(0, 4, size=300), 6, 10)
    chats = [RatedChat(conversation=c.conversation, people=c.people, ratings={"witty": int(r)})
             for c, r in zip(chats, ratings, strict=True)]  # fmt: skip
    row = row_of(correlate(chats, {"follows": turns + rng.normal(size=300)}, seed=1, num_resamples=100), "follows")
    assert row.plain.value > 0.5
    assert abs(row.partial.value) < 0.15


def test_what_hardly_ever_happens_and_what_nobody_rated_is_unknown():
    chats, columns = planted()
    study = correlate(chats, columns, seed=1, num_resamples=20)
    assert math.isnan(row_of(study, "rare").plain.value)
    assert {row.num_chats for row in study.correlations if row.question == "upbeat"} == {0}
    data = json.loads(json.dumps(study_to_json(study), allow_nan=False))
    assert data["correlations"][4]["spearman"]["value"] is None


def test_halves_agree_where_every_correlation_is_planted():
    chats, columns = planted()
    strong = {"plus": columns["noisy"], "minus": -columns["noisy"], "none": columns["noise"]}
    study = correlate(chats, strong, seed=1, num_resamples=20)
    first, second = row_of(study, "plus").plain.halves
    assert first > 0.3 < second
    assert study.halves[0].num_heuristics == 5
    assert study.halves[0].plain > 0.6


# ----- the command -----


def columns_of(specs: Mapping[str, Mapping[str, RewardSpec]], *entries: object) -> dict[str, list[float]]:
    heuristics = {name: build_rewards(rewards) for name, rewards in specs.items()}
    return {name: column.tolist() for name, column in measure(chats_of(*entries), heuristics).items()}


def test_measure_is_the_mean_a_turn_of_a_reward_or_of_a_weighted_sum():
    asking = entry("Why?", "So what?", "Who?", "a", "b", "c", witty=9)
    silent = entry(*"abcdef", witty=9)
    mix = {"question": RewardSpec(weight=-2.0)}
    found = columns_of({"question": {"question": RewardSpec(weight=3.0)}, "-r": mix}, asking, silent)
    # Three of six turns ask: the raw mean is 0.5 whatever the weight, and the mix has -2 times that.
    assert found == {"question": [0.5, 0.0], "-r": [-1.0, 0.0]}


def test_table_has_a_line_a_heuristic_and_marks_what_is_clear():
    chats, columns = planted()
    table = ratings_table(correlate(chats, columns, seed=1, num_resamples=50), command="it")
    [line] = [line for line in table.splitlines() if line.startswith("| noisy |")]
    assert line.split(" | ")[1].startswith("**+0.")
    assert "| - |" in line
    assert "Chats with a rating: 300 witty, 0 upbeat, 0 interesting." in table
    assert "Too rare to measure: rare." in table


def test_dry_run_names_every_reward_that_reads_text(capsys: pytest.CaptureFixture[str]):
    assert main(["study", "ratings", "-r", "question=1", "--dry-run"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert {"question", "laughter", "self_overlap", "preset vhrl", "mix:vhrl", "-r"} <= set(names)
    assert not {"cut", "payoff", "private_leak", "stopping", "classifier", "mix:way_off_policy_encoder"} & set(names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["oot=x"], "oot=x: unknown to `study ratings`; did you mean out?"),
        (["coherence=-1"], "coherence=-1: must be a whole number"),
        (["-r", "questoin=1"], "questoin"),
    ],
)
def test_wrong_words_are_refused_in_a_sentence(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    assert main(["study", "ratings", *words]) == 2
    assert message in capsys.readouterr().err


def test_command_writes_table_and_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "sixty_rated_chats"
    package.mkdir()
    (package / "__init__.py").touch()
    # Half of the chats ask three questions more, and are rated 9 instead of 2.
    asked = [("Why is that?", "How so?", "a", "b", "What then?", "d"), tuple("abcdef")]
    data = {str(n): entry(*asked[n % 2], senders=(f"x{n}", f"y{n}") * 3, witty=(9, 2)[n % 2]) for n in range(60)}
    (package / "dataset.json").write_text(json.dumps(data), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    words = ("ratings", f"out={tmp_path}/out", "seed=1")
    assert run(CommandLine(words=words), package="sixty_rated_chats") == 0
    found = json.loads((tmp_path / "out" / "correlations.json").read_text(encoding="utf-8"))
    [row] = [r for r in found["correlations"] if (r["heuristic"], r["question"]) == ("question", "witty")]
    assert (row["num_chats"], row["spearman"]["value"]) == (60, 1.0)
    assert "| question | **+1.00** (+1.00 to +1.00) |" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
