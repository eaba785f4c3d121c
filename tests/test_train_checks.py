"""What `train` refuses or warns of before anything is loaded: settings that cannot be had, or do nothing."""

from dataclasses import dataclass

import pytest
from tiny_runs import ENV, create, resume, tiny_settings

from selfplay.commands import main
from selfplay.dialog import Conversation
from selfplay.errors import UserError
from selfplay.store import RunReader
from selfplay.trainable import check_trainable
from tests.duel import Duel

SIGNAL = ("preset=signal", "cluster=local")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["partner=league", "players.sender=scripted"], "partner=league needs a role for the policy and one for its"),
        (["partner=frozen", "players.sender=scripted"], "partner=frozen needs a role for the policy and one for the"),
        (["partner=frozen", "env=twenty_questions"], "env twenty_questions has one role; use partner=mirror"),
        (["view=shared"], "has private parts (sender), which one stream for both roles would reveal"),
        (["league.window=3"], "league.window has no effect with partner=mirror: add partner=league, or leave it out"),
        (["partner=frozen", "league.choose=uniform"], "league.choose has no effect with partner=frozen"),
        (["env=chitchat"], "env chitchat pays nothing, so the reward payoff would never apply"),
        (
            ["env=chitchat", "-r", "question=1", "-r", "shared_payoff=1"],
            "so the reward shared_payoff would never apply",
        ),
        (["env=chitchat", "-r", "question=1", "-r", "payoff=gate"], "so the reward payoff would never apply"),
    ],
)
@pytest.mark.parametrize("flags", [["--dry-run"], []])
def test_what_cannot_be_meant_is_refused_before_anything_is_made(words, message, flags, tmp_path, capsys):
    assert main(["train", *SIGNAL, *words, f"out={tmp_path}/run", *flags]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert (said.err.count("\n"), said.out, list(tmp_path.iterdir())) == (1, "", [])


@pytest.mark.parametrize(
    "words",
    [
        ["partner=league", "league.window=3", "env=kuhn"],
        ["partner=frozen", "env=kuhn"],
        ["env=chitchat", "-r", "question=1", "-r", "payoff=0"],  # measured only
        ["env=chitchat", "-r", "question=1", "view=shared"],
    ],
)
def test_what_can_be_meant_passes_without_a_word(words, capsys):
    assert main(["train", *SIGNAL, *words, "--dry-run"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "warnings"),
    [
        (["ray.play_workers=2", "ray.play_cpus=1"], ["ray.play_workers, ray.play_cpus: no effect with cluster=local"]),
        (["ray.address=auto"], []),
        (["ray.play_workers=2", "cluster=ray"], []),
        (
            ["partner=league"],
            ["env signal, as its own players show: all roles are always paid the same, so nobody wins"],
        ),
        (
            ["partner=league", "league.choose=prioritised"],
            ["this league has no ratings, and league.choose=prioritised draws as uniform does"],
        ),
        (
            ["partner=league", "env=chitchat", "-r", "question=1"],
            ["env chitchat, as its own players show: nothing is paid"],
        ),
        # Scripts agree on equal shares here, and players by chance do not.
        (["partner=league", "env=demand"], []),
    ],
)
def test_what_may_be_meant_and_does_nothing_is_told_in_a_line(words, warnings, capsys):
    assert main(["train", *SIGNAL, *words, "--dry-run"]) == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == len(warnings)
    for line, warning in zip(told, warnings, strict=True):
        assert line.startswith("warning: ")
        assert warning in line


def test_file_with_a_league_and_another_partner_is_told_and_one_with_the_defaults_is_not(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    for window, num_warnings in ((3, 1), (8, 0)):
        file.write_text(f"league: {{window: {window}}}\n")
        assert main(["train", *SIGNAL, f"config={file}", "--dry-run"]) == 0
        assert capsys.readouterr().err.count("league: what the file says of it has no effect") == num_warnings


@dataclass(frozen=True, slots=True, kw_only=True)
class Monologue(Duel):
    """`left` has all turns."""

    def next_role(self, conversation: Conversation) -> str | None:
        return None if conversation.num_turns >= self.turns else "left"

    def brief(self, scenario: object, role: str) -> str:
        return "Speak."


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo(Duel):
    """Roles hear what was said, twice."""

    def brief(self, scenario: object, role: str) -> str:
        return "Speak."

    def hears(self, conversation: Conversation, role: str) -> str:
        return conversation.turns[-1].text * 2 if conversation.turns else ""


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (Duel(), "the roles of env 'duel' have different briefs"),
        (Monologue(), "left speaks twice in a row, which one stream"),
        (Echo(), "tells right more than its partner said, which one stream"),
    ],
)
def test_environments_that_one_stream_cannot_hold_are_refused(env, message):
    with pytest.raises(UserError, match=message):
        check_trainable(tiny_settings("view=shared"), env)
    check_trainable(tiny_settings(), env)


def test_run_that_began_with_what_has_no_effect_goes_on():
    settings = tiny_settings("partner=frozen", "players.host=scripted")
    with pytest.raises(UserError, match="partner=frozen needs"):
        check_trainable(settings, ENV)
    check_trainable(settings, ENV, goes_on=True)


def test_start_that_is_refused_late_leaves_nothing_that_stops_the_next(tmp_path):
    run = create(tmp_path / "run", "view=shared", "steps=1")
    run.env = Duel()  # which nobody looked at before
    with pytest.raises(UserError, match="view=shared"):
        run.train()
    assert list(tmp_path.iterdir()) == []
    assert create(tmp_path / "run", "view=shared", "steps=1").train().version == 1


def test_run_that_stored_conversations_is_kept_and_goes_on(tmp_path):
    run = create(tmp_path / "run", "view=shared", "steps=2")

    def refuse(step: int, metrics: object) -> None:
        raise UserError("enough")

    run.screen.end_step = refuse
    with pytest.raises(UserError, match="enough"):
        run.train()
    assert len(list(RunReader(tmp_path / "run").ids())) == 4
    assert resume(tmp_path / "run", "view=shared", "steps=2").train().version == 2
