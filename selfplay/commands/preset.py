"""`selfplay preset`: print or copy a ready-made configuration."""

from __future__ import annotations

from pathlib import Path

from selfplay.commands.words import CommandLine
from selfplay.config import preset_names, preset_text
from selfplay.errors import UserError

__all__ = ["SUMMARY", "USAGE", "run"]

SUMMARY = "print or copy a ready-made configuration"
USAGE = """
selfplay preset show NAME
selfplay preset copy NAME FILE

Print a preset, or copy it to a new file of your own, to edit and use with config=FILE.
`selfplay list presets` shows the names; preset=NAME uses one as it is.

Examples:
  selfplay preset show vhrl
  selfplay preset copy chat my.yaml
  selfplay train config=my.yaml
  selfplay preset copy play/chat talk.yaml
"""


def run(line: CommandLine) -> int:
    """Do what the words say."""
    match line.words:
        case ("show", name):
            print(preset_text(name), end="")
        case ("copy", name, file):
            _copy(name, Path(file))
            print(f"{file} written; use it with config={file}")
        case _:
            raise UserError(
                f"expected `preset show NAME` or `preset copy NAME FILE` (presets: {', '.join(preset_names())})"
            )
    return 0


def _copy(name: str, file: Path) -> None:
    text = preset_text(name)
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise UserError(f"{file} exists already; give another name, nothing is overwritten") from error
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error
