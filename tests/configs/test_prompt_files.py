"""Prompt files in four formats, and one clear line for each way in which they can be wrong."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import UserError
from configs.paths import PROJECT_ROOT
from configs.prompts import load_prompts

MUSICCAPS = PROJECT_ROOT.parent / "shared" / "data" / "musiccaps.csv"
PROMPTS = ["slow piano, no drums", 'a "quoted" flute,\nover two lines', "žebříček – ♪"]


def refused(file: Path, **options: object) -> str:
    with pytest.raises(UserError) as error:
        load_prompts(file, **options)  # type: ignore[arg-type]
    text = str(error.value)
    assert text.startswith("prompts.train: ") and "\n" not in text
    return text


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_text_is_one_prompt_a_line(tmp_path: Path):
    file = write(tmp_path / "p.txt", "\ufeffslow piano \r\n  žebříček\u2028♪".encode())
    assert load_prompts(file) == ["slow piano", "žebříček\u2028♪"]


def test_csv_jsonl_and_parquet_give_the_same_prompts(tmp_path: Path):
    with open(tmp_path / "p.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["id", "caption"], *[[str(i), prompt] for i, prompt in enumerate(PROMPTS)]])
    lines = [json.dumps({"caption": prompt, "id": 1}) for prompt in PROMPTS]
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    pq.write_table(pa.table({"id": [1, 2, 3], "caption": PROMPTS}), tmp_path / "p.parquet")
    for name in ("p.csv", "p.jsonl", "p.parquet"):
        assert load_prompts(tmp_path / name) == PROMPTS
        assert load_prompts(tmp_path / name, column="caption") == PROMPTS


def test_the_named_column_goes_before_the_usual_ones(tmp_path: Path):
    file = write(tmp_path / "p.csv", b"prompt,other\na,b\n")
    assert load_prompts(file) == ["a"]
    assert load_prompts(file, column="other") == ["b"]


LONG = b"x" * 100_001
WRONG_FILES = [
    ("p.txt", b"", "is empty"),
    ("p.txt", b"\n \n", "is empty"),
    ("p.txt", b"a\n\nb\n", "line 2: the prompt is blank"),
    ("p.txt", b"a\nb\n \t\n", "line 3: the prompt is blank"),
    ("p.txt", b"a\n" + LONG, "line 2: the prompt has 100001 characters, allowed at most 2000"),
    ("p.txt", b"a\nb\xe9\n", "line 2: not UTF-8 (byte 3)"),
    ("p.txt", b"\x89PNG\r\n\x1a\n\x00\x00\x00", "is a binary file"),
    ("p.txt", b"abc\x00def", "is a binary file"),
    ("p.txt", "music".encode("utf-16"), "is a binary file"),
    ("p.txt", b"a\nb\x07c", "line 2: the prompt holds control characters"),
    (
        "p.csv",
        b"a,b\n1,2\n",
        "lacks the column of prompts.column (none of prompt, caption, text is there), allowed: a, b",
    ),
    ("p.csv", b'caption\nx\n""\ny\n', "line 3: the prompt is blank"),
    ("p.csv", b'caption\nx\n"y\n', "broken CSV"),
    ("p.csv", b"caption\n" + b"x" * 140_000 + b"\n", "line 2: the prompt has 140000 characters"),
    ("p.csv", b"id,caption\n1\n", "line 2: the prompt is blank"),
    ("p.csv", b"caption\n", "is empty"),
    ("p.jsonl", b'{"text": "a"}\n{"text": \n', "line 2: broken JSON"),
    ("p.jsonl", b'{"text": "a"}\n["b"]\n', "line 2: got list, allowed a JSON object"),
    ("p.jsonl", b'{"text": "a"}\n{"no": "b"}\n', "line 2 lacks the column"),
    ("p.jsonl", b'{"text": 5}\n', "line 1: got int, allowed text"),
    ("p.jsonl", b'{"text": "a"}\n\n', "line 2: broken JSON"),
    ("p.jsonl", b"[" * 100_000, "line 1: broken JSON"),
    ("p.parquet", b"PAR1 no", "is no valid Parquet file"),
]


@pytest.mark.parametrize(("name", "content", "expected"), WRONG_FILES)
def test_a_wrong_file_is_answered_with_one_line(tmp_path: Path, name: str, content: bytes, expected: str):
    assert expected in refused(write(tmp_path / name, content))


def test_what_is_no_file_is_answered_with_one_line(tmp_path: Path):
    assert "does not exist" in refused(tmp_path / "nothing.txt")
    assert "is a folder" in refused(tmp_path)


def test_parquet_columns_are_checked(tmp_path: Path):
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "blank.parquet")
    assert "line 2: the prompt is blank" in refused(tmp_path / "blank.parquet")
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "numbers.parquet")
    assert "line 1: got int" in refused(tmp_path / "numbers.parquet")
    assert "prompts.column=nope" in refused(tmp_path / "numbers.parquet", column="nope")


@settings(deadline=None, max_examples=50)
@given(data=st.binary(max_size=200))
def test_no_content_brings_anything_but_prompts_or_one_line(data: bytes, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("any")
    for name in ("p.txt", "p.csv", "p.jsonl", "p.parquet"):
        try:
            prompts = load_prompts(write(folder / name, data))
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert prompts and all(prompt.strip() for prompt in prompts)


@pytest.mark.skipif(not MUSICCAPS.exists(), reason=f"{MUSICCAPS} is not there")
def test_musiccaps_as_it_is_published():
    prompts = load_prompts(MUSICCAPS)
    assert len(prompts) == 4521 and prompts[0].startswith("The low quality recording features a ballad")
    assert load_prompts(MUSICCAPS, column="aspect_list")[0].startswith("['low quality'")
