r"""The run directory, format ``sift-mask/1``: one directory a run, plain files, nothing pickled.

::

    run_dir/
      sift.json                       format, run id, when, how and with what the run was made, layer table
      config.toml                     the resolved config, if the bundled trainer made the run
      metrics.jsonl                   {"step": ..., "epoch": ..., "loss": ..., "val_accuracy": ...}, a line each;
                                      {"step": ..., "measured": {layer: {metric: value}}} while training
      masks/step_000001200.safetensors
      masks/step_000001200.rank00003.safetensors    instead, where processes share the layers out
      masks/abandoned/                snapshots of steps that were done again, from an earlier one on
      masks/damaged/                  what ``sift-graph doctor --repair`` put aside
      analysis/                       what ``sift-graph analyze`` computed
      .lock                           held (``flock``) by the live process that writes; means nothing afterwards

``sift.json`` may have a ``graph``: how the layers of the model hang together. Its channels are numbered through the
network, ``first`` to ``first + size - 1`` for each of ``inputs``, ``layers`` (``layer``, ``shape``, ``groups``, what it
``reads``, and the ``geometry`` of a convolution: ``size``, ``stride``, ``padding``, ``dilation``, ``output``,
``transposed``, ``padding_mode``) and ``sums`` (``of``: its addends). ``outputs`` leave the network, ``gates`` go into
products that are not followed. Channels are listed as runs ``[first, count, repeat]``: so many in a row, each so many
times; first -1 stands for what no channel makes. ``unplaced`` maps the layers that have no place to the reason,
``origin`` is ``"traced"``. A reader that does not know ``graph`` loses nothing else.

A snapshot is one safetensors file. Its tensors, by name:

``mask/<layer>``
    uint8, one axis: the mask's bits, eight entries a byte, least significant bit first, in the C order of the
    weight's shape, compressed as one zstd frame. Absent when the mask equals that of an earlier snapshot: then the
    layer's ``ref`` in the header is the step that holds it. Absent also when the mask is stored as a change.
``drop/<layer>``, ``grow/<layer>``
    uint8, one axis: the mask as a change of an earlier one, which ``sift-graph pack`` writes in the place of
    ``mask/<layer>``; see below.
``weight/<layer>``
    float16 or float32, one axis: the weights at the set bits, in their order. Absent where none were recorded.

Its header's metadata has two keys. ``xxh3`` is the xxh3-128 of the UTF-8 text of the other one (hexadecimal).
``sift`` is a JSON object with ``format``, ``run_id``, ``step``, ``epoch``,
``wall_time`` and ``layers``, a list in network order of ``name``, ``shape``, ``groups``, ``layout``, ``nnz``,
``xxh3`` (xxh3-128 of the uncompressed bits, hexadecimal), ``codec`` (``"zstd"``, or ``"gaps"`` for a change),
``source``, ``ref`` (a step or null), and ``weight_xxh3`` (of the weight tensor's bytes, or null). A layer has at most
2^34 entries. Where there is a ``ref``, the ``codec`` that counts is that of the step which it names.

**Changes.** With ``codec`` ``"gaps"`` an entry has a ``base``, the earlier step whose file holds the mask that is
changed (whole, or as a change in its turn), and ``base_xxh3``, that mask's hash; both are null where the mask is told
from nothing, that is, from a mask of zeros. ``drop/<layer>`` lists which of the set bits of that mask are cleared,
``grow/<layer>`` which of its clear bits are set. In either the candidates are numbered 0, 1, 2 and so on in the order
of the bits, and what is listed is how many candidates lie before the first that changes, and then between each that
changes and the next: a gap g takes g div 255 bytes of value 255, and then one of value g mod 255. A mask of n bytes
has at most 4 n bytes of such a list. The list is compressed as one zstd frame, which states its size. The mask that
results matches the entry's ``xxh3``. ``nnz``, weights and everything else are those of a mask stored whole: packing a
run changes only how its masks are stored. The packer begins anew after 15 changes in a row, so that to read one mask
no more than 16 files are read, and wherever a change would take more space than the whole mask.

Where several processes share the layers out (FSDP, tensor parallelism), each writes a *shard*: a file of the same
kind, named by its rank, with what it holds. Its header has ``rank`` and ``ranks``, their number. An entry may have a
``part``: the ``offset`` and the ``shape`` of a block, a number for each axis of the weight, zeros where the process
holds nothing. ``shape`` is that of the whole weight then; ``nnz``, the hashes and both tensors are those of the block,
in its own C order; ``ref`` is a step of which the same rank's shard holds the block's bits. Every rank writes a shard
at each step, if only an empty one. An entry without a ``part`` is a whole layer, which only the first rank writes. The
blocks of a layer are the cells of a grid over its weight, each there once; of blocks that are there twice, with equal
hashes, the lower rank's counts. A set of shards that lacks a rank, or whose blocks do not make whole layers, is
damaged. Steps may differ in ``ranks``: a job may go on with another number of processes. A reader that does not know
shards sees no steps.

What a reader accepts has limits, checked before anything is allocated: 64 MiB, 2^22 values and 64 levels of JSON in
``sift.json`` and in the header of a snapshot; no key twice in an object, numbers that are finite and whole ones of at
most 18 digits, text that is valid Unicode; 2^26 channels in a ``graph``; lines of 16 MiB. Files are plain ones within
the run directory: a link that leads out of it is not followed, for reading or writing.

A snapshot is written to a temporary name that starts with a dot, synced, and renamed: a file with its final name is
whole. Readers ignore temporaries. Layer names are data, never paths. Snapshots are written in ascending order of
their steps, so ``ref`` and ``base`` always point back, and the newest ones can be put aside without a loss to the
others.
"""

from __future__ import annotations

from sift_graph.store.disk import write_atomically
from sift_graph.store.inside import check_file, check_folder
from sift_graph.store.parsing import parse_json, read_rows
from sift_graph.store.rank_writers import ShardWriter, SilentWriter, newest_whole
from sift_graph.store.reader import RunReader, find_runs, is_run, snapshot_name
from sift_graph.store.snapshot import FORMAT, MAX_ENTRIES, WeightPolicy
from sift_graph.store.writer import RunWriter, check_free, environment

__all__ = [
    "FORMAT",
    "MAX_ENTRIES",
    "RunReader",
    "RunWriter",
    "ShardWriter",
    "SilentWriter",
    "WeightPolicy",
    "check_file",
    "check_folder",
    "check_free",
    "environment",
    "find_runs",
    "is_run",
    "newest_whole",
    "parse_json",
    "read_rows",
    "snapshot_name",
    "write_atomically",
]
