"""What travels between the driver and its actors by Ray's object store or in messages: plug-ins, weights, files."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from selfplay.interfaces import Weights

# Version, the handle of its weights boxed so that nobody opens it on the way, and the adapters' scale.
HeldWeights = tuple[int, list[Any], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """Something with plug-ins in it, which can be unpickled only where their modules are found."""

    held: tuple[Any, ...]  # its handle in the object store, boxed so that nobody opens it on the way
    search: tuple[str, ...]  # where the driver imports from

    @classmethod
    def of(cls, value: object) -> Sent:
        """Put it into the object store."""
        return cls(held=(ray.put(value),), search=tuple(sys.path))

    def open(self) -> Any:
        """Return it; modules beside the driver's script are found on the driver's machine."""
        sys.path.extend(place for place in self.search if place not in sys.path and Path(place).is_dir())
        return ray.get(self.held[0])


def put_weights(weights: Weights) -> HeldWeights:
    """Put weights into the object store."""
    arrays, seen = {}, set()
    for name, tensor in weights.state.items():
        if tensor.data_ptr() not in seen:  # tied weights travel once
            seen.add(tensor.data_ptr())
            arrays[name] = tensor.detach().float().cpu().numpy()
    return weights.version, [ray.put(arrays)], weights.adapter_scale


def open_weights(version: int, held: list[Any], adapter_scale: float | None) -> Weights:
    """Read weights from the object store, without copying."""
    import torch

    arrays = ray.get(held[0])
    with warnings.catch_warnings():
        # Shared memory is read-only; the engine copies what it keeps.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return Weights(version=version, state=state, adapter_scale=adapter_scale)


def read_files(folder: Path) -> dict[str, bytes]:
    """Return a folder's files, those of its folders included, by their path in it."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write what `read_files` returned into a folder."""
    for name, content in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
