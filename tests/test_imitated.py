"""Commands that need a run of `train` say of a run of `sft` what to do instead."""

from pathlib import Path

import pytest

from selfplay.commands import main

SFT = ("from=scripted", "env=signal", "model=tiny", "conversations=2", "batch=2", "epochs=1", "engine.threads=1")


@pytest.mark.slow
def test_run_of_sft_where_one_of_train_is_needed_is_refused_with_what_to_do(tmp_path: Path, capsys):
    runs = tmp_path / "runs"
    assert main(["sft", *SFT, "evaluation.conversations=0", f"runs={runs}", f"out={runs}/start"]) == 0
    told = {
        ("eval", "start"): f"{runs}/start/sft.json holds them",
        ("eval", f"{runs}/start@1"): f"{runs}/start/sft.json holds them",
        ("plot", "start"): f"it has losses, in {runs}/start/sft.json",
        ("plot",): f"it has losses, in {runs}/start/sft.json",
        ("train", "resume=start"): "model=start starts a training",
        ("train", "resume=start@1"): "model=start@1 starts a training",
    }
    for words, message in told.items():
        capsys.readouterr()
        assert main([*words, f"runs={runs}"]) != 0
        error = capsys.readouterr().err
        assert f"error: {runs}/start is a run of sft" in error
        assert message in error
        assert "unknown key" not in error
