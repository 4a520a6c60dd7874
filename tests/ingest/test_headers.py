"""What is found out about input files before Spark reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recsys_spark.config.input import InputConfig
from recsys_spark.errors import ConfigError, ContractError
from recsys_spark.ingest.headers import check_json_fields, csv_layouts, list_inputs
from recsys_spark.storage import LocalStorage


def layouts(folder: Path, content: bytes, **settings: Any) -> Any:
    (folder / "ratings.csv").write_bytes(content)
    config = InputConfig.model_validate({"path": str(folder / "ratings.csv"), **settings})
    return csv_layouts(config, LocalStorage(), list_inputs(config))


def test_layout_says_where_the_columns_are(tmp_path: Path) -> None:
    (layout,) = layouts(tmp_path, b'\xef\xbb\xbf\r\n"rating",x,"item_id",user_id\r\n').values()
    assert layout.positions == {"user": 3, "item": 2, "rating": 0}
    assert layout.n_columns == 4
    assert layout.header == '"rating",x,"item_id",user_id'


@pytest.mark.parametrize(
    ("content", "settings", "expected"),
    [
        (b"user_id;item_id;rating\nu;a;1\n", {}, "the delimiter looks like ';'"),
        (b"user_id\titem_id\trating\n", {}, "the delimiter looks like '\\t'"),
        (b"userid,item_id,rating\nu,a,1\n", {}, "did you mean 'userid'?"),
        (b"a,b,c\nu,a,1\n", {}, "set input.columns to the file's own names"),
        (b"user_id,item_id,rating,rating\nu,a,1,2\n", {}, "stands twice in the header"),
        ("user_id,item_id,rating\nu,a,1\n".encode("utf-16"), {}, "the file is UTF-16"),
        (b"u,a\n", {"header": False, "columns": {"user": 0, "item": 1, "rating": 2}}, "beyond the file's columns"),
        (b"u;a;1\n", {"header": False, "columns": {"user": 0, "item": 1, "rating": 2}}, "looks like ';'"),
    ],
)
def test_files_without_the_configured_columns(
    tmp_path: Path, content: bytes, settings: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        layouts(tmp_path, content, **settings)
    assert expected in str(caught.value)
    assert str(tmp_path / "ratings.csv") in str(caught.value)


@pytest.mark.parametrize("first", [b"u,a,1,EXTRA", b"x" * 10_000_000, b"u"])
def test_without_a_header_one_odd_line_does_not_decide(tmp_path: Path, first: bytes) -> None:
    columns = {"user": 0, "item": 1, "rating": 2}
    (layout,) = layouts(tmp_path, first + b"\nu,b,2\nu,c,3\nu,d,4\n", header=False, columns=columns).values()
    assert layout.n_columns == 3


@pytest.mark.parametrize("content", [b"", b"\n\r\n\n"])
def test_empty_files_are_no_input(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ContractError, match="every input file is empty"):
        layouts(tmp_path, content)


@pytest.mark.parametrize("path", ["absent.csv", "absent/*.csv", "."])
def test_missing_input_says_where_it_looked(tmp_path: Path, path: str) -> None:
    (tmp_path / "_hidden.csv").write_text("user_id,item_id,rating\nu,a,1\n")
    with pytest.raises(ConfigError, match="no input file was found"):
        list_inputs(InputConfig(path=str(tmp_path / path)))


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    paths = [str(tmp_path / "a.csv"), str(tmp_path), str(tmp_path / ".." / tmp_path.name / "*.csv")]
    assert [file.path for file in list_inputs(InputConfig(path=paths))] == [str(tmp_path / "a.csv")]


def test_json_fields_are_looked_for_in_the_first_lines(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('not json\n[1]\n{"userid": 1, "item_id": 2}\n{"rating": 3}\n')
    config = InputConfig(path=str(tmp_path / "r.jsonl"), format="jsonl")
    with pytest.raises(ConfigError, match="did you mean 'userid'"):
        check_json_fields(config, LocalStorage(), list_inputs(config))
    (tmp_path / "r.jsonl").write_text("")
    with pytest.raises(ContractError, match="every input file is empty"):
        check_json_fields(config, LocalStorage(), list_inputs(config))
