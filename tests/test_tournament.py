"""Who is how good: matrices by hand, a planted order, and what must be exact."""

import json
import math
from collections.abc import Callable, Iterable

import numpy as np
import pytest

from selfplay.dialog import Conversation, Outcome, PlayerInfo, Scenario, conversation_id
from selfplay.skill import BETA, Skill
from selfplay.tournament import Entry, Tournament, castings, rate_games, tournament_of
from selfplay.tournament_json import tournament_from_json, tournament_to_json
from tests.duel import ROLES

LEFT, RIGHT = ROLES
Pay = Callable[[int, str, str], tuple[float, float] | str | None]  # scenario, who is left, who is right


def entries(*names: str) -> list[Entry]:
    return [Entry(name=name) for name in names]


def talk(seed: int, index: int, players: dict[str, str], paid: tuple[float, ...] | str | None) -> Conversation:
    """Make a conversation; paid: by role, or a status, or None: a limit cut it."""
    outcome = Outcome(status="truncated", reason="token_limit")
    if isinstance(paid, tuple):
        outcome = Outcome(status="terminated", reason="agreement", payoff=dict(zip(players, paid, strict=True)))
    elif paid == "failed":
        outcome = Outcome(status="failed", reason="empty_reply")
    return Conversation(
        id=conversation_id(step=0, letter="t", group=seed, index=index),
        scenario=Scenario(env="duel", seed=seed, split="held_out", roles=tuple(players)),
        players={role: PlayerInfo(policy=name) for role, name in players.items()},
        outcome=outcome,
    )


def played(names: Iterable[str], pay: Pay, *, num_scenarios: int) -> list[Conversation]:
    """Let everybody meet everybody, and itself, in both roles."""
    names = list(names)
    return [
        talk(seed, number, {LEFT: left, RIGHT: right}, pay(seed, left, right))
        for seed in range(num_scenarios)
        for number, (left, right) in enumerate((left, right) for left in names for right in names)
    ]


def held(names: str, pay: Pay, *, num_scenarios: int = 4, seed: int = 0) -> Tournament:
    conversations = played(names, pay, num_scenarios=num_scenarios)
    return tournament_of(conversations, entries(*names), env="duel", roles=ROLES, seed=seed)


def by_strength(seed: int, left: str, right: str) -> tuple[float, float]:
    """Left gains 1 by moving first and what it is stronger; zero-sum."""
    gain = 1.0 + (ord(right) - ord(left)) * (1 + seed)
    return gain, -gain


def test_a_cell_is_the_mean_over_roles_and_scenarios_against_one_other():
    # Scenarios 0 and 1.  a left of b gains 1 + 1 and 1 + 2; b left of a gains 1 - 1 and 1 - 2.
    cell = held("ab", by_strength, num_scenarios=2).cell("a", "b")
    assert {name: mean.value for name, mean in cell.numbers.items() if "payoff" in name} == {
        "game/payoff": 1.5,  # (2 + 3 + 0 + 1) / 4
        "game/payoff/left": 2.5,
        "game/payoff/right": 0.5,
        "game/opponent_payoff": -1.5,
    }
    # 0 to 0 is a tie; the other three are a's.
    assert (cell.wins, cell.ties, cell.losses) == (3, 1, 0)
    assert cell.numbers["game/win"].value == 0.875
    assert (cell.num_scenarios, cell.num_conversations, cell.num_unpaid, cell.num_failed) == (2, 4, 0, 0)
    # Resampled are scenarios: the first alone gives 1, the second alone 2.
    assert (cell.payoff.low, cell.payoff.high) == (1.0, 2.0)


def test_the_matrix_of_a_zero_sum_game_is_antisymmetric_and_its_diagonal_exactly_zero():
    found = held("abc", lambda seed, left, right: (g := math.sin(7 * seed + ord(left) - 2 * ord(right)), -g))
    for row in "abc":
        assert (found.cell(row, row).payoff.value, found.cell(row, row).payoff.high) == (0.0, 0.0)
        for column in "abc":
            one, other = found.cell(row, column), found.cell(column, row)
            assert one.payoff.value == -other.payoff.value
            assert (one.payoff.low, one.payoff.high) == pytest.approx((-other.payoff.high, -other.payoff.low))
            assert (one.wins, one.ties, one.losses) == (other.losses, other.ties, other.wins)
    assert found.contest == "zero_sum"


def test_an_entry_against_itself_is_even():
    # Who is left always wins, whoever it is: x and y are the same player.
    found = held("xy", lambda seed, left, right: (1.0, -1.0), num_scenarios=12)
    x, y = sorted(found.standings, key=lambda one: one.entry.name)
    assert (x.payoff.value, x.wins, x.ties, x.losses) == (0.0, 12, 0, 12)
    assert (y.payoff.value, y.wins, y.ties, y.losses) == (0.0, 12, 0, 12)
    assert abs(x.skill.mu - y.skill.mu) < min(x.skill.sigma, y.skill.sigma)
    # By role it is seen that left is the better part, for both.
    for one in (x, y):
        assert one.role_skills[LEFT].interval[0] > one.role_skills[RIGHT].interval[1]
        assert (found.cell(one.entry.name, one.entry.name).wins, one.role_skills[LEFT].mu > 25) == (12, True)


def planted(strengths: dict[str, float], *, seed: int) -> Pay:
    """Win as skills say: with probability 1 / (1 + exp(difference / (beta sqrt 2))); one game in ten is a tie."""
    generator = np.random.default_rng(seed)

    def pay(_scenario: int, left: str, right: str) -> tuple[float, float]:
        chance = 1 / (1 + math.exp((strengths[right] - strengths[left]) / (BETA * math.sqrt(2))))
        if generator.random() < 0.1:
            return 0.0, 0.0
        return (1.0, -1.0) if generator.random() < chance else (-1.0, 1.0)

    return pay


@pytest.mark.parametrize("seed", [1, 2])
def test_a_planted_order_is_recovered_within_its_intervals(seed):
    strengths = {"a": 18.0, "b": 32.0, "c": 25.0}
    found = held("abc", planted(strengths, seed=seed), num_scenarios=40)
    assert found.names == ["b", "c", "a"]
    skills = {one.entry.name: one.skill for one in found.standings}
    for one in strengths:
        for other in strengths:
            apart = skills[one].mu - skills[other].mu - (strengths[one] - strengths[other])
            assert abs(apart) <= 2 * math.hypot(skills[one].sigma, skills[other].sigma), (one, other)
    # Sure enough to tell neighbours apart.
    assert skills["b"].interval[0] > skills["c"].mu > skills["a"].interval[1]


def test_the_order_of_conversations_and_of_entries_changes_nothing():
    conversations = played("abc", by_strength, num_scenarios=3)
    texts = {
        json.dumps(
            tournament_to_json(tournament_of(talks, entries(*names), env="duel", roles=ROLES, seed=5)), sort_keys=True
        )
        for talks, names in ((conversations, "abc"), (conversations[::-1], "cab"))
    }
    assert len(texts) == 1


def test_a_late_win_counts_as_much_as_an_early_one():
    wins = [{"x": 1, "y": 2}] * 20
    losses = [{"x": 2, "y": 1}] * 20
    for games in (wins + losses, losses + wins):
        found = rate_games(games, "xy", seed=0)
        assert abs(found["x"].mu - found["y"].mu) < found["x"].sigma
    assert rate_games([], "x", seed=0) == {"x": Skill()}


def test_a_scenario_on_which_anything_failed_is_left_out_of_its_pair_alone():
    def pay(seed: int, left: str, right: str) -> tuple[float, float] | str | None:
        if seed == 1 and (left, right) == ("b", "a"):
            return "failed"
        return None if seed == 2 and {left, right} == {"a", "c"} else by_strength(seed, left, right)

    found = held("abc", pay)
    for row, column in (("a", "b"), ("b", "a")):
        cell = found.cell(row, column)
        assert (cell.num_scenarios, cell.num_conversations, cell.num_failed, cell.num_unpaid) == (3, 6, 1, 0)
        assert cell.wins + cell.ties + cell.losses == 6
    cut, whole = found.cell("a", "c"), found.cell("b", "c")
    assert (cut.num_scenarios, cut.num_conversations, cut.num_unpaid, cut.wins + cut.ties + cut.losses) == (4, 8, 2, 6)
    assert (whole.num_scenarios, whole.num_conversations, whole.num_failed) == (4, 8, 0)
    a = next(one for one in found.standings if one.entry.name == "a")
    assert a.wins + a.ties + a.losses == 12


def test_where_all_are_always_paid_the_same_payoffs_say_who_is_better():
    found = held("abc", lambda seed, left, right: ((value := float("abc".index(left) + "abc".index(right))), value))
    assert found.contest == "none"
    assert found.names == ["c", "b", "a"]
    # c against a and b: 2 and 3, in both roles.
    assert [one.payoff.value for one in found.standings] == [2.5, 2.0, 1.5]
    assert {one.skill.mu for one in found.standings} == {25.0}
    assert "game/win" not in found.cell("a", "b").numbers
    assert found.cell("c", "c").payoff.value == 4.0


def test_with_three_roles_one_has_a_role_and_the_other_the_rest():
    roles = ("x", "y", "z")
    assert castings(roles, "a", "b")["y"] == {"x": "b", "y": "a", "z": "b"}
    casts = {
        tuple(players.values()) for pair in ("ab", "ba", "aa", "bb") for players in castings(roles, *pair).values()
    }
    assert len(casts) == 8
    # Paid is 1 for a, and for every role one tenth of its place.
    talks = [
        talk(
            0,
            number,
            dict(zip(roles, cast, strict=True)),
            tuple((name == "a") + place / 10 for place, name in enumerate(cast)),
        )
        for number, cast in enumerate(sorted(casts))
    ]
    found = tournament_of(talks, entries("a", "b"), env="duel", roles=roles, seed=0)
    cell = found.cell("a", "b")
    assert cell.payoff.value == pytest.approx(1.1)  # (1 + 1.1 + 1.2) / 3
    assert cell.num_conversations == 3
    assert found.cell("b", "a").payoff.value == pytest.approx(0.1)
    assert found.cell("a", "a").num_conversations == 1
    assert cell.filter == " | ".join(f"({text})" for text in cell.role_filters.values())
    assert cell.role_filters["y"] == "player.x=b & player.y=a & player.z=b"


def test_a_tournament_survives_json():
    found = held("abc", by_strength)
    text = json.dumps(tournament_to_json(found), allow_nan=False)
    assert tournament_from_json(json.loads(text)) == found
    # Of one scenario there are no intervals, and of nothing no means.
    for conversations in (played("ab", by_strength, num_scenarios=1), []):
        sparse = tournament_of(conversations, entries("a", "b"), env="duel", roles=ROLES, seed=0)
        text = json.dumps(tournament_to_json(sparse), allow_nan=False)
        assert tournament_to_json(tournament_from_json(json.loads(text))) == json.loads(text)
    with pytest.raises(ValueError, match="is no tournament"):
        tournament_from_json({"schema": "selfplay.elo/1"})


def test_a_name_with_signs_is_quoted_in_its_filter():
    odd = 'runs/a "b" & c'
    talks = [talk(0, 0, {LEFT: odd, RIGHT: "null"}, (1.0, 0.0))]
    cell = tournament_of(talks, entries(odd, "null"), env="duel", roles=ROLES, seed=0).cell(odd, "null")
    assert cell.role_filters[LEFT] == r'player.left="runs/a \"b\" & c" & player.right="null"'


def test_a_conversation_of_somebody_else_is_refused():
    with pytest.raises(ValueError, match="is of a, z; the entries are"):
        tournament_of([talk(0, 0, {LEFT: "a", RIGHT: "z"}, None)], entries("a"), env="duel", roles=ROLES, seed=0)
