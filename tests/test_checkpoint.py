"""Checkpoints: whole or not at all, whatever interrupts them."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from selfplay import checkpoint
from selfplay.errors import UserError

# Writes checkpoint 2 over and over, each time dying one file operation later, and tells what then loads.
KILLED_EVERYWHERE = """
import itertools, os, shutil, sys
from pathlib import Path
from selfplay import checkpoint

def fill(folder):
    (folder / "weights").write_bytes(b"two")

def die_after(number):
    left = [number]
    def hook(event, arguments):
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.chmod"):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
    sys.addaudithook(hook)

start = Path(sys.argv[1])
for number in itertools.count():
    run = start.with_name(f"run-{number}")
    shutil.copytree(start, run)
    child = os.fork()
    if not child:
        die_after(number)
        checkpoint.write(run, int(sys.argv[2]), fill, keep=1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    before = checkpoint.check(checkpoint.newest(run)).version
    checkpoint.write(run, 3, fill, keep=1)
    left = sorted(path.name for path in (run / "checkpoints").iterdir())
    print(before, checkpoint.check(checkpoint.newest(run)).version, *left)
    if status == 0:
        break
"""


def fill_with(**files: str):
    def fill(folder):
        for name, text in files.items():
            (folder / name).write_text(text)

    return fill


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def refused(folder) -> str:
    with pytest.raises(UserError) as caught:
        checkpoint.check(folder)
    return str(caught.value).replace(str(folder), "F")


def test_write_fills_a_folder_named_after_its_version_and_points_to_it(tmp_path):
    folder = checkpoint.write(tmp_path, 30, fill_with(weights="abc"), info={"method": "lora"})
    assert (folder, checkpoint.newest(tmp_path)) == (tmp_path / "checkpoints/000030", folder)
    record = json.loads((folder / "checkpoint.json").read_text())
    # the CRC-32 of "abc" that tables of checksums print
    assert record["files"] == {"weights": {"bytes": 3, "crc32": "352441c2"}}
    assert (record["schema"], record["run"]) == ("selfplay.checkpoint/1", tmp_path.name)
    found = checkpoint.check(folder)
    assert (found.folder, found.version, found.run, found.info) == (folder, 30, tmp_path.name, {"method": "lora"})


def test_write_keeps_the_newest_by_number(tmp_path):
    for version in (5, 999_999, 1_000_000, 1_000_001):
        checkpoint.write(tmp_path, version, fill_with(a="a"), keep=2)
    assert names(tmp_path) == ["1000000", "1000001", "latest.json"]
    assert checkpoint.versions(tmp_path) == [1_000_000, 1_000_001]


def test_write_after_going_back_never_removes_what_the_pointer_names(tmp_path):
    for version in (8, 9, 3):
        checkpoint.write(tmp_path, version, fill_with(a="a"), keep=1)
    assert names(tmp_path) == ["000003", "latest.json"]


def test_write_of_a_version_that_is_there_replaces_it(tmp_path):
    checkpoint.write(tmp_path, 2, fill_with(a="old"))
    folder = checkpoint.write(tmp_path, 2, fill_with(b="new"))
    assert names(tmp_path) == ["000002", "latest.json"]
    assert sorted(path.name for path in folder.iterdir()) == ["b", "checkpoint.json"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_write_that_fails_leaves_the_one_before_and_the_error(tmp_path, error):
    def fill(folder):
        (folder / "half").write_text("x")
        raise error

    checkpoint.write(tmp_path, 1, fill_with(a="a"))
    with pytest.raises(error):
        checkpoint.write(tmp_path, 2, fill)
    assert names(tmp_path) == ["000001", "latest.json"]
    assert checkpoint.check(checkpoint.newest(tmp_path)).version == 1


@pytest.mark.parametrize("library", ["python", "torch", "safetensors"])
def test_write_to_a_full_disk_is_a_user_error_and_keeps_the_one_before(tmp_path, library):
    tensors = {"a": torch.zeros(100_000)}
    fills = {
        "python": lambda folder: (folder / "a").write_bytes(b"0" * 400_000),
        "torch": lambda folder: torch.save(tensors, folder / "a"),
        "safetensors": lambda folder: safetensors.torch.save_file(tensors, folder / "a"),
    }
    checkpoint.write(tmp_path, 1, fill_with(a="a"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"checkpoint 000002 cannot be written to .*; checkpoint 000001 is kept"):
            checkpoint.write(tmp_path, 2, fills[library])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert names(tmp_path) == ["000001", "latest.json"]
    assert checkpoint.check(checkpoint.newest(tmp_path)).version == 1


def test_write_to_a_folder_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(UserError, match=r"cannot be written to .*/checkpoints: File exists; there is none before it"):
        checkpoint.write(tmp_path, 2, fill_with(a="a"))


@pytest.mark.parametrize("version", [1, 2], ids=["the same version again", "a new version"])
def test_write_killed_at_any_point_leaves_a_checkpoint_that_loads(tmp_path, version):
    start = tmp_path / "start"
    start.mkdir()
    checkpoint.write(start, 1, fill_with(weights="one"), keep=1)
    command = [sys.executable, "-c", KILLED_EVERYWHERE, str(start), str(version)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    lines = [line.split() for line in answer.stdout.splitlines()]
    assert len(lines) > 12
    assert {line[0] for line in lines} == {"1", str(version)}
    # What comes next succeeds, and clears up.
    assert {tuple(line[1:]) for line in lines} == {("3", "000003", "latest.json")}


def test_newest_without_a_pointer_is_the_highest_version(tmp_path):
    for version in (1, 2):
        checkpoint.write(tmp_path, version, fill_with(a="a"))
    for text in ("{torn", '{"version": 7}'):
        (tmp_path / "checkpoints/latest.json").write_text(text)
        assert checkpoint.newest(tmp_path) == tmp_path / "checkpoints/000002"
    assert checkpoint.newest(tmp_path / "elsewhere") is None


def test_find_names_the_versions_there_are(tmp_path):
    with pytest.raises(UserError, match="has no checkpoints; `train` writes one"):
        checkpoint.find(tmp_path)
    for version in (10, 20):
        checkpoint.write(tmp_path, version, fill_with(a="a"))
    assert checkpoint.find(tmp_path, 10).name == "000010"
    assert checkpoint.find(tmp_path).name == "000020"
    with pytest.raises(UserError, match=r"has no checkpoint 15; it has 10, 20$"):
        checkpoint.find(tmp_path, 15)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "a").unlink(), "its file a cannot be read: No such file or directory"),
        (lambda folder: (folder / "a").write_text("abcd"), "its file a was changed since (4 bytes, 3 were written)"),
        (lambda folder: (folder / "a").write_text("abd"), "its file a was changed since (its checksum is another one)"),
        (lambda folder: os.truncate(folder / "checkpoint.json", 9), "checkpoint.json cannot be read: not valid JSON"),
        (lambda folder: (folder / "checkpoint.json").write_text("[]"), "checkpoint.json cannot be read: not a JSON"),
    ],
)
def test_check_refuses_a_changed_checkpoint_by_name(tmp_path, damage, message):
    folder = checkpoint.write(tmp_path, 1, fill_with(a="abc"))
    damage(folder)
    assert refused(folder).startswith(f"F is no whole checkpoint: {message}")


def test_check_refuses_what_is_no_checkpoint(tmp_path):
    assert refused(tmp_path / "nowhere") == "F is no checkpoint: there is no such folder"
    assert refused(tmp_path) == "F is no checkpoint: it has no checkpoint.json"
    (tmp_path / "checkpoint.json").write_text('{"schema": "selfplay.checkpoint/2"}')
    assert refused(tmp_path).endswith("its schema is 'selfplay.checkpoint/2', not 'selfplay.checkpoint/1'")
    (tmp_path / "checkpoint.json").write_text('{"schema": "selfplay.checkpoint/1"}')
    assert refused(tmp_path).endswith("checkpoint.json does not say which files belong to it")


def test_files_of_a_checkpoint_may_be_read_by_whoever_reads_the_run(tmp_path):
    def fill(folder):
        (folder / "private").write_text("x")
        (folder / "private").chmod(0o600)

    folder = checkpoint.write(tmp_path, 1, fill)
    assert (folder / "private").stat().st_mode == (folder / "checkpoint.json").stat().st_mode


def test_set_aside_moves_later_checkpoints_and_points_back(tmp_path):
    for version in (10, 20, 30):
        checkpoint.write(tmp_path, version, fill_with(a=str(version)), keep=9)
    checkpoint.set_aside(tmp_path, version=10, folder=tmp_path / "aside")
    assert checkpoint.versions(tmp_path) == [10]
    assert json.loads((tmp_path / "checkpoints/latest.json").read_text())["version"] == 10
    assert checkpoint.check(tmp_path / "aside/000030").version == 30
