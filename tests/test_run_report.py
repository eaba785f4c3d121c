"""The page about a run: what it says, what it leaves out, and that whatever a model says stays text in it."""

import json
import shutil
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.stored_run import write_run
from selfplay import run_report
from selfplay.commands import main
from selfplay.curves import read_curves
from selfplay.errors import UserError
from selfplay.evaluate import comparison_from_json
from selfplay.report_talks import MAX_CHARACTERS, choose, talk_of
from selfplay.run_report import report_html, write_report
from selfplay.transcript_index import TranscriptIndex

HOSTILE = "</p><script>alert(1)</script><img src=x onerror=alert(2)>\u202eabc\u0000 {{ 7 * 7 }} ]]>"
BRIEF = "You are chatting with a friend"
VOID = ("meta", "br", "img", "link", "input")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "made", conversations=60, steps=4, turns=4, tokens="none")


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "made"))


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    # Drawing is slow, and another file tests it.
    monkeypatch.setattr(run_report, "svg_figures", lambda groups, look: {"learning": ["<svg></svg>"]})


@dataclass
class Seen(HTMLParser):
    """What a browser would make of a page."""

    tags: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str | None]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    is_style: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.is_style = tag == "style"

    def handle_data(self, data: str) -> None:
        if not self.is_style:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def seen(page: str) -> Seen:
    parser = Seen()
    parser.feed(page)
    parser.close()
    return parser


def change_records(run: Path, change: Any) -> None:
    for file in (run / "conversations").glob("*.jsonl"):
        records = [json.loads(line) for line in file.read_text().splitlines()]
        for record in records:
            change(record)
        file.write_text("".join(json.dumps(record) + "\n" for record in records))


def row(id: str, reward: float | None) -> Any:
    return SimpleNamespace(id=id, reward=reward)


@pytest.mark.usefixtures("no_figures")
def test_report_says_what_was_rewarded_gained_and_lost(run):
    text = seen(report_html(run)).text
    comparison = comparison_from_json(json.loads((run / "evaluation.json").read_text()))
    reward = comparison.row("reward/per_conversation")
    assert f"{reward.base:.3f} → {reward.trained:.3f}" in text
    assert f"{reward.low:+.3f} to {reward.high:+.3f}" in text
    assert "question weight 1 Whether a message asks." in text
    assert "conversation_repetition only measured" in text
    assert "KL from the base was steered to 0.06 nats a token" in text
    assert "before and after" in text
    assert "after 4 updates" in text
    alarm = json.loads((run / "alarms.jsonl").read_text().splitlines()[0])
    assert " ".join(alarm["text"].split()) in text


def test_report_holds_its_curves_and_asks_nothing_of_a_network(run):
    page = report_html(run)
    parsed = seen(page)
    assert parsed.tags.count("svg") > 10
    assert "script" not in parsed.tags
    assert "link" not in parsed.tags
    outside = [value for name, value in parsed.attributes if name in ("src", "href") and value and value[0] != "#"]
    assert outside == []
    assert "default-src 'none'" in page
    ids = [value for name, value in parsed.attributes if name == "id"]
    assert len(ids) == len(set(ids))


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("others", "told", "untold"),
    [(-0.5, ["won"], ["success"]), (0.25, ["won", "success"], []), (None, ["success"], [])],
)
def test_report_of_a_game_says_won_and_no_success_where_each_wins_what_the_other_loses(run, others, told, untold):
    def row(trained: float) -> dict[str, float]:
        return {"base": trained, "trained": trained, "difference": 0.0, "low": -0.125, "high": 0.125}

    file = run / "evaluation.json"
    data = json.loads(file.read_text())
    against = {} if others is None else {"game/opponent_payoff": row(others), "game/win": row(0.75)}
    data["metrics"] |= {"game/payoff": row(0.5), "game/success": row(0.25), **against}
    file.write_text(json.dumps(data))
    text = seen(report_html(run)).text
    boxes, rest = text.split("What was rewarded", 1)
    shares = {"won": "75% → 75%", "success": "25% → 25%"}
    for name in told:
        assert f"{name} {shares[name]}" in boxes
        assert f" {name} {shares[name].replace(' →', '')}" in rest
    for name in untold:
        assert f" {name} " not in text


@pytest.mark.usefixtures("no_figures")
def test_boxes_of_a_game_run_show_payoff_success_and_form_and_nothing_unmeasured(run):
    file = run / "evaluation.json"
    data = json.loads(file.read_text())
    measured = {"base": 0.25, "trained": 0.5, "difference": 0.25, "low": 0.125, "high": 0.375}
    data["metrics"] |= dict.fromkeys(("game/payoff", "game/success", "game/protocol_ok"), measured)
    data["metrics"]["play/distinct_2"] = dict.fromkeys(measured)
    file.write_text(json.dumps(data))
    text = seen(report_html(run)).text
    boxes = text[: text.index("What was rewarded")]
    assert "payoff 0.250 → 0.500 +0.250 (+0.125 to +0.375)" in boxes
    assert "success 25% → 50%" in boxes
    assert "form kept 25% → 50%" in boxes
    assert "reward of a conversation" in boxes
    assert "distinct word pairs" not in boxes


@pytest.mark.usefixtures("no_figures")
def test_text_from_elsewhere_stays_text_in_a_report(run):
    def change(record: dict[str, Any]) -> None:
        for turn in record["turns"]:
            turn["text"] = turn["heard_text"] = HOSTILE
        for player in record["players"].values():
            player["brief"] = HOSTILE
        record["scenario"]["public"]["topic"] = HOSTILE

    change_records(run, change)
    manifest = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**manifest, "command": HOSTILE, "model": HOSTILE, "device": HOSTILE}))
    (run / "alarms.jsonl").write_text(json.dumps({"name": "x", "step": HOSTILE, "text": HOSTILE}) + "\n")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("leaving:", f"opener: {json.dumps(HOSTILE)}\n  leaving:"))
    parsed = seen(report_html(run))
    assert {"script", "img"}.isdisjoint(parsed.tags)
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    assert parsed.text.count("<script>alert(1)</script>") > 20
    assert "49" not in parsed.text.replace("{{ 7 * 7 }}", "").split()


@pytest.mark.usefixtures("no_figures")
def test_what_models_and_people_wrote_cannot_turn_the_page_around(run):
    parsed = seen(report_html(run))
    num_turns = sum(value == "turn" or str(value).startswith("turn role") for _, value in parsed.attributes)
    assert num_turns > 20
    # Every text of a turn finds its own direction, apart from what surrounds it.
    assert sum(pair == ("dir", "auto") for pair in parsed.attributes) >= num_turns


@pytest.mark.usefixtures("no_figures")
def test_report_without_private_text_has_no_briefs_openers_or_configuration(run):
    assert BRIEF in report_html(run)
    page = report_html(run, private=False)
    for left_out in (BRIEF, "Start the conversation", "benchmarks.stored_run", "The whole configuration", "goodbye"):
        assert left_out not in page
    assert "without what roles alone were told" in page
    assert "before and after" in page


@pytest.mark.usefixtures("no_figures")
def test_report_without_private_text_names_no_folders_and_quotes_no_alarm(run):
    manifest = json.loads((run / "run.json").read_text())
    places = {"kind": "train", "model": "/home/CANARY/models/small", "env": "/home/CANARY/env.py"}
    (run / "run.json").write_text(json.dumps({**manifest, **places}))
    alarm = {"name": "reward_gap", "step": 1, "state": "began", "text": "CANARY of an alarm"}
    (run / "alarms.jsonl").write_text(json.dumps(alarm) + "\n")
    with (run / "conversations" / "train-000.jsonl").open("a") as file:
        file.write('{"schema": "CANARY"}\n')
    assert report_html(run).count("CANARY") >= 4
    page = report_html(run, private=False)
    assert "CANARY" not in page
    assert str(run.parent) not in page
    assert "reward gap" in page
    assert f"view {run.name}" in page
    assert "1 things could not be read" in page


@pytest.mark.usefixtures("no_figures")
def test_what_a_run_lacks_is_left_out(run):
    for name in ("evaluation.json", "alarms.jsonl", "metrics.jsonl"):
        (run / name).unlink()
    (run / "conversations" / "evaluation-000.jsonl").unlink()
    text = seen(report_html(run)).text
    for heading in ("Base against trained", "Alarms", "Over the updates", "Conversations before and after"):
        assert heading not in text
    assert "so each stands alone" in text


@pytest.mark.usefixtures("no_figures")
def test_torn_lines_are_told_and_a_run_without_a_manifest_still_has_a_report(run):
    (run / "run.json").write_text("{")
    with (run / "conversations" / "train-000.jsonl").open("a") as file:
        file.write("{]\n")
    text = seen(report_html(run)).text
    assert "Skipped while reading" in text
    assert "run.json: not valid JSON" in text
    assert "conversations/train-000.jsonl:49: not valid JSON" in text


def test_report_without_matplotlib_says_so(run, monkeypatch):
    monkeypatch.setattr(run_report, "can_draw", lambda: False)
    assert "The curves are left out: matplotlib is not installed" in seen(report_html(run)).text


@pytest.mark.usefixtures("no_figures")
def test_a_report_replaces_an_older_one_and_nothing_else(run, tmp_path):
    out = tmp_path / "page.html"
    for _ in range(2):
        write_report(run, out=out)
    assert out.read_bytes().startswith(b"<!doctype html>\n<!-- selfplay report -->")
    out.write_text("mine")
    with pytest.raises(UserError, match="there is another file already"):
        write_report(run, out=out)
    assert out.read_text() == "mine"


@pytest.mark.usefixtures("no_figures")
def test_report_command_writes_into_the_runs_folder(run, capsys):
    assert main(["report", "made", f"runs={run.parent}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(run / "report.html")}
    assert (run / "report.html").is_file()
    assert main(["report", "made", "other", f"runs={run.parent}"]) == 2
    assert "report takes one run, not 2" in capsys.readouterr().err


def test_choose_takes_the_ends_and_draws_from_what_is_between():
    rows = [(row(str(number), float(number)),) for number in range(8)]
    found = choose([*rows, (row("x", None),)], run="a")
    assert [(title, chosen[0].id) for title, chosen in found[:4]] == [
        ("best", "7"),
        ("best", "6"),
        ("worst", "0"),
        ("worst", "1"),
    ]
    drawn = [chosen[0].id for title, chosen in found[4:] if title == "drawn at random"]
    assert len(set(drawn)) == 2
    assert set(drawn) <= {"2", "3", "4", "5"}
    assert choose([*rows, (row("x", None),)], run="a") == found


def test_choose_never_shows_a_scenario_twice_and_draws_where_nothing_was_rewarded():
    one, two = (row("1", 1.0),), (row("2", 2.0),)
    assert choose([one], run="a") == [("best", one)]
    assert choose([one, two], run="a") == [("best", two), ("worst", one)]
    unknown = (row("3", None),)
    assert choose([unknown], run="a") == [("drawn at random", unknown)]
    assert choose([], run="a") == []


def test_a_long_text_is_cut_with_the_number_of_what_is_missing(run):
    index = TranscriptIndex(run)
    index.refresh()
    (first,) = index.page("", sort="oldest", limit=1).rows
    record = index.record(first.id)
    assert record is not None
    record["turns"][0]["text"] = "a" * 100_000
    text = talk_of(record, first).lines[0].text
    assert text == "a" * MAX_CHARACTERS + f"… ({100_000 - MAX_CHARACTERS} more characters)"


def test_curves_of_some_conversations_are_measured_anew(run):
    (all_of_them,) = read_curves([str(run)], run.parent)
    (same,) = read_curves([str(run)], run.parent, where="turns>0")
    stored, again = (one.series["reward/per_conversation"] for one in (all_of_them, same))
    # Stored rewards have 4 decimals, and a conversation at most 4 turns.
    assert again == pytest.approx(stored, abs=1e-3)
    (asking,) = read_curves([str(run)], run.parent, where='text~"?"')
    assert sum(asking.series["play/conversations"].values()) < sum(same.series["play/conversations"].values())
    with pytest.raises(UserError, match="no training conversation that fits 'turns>99'"):
        read_curves([str(run)], run.parent, where="turns>99")


def test_report_says_on_the_terminal_when_it_has_no_curves(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("selfplay.commands.report.can_draw", lambda: False)
    assert main(["report", str(run), f"out={tmp_path / 'r.html'}"]) == 0
    assert "without curves: matplotlib is not installed" in capsys.readouterr().err
