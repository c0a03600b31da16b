"""Writers for a run that several processes record: a shard each, or one for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sift_graph.errors import DamagedStoreError, RunDirectoryError
from sift_graph.masks import Snapshot
from sift_graph.store.aside import make_aside, move_aside
from sift_graph.store.disk import explain_disk_errors, write_atomically
from sift_graph.store.inside import check_folder
from sift_graph.store.reader import RunReader
from sift_graph.store.shards import find_shards, shard_name, snapshot_files
from sift_graph.store.snapshot import WeightPolicy, decode_layer, encode_snapshot, read_header
from sift_graph.store.writer import RunWriter

__all__ = ["ShardWriter", "SilentWriter", "newest_whole"]


def newest_whole(reader: RunReader) -> int | None:
    """Newest step whose snapshot can be read, all shards of it; None if there is none."""
    for step in reversed(reader.steps):
        try:
            reader.snapshot_header(step)
        except DamagedStoreError:
            continue
        return step
    return None


@dataclass
class SilentWriter:
    """Write nothing, for a process that only looks on while the first one records.

    Parameters
    ----------
    run_dir : Path
    run_id : str
        Of the run.
    newest : int or None
        Newest recorded step.
    """

    run_dir: Path
    run_id: str = ""
    newest: int | None = None
    layers: Sequence[Mapping[str, Any]] = ()
    digests: dict[str, str] = field(default_factory=dict)

    def hold(self) -> bool:
        """Have nothing to hold."""
        return False

    def release(self) -> None:
        """Have nothing to let go of."""

    def write_layers(self, layers: Sequence[Mapping[str, Any]]) -> None:
        """Keep the layer table to itself."""
        self.layers = layers

    def write_graph(self, graph: Mapping[str, Any]) -> None:
        """Leave the graph to the first process."""

    def write_snapshot(self, snapshot: Snapshot, *, weights: WeightPolicy = "fp16") -> None:
        """Note the step."""
        self.newest = snapshot.step

    def append_line(self, line: bytes) -> None:
        """Leave the metrics to the first process."""

    def rewind(self, step: int) -> None:
        """Note the step."""
        self.newest = None if self.newest is None else min(step, self.newest)


@dataclass
class ShardWriter:
    """Write what one of several processes holds of the layers, in files of its own.

    Parameters
    ----------
    run_dir : Path
        On a file system that the processes share, or one of each machine, if the shards are brought together later.
    run_id : str
        Of the run.
    rank, ranks : int
        Which process this is, of how many.
    newest : int or None
        Newest step that all processes have recorded; later shards are put aside.
    first : RunWriter, optional
        In the first process: writes ``sift.json`` and ``metrics.jsonl``.

    Notes
    -----
    No process waits for another, nor looks at the files of another.
    """

    run_dir: Path
    run_id: str
    rank: int
    ranks: int
    newest: int | None = None
    first: RunWriter | None = None
    _held: dict[str, tuple[str, int]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        masks = self.run_dir / "masks"
        check_folder(self.run_dir, masks)
        with explain_disk_errors(masks, "the directory of the masks could not be made"):
            masks.mkdir(parents=True, exist_ok=True)
            for left_over in masks.glob(f".step_*.rank{self.rank:05d}.safetensors.*.tmp"):
                left_over.unlink(missing_ok=True)
        self._put_aside(-1 if self.newest is None else self.newest)
        self._look_back()

    @property
    def layers(self) -> Sequence[Mapping[str, Any]]:
        """The layer table, in the first process."""
        return () if self.first is None else self.first.layers

    @property
    def digests(self) -> dict[str, str]:
        """Digest of this process's part of each layer at the newest step, of those that can be read."""
        return {name: digest for name, (digest, _) in self._held.items()}

    def hold(self) -> bool:
        """As :meth:`RunWriter.hold`, in the first process: it alone holds the directory."""
        return self.first is not None and self.first.hold()

    def release(self) -> None:
        """As :meth:`RunWriter.release`, in the first process."""
        if self.first is not None:
            self.first.release()

    def write_layers(self, layers: Sequence[Mapping[str, Any]]) -> None:
        """As :meth:`RunWriter.write_layers`, in the first process."""
        if self.first is not None:
            self.first.write_layers(layers)

    def write_graph(self, graph: Mapping[str, Any]) -> None:
        """As :meth:`RunWriter.write_graph`, in the first process."""
        if self.first is not None:
            self.first.write_graph(graph)

    def append_line(self, line: bytes) -> None:
        """As :meth:`RunWriter.append_line`, in the first process."""
        if self.first is not None:
            self.first.append_line(line)

    def write_snapshot(self, snapshot: Snapshot, *, weights: WeightPolicy = "fp16") -> Path:
        """Write this process's shard of a step.

        Parameters
        ----------
        snapshot : Snapshot
            Parts of layers; of whole layers only the first process's are written, of equal parts the first.
        weights : {"none", "fp16", "fp32"}
            As :meth:`RunWriter.write_snapshot`.

        Returns
        -------
        Path
            The file; it is there even if this process holds nothing, to say so.

        Raises
        ------
        RunDirectoryError
            If the step is already there, or a later one is, or the file cannot be written.
        """
        path = self.run_dir / "masks" / shard_name(snapshot.step, self.rank)
        if path.exists() or (self.newest is not None and snapshot.step <= self.newest):
            raise RunDirectoryError(
                f"{path}: step {self.newest} is already recorded; steps ascend, and none is overwritten. To go on from "
                "an earlier step, rewind to it first"
            )
        mine = {
            name: layer
            for name, layer in snapshot.layers.items()
            if (self.rank == 0 if layer.part is None else layer.part.copy == 0)
        }
        part = Snapshot(snapshot.step, mine, snapshot.epoch, snapshot.wall_time)
        rank = (self.rank, self.ranks)
        encoded = encode_snapshot(part, self._held, run_id=self.run_id, weights=weights, rank=rank)
        with explain_disk_errors(path, f"the shard of step {snapshot.step} is lost, and so is the step"):
            write_atomically(path, encoded.data)
        self._held = dict(encoded.held)
        self.newest = snapshot.step
        return path

    def rewind(self, step: int) -> None:
        """Put aside what this process recorded after `step`; the first, also what belongs to no process of this job.

        Parameters
        ----------
        step : int
            The last step that stays.
        """
        if self.first is not None:
            self.first.rewind(step, ranks=self.ranks)
        self._put_aside(step)
        if self.newest is not None and step < self.newest:
            left = [at for at in find_shards(self.run_dir / "masks") if at <= step]
            self.newest = left[-1] if left else None
        self._look_back()

    def _put_aside(self, step: int) -> None:
        """Move the snapshots after a step that are this process's to move."""
        late = snapshot_files(self.run_dir / "masks", after=step, others=range(1, self.ranks))
        if self.first is None:
            late = [path for path in snapshot_files(self.run_dir / "masks", after=step) if self._is_mine(path)]
        if late:
            with explain_disk_errors(self.run_dir, f"the shards after step {step} could not be put aside"):
                move_aside(late, make_aside(self.run_dir))

    def _is_mine(self, path: Path) -> bool:
        return f".rank{self.rank:05d}." in path.name

    def _look_back(self) -> None:
        """Find which masks this process's newest shard holds or refers to, and can still be read."""
        self._held = {}
        if self.newest is None:
            return
        masks = self.run_dir / "masks"
        path = masks / shard_name(self.newest, self.rank)
        try:
            header = read_header(path)
            entries = header["layers"] if header["run_id"] == self.run_id else []
        except DamagedStoreError:  # this process had none, or it is lost: then all is written again
            return
        for entry in entries:
            held = self.newest if entry["ref"] is None else entry["ref"]
            try:
                decode_layer(path, masks / shard_name(held, self.rank), entry, weights=False)
            except DamagedStoreError:
                continue
            self._held[entry["name"]] = (entry["xxh3"], held)
