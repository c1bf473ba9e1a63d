"""A sweep as Parquet or as an Arrow IPC file, row group by row group. Needs pyarrow.

The columns have the same types in every file, whatever its grid: text, int64, float64 and bool.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gpt2cost.errors import InputError
from gpt2cost.output.field import Record
from gpt2cost.output.formats import COLUMNAR
from gpt2cost.prediction.blocks import Block

GROUP_ROWS = 1 << 16
"""Rows of a group, at least."""
FLAGS = {"use_cache", "fits", "valid", "compile_inside_ddp"}
WHOLE = {
    "batch_size", "seq_len", "cache_len", "kv_len", "flops", "read_bytes", "write_bytes", "launches", "total_bytes",
    "parameters", "kv_cache_bytes", "kv_bytes_per_token", "count", "gpus", "nodes", "micro_batch", "grad_accum",
    "global_batch", "global_tokens", "zero",
}  # fmt: skip
"""Columns of whole numbers."""
MOST = 2.0**63
"""Where an int64 ends."""


def columnar_chunks(
    blocks: Iterable[Block], names: Sequence[str], words: set[str], head: Record, format: str
) -> Iterator[bytes]:
    """The pieces of one file in a format of `COLUMNAR`. `words`: the columns that are no numbers; `head`: metadata.

    Raises `InputError` for whole numbers beyond int64.
    """
    out = _Pieces()
    schema = pa.schema([(name, _type(name, words, format)) for name in names])
    about = {"gpt2cost": json.dumps(head)}
    with _writer(out, schema.with_metadata(about), format) as writer:
        if format == COLUMNAR[0]:
            writer.add_key_value_metadata(about)
        for group in _groups(_batches(blocks, schema)):
            writer.write_table(pa.Table.from_batches(group, schema))
            yield from out.taken()
    yield from out.taken()


def _writer(out: _Pieces, schema: Any, format: str) -> Any:
    sink = pa.PythonFile(out, mode="w")
    if format == COLUMNAR[1]:
        return pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))
    floats = {field.name for field in schema if pa.types.is_floating(field.type)}
    with_dictionary = [name for name in schema.names if name not in floats]
    return pq.ParquetWriter(sink, schema, use_dictionary=with_dictionary, store_schema=False)


class _Pieces:
    """What was written since it was last taken, as a file that can only be written to."""

    closed = False

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, data: Any) -> int:
        self.pieces.append(bytes(data))
        return len(self.pieces[-1])

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def taken(self) -> list[bytes]:
        pieces, self.pieces = self.pieces, []
        return pieces


def _type(name: str, words: set[str], format: str) -> Any:
    if name in FLAGS:
        return pa.bool_()
    if name in words:
        return pa.dictionary(pa.int32(), pa.string()) if format == COLUMNAR[0] else pa.string()
    return pa.int64() if name in WHOLE else pa.float64()


def _batches(blocks: Iterable[Block], schema: Any) -> Iterator[Any]:
    for block in blocks:
        columns = [_column(block, field.name, field.type) for field in schema]
        yield pa.record_batch(columns, schema=schema)


def _groups(batches: Iterable[Any]) -> Iterator[list[Any]]:
    group: list[Any] = []
    for batch in batches:
        group.append(batch)
        if sum(one.num_rows for one in group) >= GROUP_ROWS:
            yield group
            group = []
    if group:
        yield group


def _column(block: Block, name: str, kind: Any) -> Any:
    """One column of a block. Text is looked up once a value."""
    array = np.asarray(block.columns[name])
    if pa.types.is_dictionary(kind) or pa.types.is_string(kind):
        values, places = np.unique(array.astype(str), return_inverse=True)
        spread = block.spread(places.reshape(array.shape).astype(np.int32))
        encoded = pa.DictionaryArray.from_arrays(pa.array(spread), pa.array(values.tolist(), pa.string()))
        return encoded if pa.types.is_dictionary(kind) else encoded.dictionary_decode()
    if array.dtype == object:  # None: of what does not apply
        return pa.nulls(block.rows, kind) if array.ndim == 0 else pa.array(block.spread(array), kind)
    if pa.types.is_integer(kind) and array.dtype.kind == "f":
        if np.max(array) >= MOST:
            raise InputError(f"{name}: {np.max(array):.3g} is beyond what a column of int64 holds; csv writes it")
        array = array.astype(np.int64)
    return pa.array(block.spread(array), kind)
