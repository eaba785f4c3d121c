"""A model as it travels: by name where a folder is at hand, by its files where it is not."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from selfplay import models
from selfplay.errors import UserError
from selfplay.tiny_model import tiny_seed

ADAPTER_FILE = "adapter_config.json"
WEIGHT_FILES = (".safetensors", "pytorch_model.bin")
CHUNK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """Where a model's files are on the machine that starts the run, and the files themselves for machines without."""

    name: str  # as the user wrote it
    runs: Path = Path("runs")  # absolute: where RUN@STEP is looked up
    folder: Path | None = None  # the Hugging Face folder; None: made in memory, or from the hub
    sizes: Mapping[str, int] = field(default_factory=dict)  # file -> bytes, to know the folder again
    contents: Mapping[str, Any] = field(default_factory=dict)  # file -> what `fetch` turns into bytes
    fetch: Callable[[Any], bytes] | None = None

    @property
    def is_adapter(self) -> bool:
        """Whether it is an adapter, without the model it belongs to."""
        return ADAPTER_FILE in self.sizes and "config.json" not in self.sizes

    @property
    def start_weights(self) -> str:
        """What tells these weights from others: a checksum of their files; a made model's name; "": unknown.

        It does not depend on how they are loaded, so a run may go on with another precision or on another device.
        """
        if self.folder is None:
            return self.name if tiny_seed(self.name) is not None else ""
        checksum = 0
        for name in sorted(self.sizes):
            if name.endswith(WEIGHT_FILES):
                with (self.folder / name).open("rb") as file:
                    while chunk := file.read(CHUNK_BYTES):
                        checksum = zlib.crc32(chunk, checksum)
        return f"crc32:{checksum:08x}"

    @classmethod
    def of(cls, name: str, *, runs: Path, say: models.Say) -> ModelFiles:
        """Return the files of a model; a named one is fetched first.  Raises UserError if it cannot be had."""
        folder = models.folder_of(name, runs=runs, say=say)
        files = sorted(path for path in folder.iterdir() if path.is_file()) if folder is not None else []
        sizes = {path.name: path.stat().st_size for path in files}
        return cls(name=name, runs=runs.resolve(), folder=folder and folder.resolve(), sizes=sizes)

    def with_contents(self, put: Callable[[bytes], Any], fetch: Callable[[Any], bytes]) -> ModelFiles:
        """Return the same with its files put where other machines can fetch them."""
        if self.folder is None:
            return self
        if self.is_adapter:
            raise UserError(
                f"model={self.name} is an adapter, whose base model is another folder on this machine; for several "
                "machines merge it first: merge RUN out=FOLDER, then model=FOLDER"
            )
        contents = {name: put((self.folder / name).read_bytes()) for name in self.sizes}
        return replace(self, contents=contents, fetch=fetch)

    def load(self, *, device: str, dtype: str, merged: bool = True) -> models.LoadedModel:
        """Load the model here, from the folder if this machine has it, else from the files that travelled."""
        if self.folder is None or self._is_here():
            return models.load(self.name, device=device, dtype=dtype, runs=self.runs, merged=merged)
        if self.fetch is None:
            raise UserError(f"model={self.name}: this machine has no folder {self.folder}, and no files travelled")
        with tempfile.TemporaryDirectory(prefix="selfplay-model-") as folder:
            for name, content in self.contents.items():
                (Path(folder) / name).write_bytes(self.fetch(content))
            loaded = models.load(folder, device=device, dtype=dtype, merged=merged)
            # What is mapped from a file that goes away must be read while it is there.
            state = {name: value.clone() for name, value in loaded.model.state_dict().items()}
            loaded.model.load_state_dict(state, assign=True)
            loaded.model.tie_weights()
        return replace(loaded, name=self.name, folder=None)

    def _is_here(self) -> bool:
        assert self.folder is not None
        try:
            return all((self.folder / name).stat().st_size == size for name, size in self.sizes.items())
        except OSError:
            return False
