"""Best-of-N: what is chosen, of conversations and of turns, and that others go on meanwhile."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from envs.chitchat import ChitChat
from rewards import QuestionMarks
from selfplay.best_of import (
    BestOfTurns,
    Choice,
    best_conversations,
    candidates_of,
    choose,
    conversation_values,
    mean_reward,
    with_best_turns,
)
from selfplay.commands import main
from selfplay.commands.play_tally import Tally
from selfplay.dialog import Conversation, Outcome, PlayerInfo, Scenario, ScoredConversation, Scores, Turn
from selfplay.errors import UserError
from selfplay.interfaces import Completion, Request
from selfplay.play import make_matches, play
from selfplay.players import Player
from selfplay.score import WeightedReward
from selfplay.store import RunReader

TINY = ("model=tiny", "env.max_turns=3", "sampling.max_new_tokens=6", "conversations=2", "engine.threads=1")


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


class CountingGenerator:
    """Says the last digits of its seed; candidate k of a turn needs k + 1 steps."""

    def __init__(self) -> None:
        self.waiting: list[list] = []  # [steps left, request]
        self.open: set[str] = set()
        self.asked: list[Request] = []
        self.most_at_once = 0

    def submit(self, request: Request) -> None:
        number = int(request.stream.rpartition("~")[2]) if "~" in request.stream else 0
        self.waiting.append([number + 1, request])
        self.open.add(request.stream)
        self.asked.append(request)

    def step(self) -> list[Completion]:
        self.most_at_once = max(self.most_at_once, len({request.conversation.id for _, request in self.waiting}))
        for item in self.waiting:
            item[0] -= 1
        done = [request for left, request in self.waiting if left == 0]
        self.waiting = [item for item in self.waiting if item[0] > 0]
        return [self._answer(request) for request in done]

    def _answer(self, request: Request) -> Completion:
        return Completion(request=request, text=self.says(request), said=np.array([request.seed % 97], dtype=np.int32))

    def says(self, request: Request) -> str:
        return str(request.seed % 97)

    def close(self, stream: str) -> None:
        self.open.discard(stream)
        self.waiting = [item for item in self.waiting if item[1].stream != stream]


def last_number(conversations: Sequence[Conversation]) -> list[float]:
    return [float(one.turns[-1].text) for one in conversations]


def played(generator: CountingGenerator, *, n: int, num: int = 3, rank=last_number, notes=None) -> list[Conversation]:
    env = ChitChat(max_turns=2)
    wrapped = BestOfTurns(generator, n=n, rank=rank, texts={}, on_choice=notes)
    players = {"counter": Player(policy="counter", generator=wrapped)}
    matches = make_matches(env, dict.fromkeys(env.roles, "counter"), seed=1, num_matches=num, split="train")
    found = play(matches, env=env, players=players)
    return sorted(found, key=lambda conversation: conversation.id)


def test_choose_takes_the_highest_the_first_of_equal_ones_and_no_nan():
    assert choose([0.5, math.nan, 2.0, 2.0, math.inf]).chosen == 2
    assert choose([math.nan, math.nan]).chosen == 0
    assert choose([math.nan, -5.0]).chosen == 1


# ----- turns -----


def test_best_turn_is_the_highest_of_its_candidates_and_the_others_are_forgotten():
    generator, choices = CountingGenerator(), {}
    conversations = played(generator, n=4, notes=lambda id, choice: choices.setdefault(id, []).append(choice))
    for conversation in conversations:
        for k, turn in enumerate(conversation.turns):
            asked = [r for r in generator.asked if r.conversation.id == conversation.id and r.role == turn.role]
            assert float(turn.text) == max(r.seed % 97 for r in asked if r.conversation.num_turns == k)
        assert [choice.turn for choice in choices[conversation.id]] == [0, 1]
        assert [max(choice.values) for choice in choices[conversation.id]] == last_and_first(conversation)
    assert generator.open == set()


def last_and_first(conversation: Conversation) -> list[float]:
    return [float(turn.text) for turn in conversation.turns]


def test_other_conversations_go_on_while_candidates_are_drawn():
    generator = CountingGenerator()
    played(generator, n=3, num=5)
    assert generator.most_at_once == 5


def test_one_candidate_is_ordinary_play():
    env = ChitChat(max_turns=2)
    players = {"counter": Player(policy="counter", generator=CountingGenerator())}
    matches = make_matches(env, dict.fromkeys(env.roles, "counter"), seed=1, num_matches=3, split="train")
    plain = sorted(play(matches, env=env, players=players), key=lambda conversation: conversation.id)
    said = [[turn.text for turn in one.turns] for one in plain]
    assert [[turn.text for turn in one.turns] for one in played(CountingGenerator(), n=1)] == said


def test_candidates_open_with_all_that_the_stream_holds():
    generator = CountingGenerator()
    stream = "000000-g00-0/host"
    wrapped = BestOfTurns(generator, n=2, rank=last_number, texts={})
    scenario = Scenario(env="x", seed=0, split="train", roles=("host",))
    conversation = Conversation(id="000000-g00-0", scenario=scenario, players={"host": PlayerInfo(policy="p")})
    request = Request(conversation=conversation, role="host", policy="p", stream=stream, seed=5)
    wrapped.submit(replace(request, tokens=np.array([1, 2], dtype=np.int32)))
    first = next(completion for _ in range(2) for completion in wrapped.step())
    wrapped.submit(replace(request, tokens=np.array([3], dtype=np.int32)))
    assert first.request.tokens.tolist() == [1, 2]
    assert [asked.tokens.tolist() for asked in generator.asked[2:]] == [[1, 2, *first.said.tolist(), 3]] * 2


def test_choice_counts_the_tokens_of_all_candidates():
    choices: list[Choice] = []
    played(CountingGenerator(), n=4, num=1, notes=lambda _, choice: choices.append(choice))
    assert [choice.num_tokens for choice in choices] == [4, 4]  # each says one token
    said = [
        replace(turn, said=np.zeros(size, dtype=np.int32))
        for turn, size in zip(conversation("x", "1", "2", "3").turns, (5, 2, 1), strict=True)
    ]
    drawn = [replace(conversation(f"a~{k}", "1"), turns=tuple(said[: k + 2])) for k in range(2)]
    # The first turn was there before: 2 and 2 + 1 tokens are new.
    found = next(best_conversations(drawn, n=2, rank=last_number, num_past=1))
    assert found.choice.num_tokens == 5


def test_failed_and_empty_candidates_are_never_preferred():
    class Stumbling(CountingGenerator):
        def _answer(self, request: Request) -> Completion:
            number = int(request.stream[-1])
            if number == 0:
                return Completion(request=request, error="it broke")
            return Completion(request=request, text=" " if number == 1 else "-3")

    conversations = played(Stumbling(), n=3, num=1)
    assert [turn.text for turn in conversations[0].turns] == ["-3", "-3"]


def test_turn_whose_candidates_all_fail_ends_its_conversation_with_the_error():
    class Broken(CountingGenerator):
        def _answer(self, request: Request) -> Completion:
            return Completion(request=request, error="it broke")

    conversation = played(Broken(), n=3, num=1)[0]
    assert conversation.outcome.reason == "player_error"
    assert "it broke" in conversation.error


def test_stream_that_is_closed_while_it_talks_leaves_nothing_open():
    generator = CountingGenerator()
    wrapped = BestOfTurns(generator, n=3, rank=last_number, texts={})
    scenario = Scenario(env="x", seed=0, split="train", roles=("host",))
    request = Request(
        conversation=Conversation(id="a", scenario=scenario), role="host", policy="p", stream="a/host", seed=1
    )
    wrapped.submit(request)
    with pytest.raises(UserError, match="talking already"):
        wrapped.submit(request)
    wrapped.close("a/host")
    assert (generator.open, generator.waiting, wrapped.step()) == (set(), [], [])


def test_players_without_a_model_have_no_candidates():
    with pytest.raises(UserError, match="no role is filled by a language model"):
        with_best_turns({"x": Player(policy="x", generator=CountingGenerator())}, n=2, rank=last_number)


# ----- conversations -----


def conversation(id: str, *texts: str, outcome: Outcome | None = None, **players: PlayerInfo) -> Conversation:
    scenario = Scenario(env="x", seed=0, split="train", roles=("host", "guest"))
    turns = tuple(
        Turn(role=("host", "guest")[k % 2], text=text, heard_text="", player="p") for k, text in enumerate(texts)
    )
    return Conversation(id=id, scenario=scenario, turns=turns, outcome=outcome, players=players)


def test_best_conversation_of_each_match_comes_under_the_id_of_the_match():
    failed = Outcome(status="failed", reason="empty_reply")
    drawn = [
        conversation("b~1", "9"),
        conversation("a~1", "7"),
        conversation("a~0", "3"),
        conversation("b~0", "99", outcome=failed),
    ]
    found = list(best_conversations(drawn, n=2, rank=last_number))
    assert [(one.conversation.id, one.conversation.turns[0].text, one.choice.chosen) for one in found] == [
        ("a", "7", 1),
        ("b", "9", 1),
    ]
    assert math.isnan(found[1].choice.values[0])


def test_first_candidate_of_a_match_draws_what_the_match_would_have():
    env = ChitChat()
    match = next(make_matches(env, dict.fromkeys(env.roles, "p"), seed=3, num_matches=1, split="train"))
    candidates = candidates_of(match, n=4)
    assert candidates[0].seed == match.seed
    assert len({one.seed for one in candidates}) == 4
    assert {one.scenario.seed for one in candidates} == {match.scenario.seed}


def test_mean_reward_counts_turns_of_models_that_something_was_said_of():
    model, human = PlayerInfo(policy="p", model="m"), PlayerInfo(policy="human")
    talk = conversation("a", "w", "x", "y", "z", host=model, guest=human)
    parts = {"r": Scores(values=floats(math.nan, 8.0, 3.0, 8.0))}
    scored = ScoredConversation(conversation=talk, rewards=floats(0.0, 8.0, 3.0, 8.0), parts=parts)
    # The host's turns are 0 and 2; nothing was said of turn 0.
    assert mean_reward(scored) == 3.0
    # Without models everybody counts: (8 + 3 + 8) / 3.
    assert mean_reward(replace(scored, conversation=replace(talk, players={}))) == pytest.approx(19 / 3)


def test_reward_that_fails_is_an_error_not_a_choice():
    class Broken:
        name = "broken"

        def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
            raise RuntimeError("no")

    with pytest.raises(UserError, match=r"by a reward that fails: .*'broken' raised RuntimeError"):
        conversation_values([conversation("a", "hi")], [WeightedReward(reward=Broken())])


# ----- as it is typed -----


def notes_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "annotations.jsonl").read_text().splitlines()]


def marks_a_turn(run: Path) -> list[float]:
    found = sorted(RunReader(run).conversations(), key=lambda one: one.id)
    marks = QuestionMarks()
    return [float(marks.score([one])[0].values.mean()) for one in found]


def test_play_best_of_keeps_the_best_conversation_and_what_the_others_were_worth(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["play", *TINY, "out=best", "best_of=4", "by=question_marks"]) == 0
    # ln 4 - 3/4
    said = " ".join(capsys.readouterr().out.split())
    assert "best of 4 by question_marks: KL(best-of-4 || policy) is at most 0.636 nats" in said
    reader = RunReader(tmp_path / "best")
    assert sorted(reader.ids()) == ["000000-g00-0", "000000-g01-0"]
    notes = {note["conversation"]: note["data"] for note in notes_of(tmp_path / "best")}
    for id, kept in zip(sorted(notes), marks_a_turn(tmp_path / "best"), strict=True):
        known = [value for value in notes[id]["values"] if value is not None]
        assert notes[id]["values"][notes[id]["chosen"]] == max(known) == pytest.approx(kept, abs=1e-4)
    worth = [value for note in notes.values() for value in note["values"]]
    kept = [note["values"][note["chosen"]] for note in notes.values()]
    values = f"{np.mean(kept):.2f} of those kept, {np.mean(worth):.2f} of all candidates"
    assert f"mean reward a turn by question_marks: {values}" in said
    assert "; 2 kept of 8 candidates, " in said
    record = next(iter(reader.records()))
    assert [part["name"] for part in record["rewards"]["parts"]][:1] == ["question_marks"]
    assert reader.manifest["best_of"]["kl_bound_nats"] == pytest.approx(0.636294, abs=1e-6)


def test_play_best_of_one_turn_at_a_time_is_repeated_by_its_configuration(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["best_of=3", "best_of_unit=turn", "-r", "question_marks=1"]
    assert main(["play", *TINY, "out=first", *words]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "at most 0.432 nats a turn" in said
    assert "; 6 turns kept of 18 candidates, " in said
    assert main(["play", "config=first/config.yaml", "out=second"]) == 0
    said = [
        [[t.said.tolist() for t in c.turns] for c in RunReader(tmp_path / run).conversations(with_tokens=True)]
        for run in ("first", "second")
    ]
    assert said[0] == said[1]
    assert {note["turn"] for note in notes_of(tmp_path / "first")} == {0, 1, 2}


def test_chat_that_is_shown_ends_with_its_reward_and_what_it_was_chosen_from(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["play", *TINY, "out=best", "best_of=3", "by=question_marks"]) == 0
    shown = capsys.readouterr().out
    assert main(["show", "best", "000000-g00-0"]) == 0
    stored = " ".join(capsys.readouterr().out.split())
    ending = " ".join(shown.split())
    note = next(note["data"] for note in notes_of(tmp_path / "best") if note["conversation"] == "000000-g00-0")
    values = ", ".join(f"{value:.2f}" for value in note["values"])
    best = f"the best of 3 by question_marks: {max(note['values']):.2f} a turn, chosen from {values}"
    reward = stored[stored.rindex("reward host") : stored.index(best)]
    assert f"{reward}{best}" in ending
    assert f"{reward}{best}" in stored


def test_rate_and_means_count_the_candidates_that_did_not_stay():
    tally = Tally(by="question")
    said = tuple(replace(turn, said=np.zeros(4, dtype=np.int32)) for turn in conversation("a", "x", "y").turns)
    for values, chosen in (((0.5, -0.25, math.nan), 0), ((1.0, 1.5, 0.25), 1)):
        choice = Choice(values=values, chosen=chosen, num_tokens=20)
        tally.add(replace(conversation("a"), turns=said), num_past=0, seconds=4.0, choices=[choice])
    # 40 tokens in 4 s; kept (0.5 + 1.5) / 2, candidates (0.5 - 0.25 + 1 + 1.5 + 0.25) / 5
    first, second = tally.lines()
    assert "4 turns, 16 tokens said; 2 kept of 6 candidates, 40 tokens sampled in 4.0 s (10 tokens/s)" in first
    assert second == (
        "mean reward a turn by question: 1.00 of those kept, 0.60 of the 5 candidates that could be ranked"
    )
    assert tally.as_json()["best_of"] == {
        "kept": 2,
        "candidates": 6,
        "sampled_tokens": 40,
        "mean_reward_kept": 1.0,
        "mean_reward_candidates": 0.6,
    }


def test_candidate_that_was_chosen_goes_on_alone_as_it_was_stored(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["play", *TINY, "out=runs/best", "best_of=4", "by=question_marks"]) == 0
    assert main(["play", "from=best/000000-g00-0", "turn=1", "out=again"]) == 0
    stored, again = (RunReader(tmp_path / run).conversation("000000-g00-0") for run in ("runs/best", "again"))
    assert [turn.said.tolist() for turn in again.turns] == [turn.said.tolist() for turn in stored.turns]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["best_of=4"], "say which reward chooses"),
        (["by=question"], "best_of=1 leaves nothing to choose from"),
        # Not that there is no such reward model: it would not be asked.
        (["by=rm:x"], "by=rm:x: best_of=1 leaves nothing to choose from"),
        (["best_of=4", "by=question", "players.guest=human"], "with a person say best_of_unit=turn"),
        (["best_of=4", "by=question", "sampling.temperature=0"], "all candidates would be the same"),
        (["best_of=4", "by=qestion"], "question"),
        (["best_of=0"], "best_of"),
    ],
)
def test_wrong_words_are_refused_in_a_sentence(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["play", *TINY, *words]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
