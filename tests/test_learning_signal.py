"""That the whole loop learns: two copies of a random model find a code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_preset_signal_learns_a_code_for_four_symbols_from_a_random_model(tmp_path):
    # The preset's own seed, which nobody chose: docs/results/games.md says how many of other seeds get there.
    words = ["preset=signal", "cluster=local", "engine.threads=1", f"out={tmp_path / 'signal'}", "--json"]
    command = [sys.executable, str(ROOT / "run.py"), "train", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    success = json.loads(done.stdout)["comparison"]["metrics"]["game/success"]
    # By chance one symbol in four is right; the interval of 200 rounds is .19 to .31.
    assert success["base"] < 0.4
    assert success["trained"] >= 0.95
