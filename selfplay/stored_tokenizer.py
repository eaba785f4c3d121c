"""Tokenizers kept in a run folder, so that its tokens can be read without the models that said them.

    runs/NAME/tokenizers/HASH.json.gz   what a model folder has in tokenizer.json; HASH as tokens lines give it

Reading one needs the tokenizers library, and neither torch nor transformers.
"""

from __future__ import annotations

import functools
import gzip
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from selfplay.run_folder import TOKENIZERS
from selfplay.whole_files import write_whole

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["StoredTokenizer", "load", "place_of", "store"]

NUM_HEX = 16  # of a hash, in the name of its file
NUM_OPEN = 4  # tokenizers that stay in memory
UNKNOWN = "\ufffd"


class StoredTokenizer:
    """Says what single tokens read."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._names = {id: token.content for id, token in tokenizer.get_added_tokens_decoder().items()}
        # Some decoders drop the space before a text's first token, so each token is read behind another one.
        self._before: list[int] = tokenizer.encode("a", add_special_tokens=False).ids
        self._text_before = self._decode(self._before)
        self._known: dict[int, str] = {}

    def texts(self, ids: Iterable[int]) -> list[str]:
        """Return the text of each token by itself.

        Special tokens stand with their names; U+FFFD stands for a piece of a character, and for an id of no token.
        """
        return [self._text(id) for id in ids]

    def _text(self, id: int) -> str:
        found = self._known.get(id)
        if found is None:
            found = self._known[id] = self._read(id)
        return found

    def _read(self, id: int) -> str:
        if id in self._names:
            return self._names[id]
        if id < 0 or self._tokenizer.id_to_token(id) is None:
            return UNKNOWN
        whole = self._decode([*self._before, id])
        if whole.startswith(self._text_before):
            return whole[len(self._text_before) :]
        return self._decode([id])

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))


def load(folder: Path, digest: str | None) -> StoredTokenizer | None:
    """Return the tokenizer of a run folder with the hash that a tokens line gives.

    None: the line gives none, or the run does not hold it, or not whole.
    """
    path = None if digest is None else place_of(folder, digest)
    if path is None:
        return None
    try:
        return _open(path.resolve())
    except (OSError, EOFError, zlib.error, ValueError):
        return None


def store(folder: Path, digest: str, description: str) -> Path:
    """Write a tokenizer's description into a run folder, unless it is there; return its file.

    Raises OSError if it cannot be written.
    """
    path = place_of(folder, digest)
    assert path is not None, digest
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_whole(path, gzip.compress(description.encode("utf-8"), compresslevel=6, mtime=0))
    return path


def place_of(folder: Path, digest: str) -> Path | None:
    """Return where a run folder holds the tokenizer of a hash; None: that is no hash."""
    # It is part of a path, and comes from a file that anybody may have written.
    match = re.fullmatch(r"sha256:([0-9a-f]{1,64})", digest)
    return None if match is None else folder / TOKENIZERS / f"{match[1][:NUM_HEX]}.json.gz"


@functools.lru_cache(maxsize=NUM_OPEN)
def _open(path: Path) -> StoredTokenizer:
    from tokenizers import Tokenizer

    description = gzip.decompress(path.read_bytes()).decode("utf-8")
    try:
        return StoredTokenizer(Tokenizer.from_str(description))
    except Exception as error:  # the library has no type of its own for what it cannot read
        raise ValueError(f"{path} holds no tokenizer") from error
