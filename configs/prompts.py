"""Lists of prompts, read from text, CSV, JSONL or Parquet."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import UserError

COLUMNS = ("prompt", "caption", "text")  # looked for, in this order, where none is named
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")  # in no text file; tab, line ends and escape may be

Entry = tuple[int, Any]  # line or row number from 1, and what stands there


def load_prompts(path: str | Path, column: str = "", max_chars: int = 2000, field: str = "prompts.train") -> list[str]:
    """The prompts of a file, stripped, in its order. The name's ending says the format; any other is one a line.

    Raises:
        UserError: one line naming `field`, the file and the line: missing, a folder, empty, binary, not UTF-8, a blank
            prompt, one longer than `max_chars`, no such column, broken CSV, JSON or Parquet.
    """
    file = Path(path).expanduser()
    entries = _READERS.get(file.suffix.lower(), _lines)(file, column, field)
    prompts = [_checked(entry, file, max_chars, field) for entry in entries]
    if not prompts:
        raise UserError(f"{field}: {file} is empty, allowed at least one prompt")
    return prompts


def _checked(entry: Entry, file: Path, max_chars: int, field: str) -> str:
    number, value = entry
    where = f"{field}: {file}, line {number}"
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: got {type(value).__name__}, allowed text")
    prompt = (value or "").strip()
    if not prompt:
        raise UserError(f"{where}: the prompt is blank")
    if len(prompt) > max_chars:
        raise UserError(f"{where}: the prompt has {len(prompt)} characters, allowed at most {max_chars}")
    if _CONTROL.search(prompt):
        raise UserError(f"{where}: the prompt holds control characters, allowed text")
    return prompt


def _lines(file: Path, column: str, field: str) -> Iterator[Entry]:
    del column  # a plain list has none
    yield from enumerate(_text_lines(_read_text(file, field)), start=1)


def _csv(file: Path, column: str, field: str) -> Iterator[Entry]:
    csv.field_size_limit(2**31 - 1)  # a long prompt is reported as such, not as broken CSV
    reader = csv.DictReader(io.StringIO(_read_text(file, field), newline=""), strict=True)
    line = 1
    try:
        name = _column(reader.fieldnames or (), column, file, field)
        for row in reader:
            yield line + 1, row[name]  # where the row starts: quoted fields may run over lines
            line = reader.line_num
    except csv.Error as error:
        raise UserError(f"{field}: {file}, line {reader.line_num}: broken CSV: {error}") from None


def _jsonl(file: Path, column: str, field: str) -> Iterator[Entry]:
    for number, line in enumerate(_text_lines(_read_text(file, field)), start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            problem = getattr(error, "msg", "nested too deeply")
            raise UserError(f"{field}: {file}, line {number}: broken JSON: {problem}") from None
        if not isinstance(record, dict):
            raise UserError(f"{field}: {file}, line {number}: got {type(record).__name__}, allowed a JSON object")
        yield number, record[_column(tuple(record), column, file, field, number)]


def _parquet(file: Path, column: str, field: str) -> Iterator[Entry]:
    _check_file(file, field)
    try:
        table = pq.ParquetFile(file)
        name = _column(table.schema_arrow.names, column, file, field)
        values = table.read([name]).column(name).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{field}: {file} is no valid Parquet file: {str(error).splitlines()[0]}") from None
    yield from enumerate(values, start=1)


_READERS = {".csv": _csv, ".jsonl": _jsonl, ".ndjson": _jsonl, ".parquet": _parquet}


def _column(names: Sequence[str], wanted: str, file: Path, field: str, line: int | None = None) -> str:
    """The column that holds the prompts. Raises UserError with the columns there are."""
    found = [name for name in ((wanted,) if wanted else COLUMNS) if name in names]
    if found:
        return found[0]
    where = f"{file}, line {line}" if line else str(file)
    asked = f"prompts.column={wanted}" if wanted else f"prompts.column (none of {', '.join(COLUMNS)} is there)"
    there = ", ".join(map(str, names))[:200] or "none"
    raise UserError(f"{field}: {where} lacks the column of {asked}, allowed: {there}")


def _text_lines(text: str) -> list[str]:
    """Lines as an editor counts them: a line feed ends one, the last need not have it."""
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _read_text(file: Path, field: str) -> str:
    """The file as text, without a byte-order mark. Raises UserError."""
    _check_file(file, field)
    data = file.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if b"\0" in data:
            raise UserError(f"{field}: {file} is a binary file, allowed text, CSV, JSONL or Parquet") from None
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{field}: {file}, line {line}: not UTF-8 (byte {error.start})") from None
    if "\0" in text:
        raise UserError(f"{field}: {file} is a binary file, allowed text, CSV, JSONL or Parquet")
    if not text.strip():
        raise UserError(f"{field}: {file} is empty, allowed at least one prompt")
    return text


def _check_file(file: Path, field: str) -> None:
    if file.is_dir():
        raise UserError(f"{field}: {file} is a folder, allowed a file of prompts")
    if not file.is_file():
        raise UserError(f"{field}: {file} does not exist")
    try:
        with open(file, "rb") as opened:
            empty = not opened.read(1)
    except OSError as error:
        raise UserError(f"{field}: {file} cannot be read: {error.strerror}") from None
    if empty:
        raise UserError(f"{field}: {file} is empty, allowed at least one prompt")
