"""The built wheel holds what the command line needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from envs import ENVS
from rewards import REWARDS
from rewards.mixes import MIXES
from selfplay.config import preset_names
from selfplay.models import MODELS

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("pyproject.toml", "README.md", "LICENSE", "selfplay", "envs", "rewards")


def copy_sources(folder: Path) -> Path:
    """Copy what a wheel is made of: building leaves files beside the sources."""
    folder.mkdir()
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


@pytest.mark.slow
def test_an_installed_wheel_lists_what_there_is_and_plays_from_another_folder(tmp_path):
    source, site = copy_sources(tmp_path / "source"), tmp_path / "site"
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", str(source)], check=True)
    (wheel,) = (source / "dist").glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True)

    command, environment = [str(site / "bin" / "selfplay"), "list"], {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    names = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ") and line[2] != " "]
    kinds = (list(ENVS), list(MODELS), preset_names(), list(REWARDS), [f"mix:{name}" for name in MIXES])
    assert names == [name for kind in kinds for name in kind], done.stderr

    # Word lists are installed too.
    tested = [command[0], "reward", "test", "mix:vhrl"]
    done = subprocess.run(tested, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "none of 57 attacks beats the median chat" in " ".join(done.stdout.split()), done.stderr

    words = ["play", "model=tiny", "conversations=1", "env.max_turns=2", "sampling.max_new_tokens=4", "out=chat"]
    played = subprocess.run(
        [command[0], *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert "1 conversation, 2 turns" in played.stdout, played.stderr
    # What is installed is no checkout, whatever folder it is run from.
    assert json.loads((tmp_path / "chat" / "run.json").read_text())["git"] is None
