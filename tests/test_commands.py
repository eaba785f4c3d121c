"""The command line: the menu, help, errors, and the commands that need no run."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from selfplay.commands import VERBS, main
from selfplay.config import preset_names, preset_text

ROOT = Path(__file__).resolve().parents[1]


def python(code: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_no_verb_prints_what_it_is_and_one_line_a_verb(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("selfplay VERB")
    assert [line.split()[0] for line in lines[1:]] == list(VERBS)


def test_help_of_every_verb_imports_neither_torch_nor_ray():
    code = (
        "import sys; from selfplay.commands import VERBS, main\n"
        "statuses = [main([verb, '--help']) for verb in VERBS]\n"
        "print(statuses, sorted({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    )
    done = python(code)
    assert done.stdout.splitlines()[-1:] == [f"{[0] * len(VERBS)} []"], done.stderr


def test_list_imports_neither_torch_nor_ray():
    done = python("import sys; from selfplay.commands import main\nmain(['list'])\nprint('torch' in sys.modules)")
    assert done.stdout.splitlines()[-1:] == ["False"], done.stderr


def test_the_menu_imports_no_command():
    code = "import sys; from selfplay.commands import VERBS, main\nmain([])\n"
    done = python(code + "print([verb for verb, (module, _) in VERBS.items() if module in sys.modules])")
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_says_of_itself_what_the_menu_says(verb):
    module, summary = VERBS[verb]
    command = importlib.import_module(module)
    assert summary == command.SUMMARY
    assert command.USAGE.strip().startswith(f"selfplay {verb}")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["lst"], "error: unknown verb 'lst'; did you mean list?\n"),
        (["zzz"], f"error: unknown verb 'zzz'; choose from {', '.join(VERBS)}\n"),
        (["ls", "--dry-run"], "error: --dry-run means nothing to ls; ls --help says what it takes\n"),
        (["show", "--dry-run"], "error: --dry-run means nothing to show; show --help says what it takes\n"),
        (["preset", "--json"], "error: --json means nothing to preset; preset --help says what it takes\n"),
        (["list", "env"], "error: 'env' cannot be listed; did you mean envs?\n"),
        (["list", "zzz"], "error: 'zzz' cannot be listed; choose from envs, models, presets, rewards, mixes\n"),
        (["doctor", "x"], "error: doctor takes no words, only --json; 'x' is one too many\n"),
        (
            ["preset"],
            f"error: expected `preset show NAME` or `preset copy NAME FILE` (presets: {', '.join(preset_names())})\n",
        ),
        (["preset", "show", "caht"], "error: preset=caht: no preset has that name; did you mean chat?\n"),
        (["preset", "copy", "chat", "/no/x.yaml"], "error: /no/x.yaml cannot be written: No such file or directory\n"),
    ],
)
def test_a_mistake_gives_one_line_and_status_2(words, expected, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err == expected


def test_ctrl_c_gives_status_130(tmp_path, monkeypatch, capsys):
    (tmp_path / "patient.py").write_text("def run(line):\n    raise KeyboardInterrupt\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["wait"], verbs={"wait": ("patient", "waits")}) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_reader_that_goes_away_is_no_error():
    # The sleep lets `true` end first, so that writing is bound to fail.
    line = f"set -o pipefail; (sleep 0.5; exec {sys.executable} run.py preset show chat) | true"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_run_py_works_from_another_folder(tmp_path):
    command = [sys.executable, str(ROOT / "run.py"), "list", "presets"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert [line.split()[0] for line in done.stdout.splitlines()] == preset_names(), done.stderr


def test_list_json_names_everything_with_defaults(capsys):
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in listed["models"]] == ["smollm2-135m", "tiny", "tiny-letters"]
    chitchat = next(row for row in listed["envs"] if row["name"] == "chitchat")
    assert chitchat["settings"]["max_turns"] == 6


def test_preset_copy_writes_the_preset_and_never_over_a_file(tmp_path, capsys):
    file = tmp_path / "my.yaml"
    assert main(["preset", "copy", "chat", str(file)]) == 0
    assert file.read_text() == preset_text("chat")
    file.write_text("mine")
    assert main(["preset", "copy", "chat", str(file)]) == 2
    assert file.read_text() == "mine"


def test_doctor_names_the_cache_and_the_next_command(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("SELFPLAY_CACHE", str(tmp_path / "not" / "yet"))
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["cache"] == str(tmp_path / "not" / "yet")
    assert report["models_ready"] == {"smollm2-135m": False, "tiny": True, "tiny-letters": True}
    assert report["next"].split()[-1] == "train"


def test_doctor_without_disk_reports_it_and_offers_the_tiny_model(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("SELFPLAY_CACHE", str(tmp_path))
    monkeypatch.setattr("selfplay.models.NEEDED_DISK_BYTES", 10**18)
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [
        "problem   smollm2-135m needs 1000000000.0 GB of disk while it is prepared",
        "next      selfplay train preset=tiny",
    ]


def test_list_rewards_says_range_scope_settings_and_exploit_of_each(capsys):
    assert main(["list", "rewards"]) == 0
    text = capsys.readouterr().out
    assert "0 to 1 · scope turn · settings form=vhrl\n" in text
    assert 'exploit: "What?" behind every message; it saturates there\n' in text
    assert main(["list", "rewards", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rewards"]
    assert not [row["name"] for row in rows if not row["exploit"]]
    [payoff] = [row for row in rows if row["name"] == "payoff"]
    assert (payoff["low"], payoff["high"], payoff["scope"], payoff["is_slow"]) == (None, None, "conversation", False)
