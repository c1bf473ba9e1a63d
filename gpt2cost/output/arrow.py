"""Rows as Parquet or as an Arrow IPC file, those of a sweep row group by row group. Needs pyarrow.

A column has the same type in every file, whatever stands in it: text, int64, float64 or bool.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gpt2cost.errors import InputError
from gpt2cost.output.columns import type_of
from gpt2cost.output.field import Record
from gpt2cost.output.formats import COLUMNAR, columns_of, csv_cell
from gpt2cost.prediction.blocks import Block

GROUP_ROWS = 1 << 16
"""Rows of a group, at least."""
MOST = 2.0**63
"""Where an int64 ends."""
LARGE = {"flops", "read_bytes", "write_bytes", "total_bytes", "kv_cache_bytes"}
"""Whole numbers that differ from row to row, so that a dictionary of them saves nothing."""


def with_places(block: Block) -> Block:
    """A block in whose columns of text there are pairs instead: the different words, and which of them stands where.

    A process that has made a block then sends a third as much.
    """
    return replace(
        block,
        columns={name: _looked_up(own) if type_of(name) == "text" else own for name, own in block.columns.items()},
    )


def _looked_up(texts: Any) -> tuple[list[str], Any]:
    array = np.asarray(texts).astype(str)
    words = sorted(set(array.ravel().tolist()))
    return words, np.searchsorted(np.array(words, array.dtype), array).astype(np.int32)


def block_chunks(blocks: Iterable[Block], names: Sequence[str], head: Record, format: str) -> Iterator[bytes]:
    """The pieces of one file of a sweep's rows, of blocks `with_places`, in a format of `COLUMNAR`. `head`: its
    metadata.

    Raises `InputError` for whole numbers beyond int64.
    """
    return _chunks(lambda schema: _batches(blocks, schema), names, head, format)


def row_chunks(rows: Sequence[Record], columns: Sequence[str], head: Record, format: str) -> Iterator[bytes]:
    """The same of rows as every command has them; `columns`: those of a file without rows."""

    def batch(schema: Any) -> Iterator[Any]:
        cells = [[_cell(row.get(field.name), field) for row in rows] for field in schema]
        yield pa.record_batch([pa.array(own, field.type) for own, field in zip(cells, schema, strict=True)], schema)

    return _chunks(batch, columns_of(rows) or columns, head, format)


def _chunks(
    batches_of: Callable[[Any], Iterable[Any]], names: Sequence[str], head: Record, format: str
) -> Iterator[bytes]:
    """The pieces of a file, of whose schema `batches_of` makes the record batches."""
    out = _Pieces()
    schema = pa.schema([(name, _type(name, format)) for name in names])
    about = {"gpt2cost": json.dumps(head)}
    with _writer(out, schema.with_metadata(about), format) as writer:
        if format == COLUMNAR[0]:
            writer.add_key_value_metadata(about)
        for group in _groups(batches_of(schema)):
            writer.write_table(pa.Table.from_batches(group, schema))
            yield from out.taken()
    yield from out.taken()


def _writer(out: _Pieces, schema: Any, format: str) -> Any:
    sink = pa.PythonFile(out, mode="w")
    if format == COLUMNAR[1]:
        return pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))
    with_dictionary = [
        field.name for field in schema if not pa.types.is_floating(field.type) and field.name not in LARGE
    ]
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


def _type(name: str, format: str) -> Any:
    if type_of(name) != "text":
        return {"bool": pa.bool_(), "int64": pa.int64(), "float64": pa.float64()}[type_of(name)]
    return pa.dictionary(pa.int32(), pa.string()) if format == COLUMNAR[0] else pa.string()


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
    """One column of a block."""
    if pa.types.is_dictionary(kind) or pa.types.is_string(kind):
        words, places = block.columns[name]
        encoded = pa.DictionaryArray.from_arrays(_array(block.spread(places), pa.int32()), _texts(words))
        return encoded if pa.types.is_dictionary(kind) else encoded.dictionary_decode()
    array = np.asarray(block.columns[name])
    if array.dtype == object:  # None: of what does not apply
        return pa.nulls(block.rows, kind) if array.ndim == 0 else pa.array(block.spread(array), kind)
    if pa.types.is_integer(kind) and array.dtype.kind == "f":
        _check_whole(name, np.max(array))
        array = array.astype(np.int64)
    return _array(block.spread(array), kind)


def _array(values: Any, kind: Any) -> Any:
    """Numbers or truth values without a copy. (`pa.array` imports pandas where there is one: half a second.)"""
    values = np.ascontiguousarray(values, kind.to_pandas_dtype())
    stored = np.packbits(values, bitorder="little") if pa.types.is_boolean(kind) else values
    return pa.Array.from_buffers(kind, values.size, [None, pa.py_buffer(stored)])


def _texts(values: Sequence[str]) -> Any:
    """Some words."""
    data = [value.encode() for value in values]
    ends = np.cumsum([0, *map(len, data)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(data), pa.py_buffer(ends), pa.py_buffer(b"".join(data)))


def _cell(value: Any, field: Any) -> Any:
    """A value of a row as its column has it: a list as one text, as in CSV."""
    if value is None:
        return None
    if type_of(field.name) == "text":
        return str(csv_cell(value))
    if type_of(field.name) == "int64":
        _check_whole(field.name, value)
        return int(value)
    return value


def _check_whole(name: str, number: Any) -> None:
    if number >= MOST:
        raise InputError(f"{name}: {float(number):.3g} is beyond what a column of int64 holds; csv writes it")
