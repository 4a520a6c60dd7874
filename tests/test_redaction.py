from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_spark.cli import main
from recsys_spark.progress import JsonLines, PlainLines
from recsys_spark.redaction import redact, redacted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3a://AKIA:hunter2@bucket/log", "s3a://***@bucket/log"),
        ("s3a://AKIA:hun/ter@bucket/log", "s3a://***@bucket/log"),
        ("google.cloud.auth.service.account.private.key=abc", "google.cloud.auth.service.account.private.key=***"),
        ("api_key: abc, pwd=abc", "api_key: ***, pwd=***"),
        ("-Dpassphrase=abc fs.s3a.encryption.key=abc", "-Dpassphrase=*** fs.s3a.encryption.key=***"),
        ("https://user:p%40ss@host:8020/x?y=1", "https://***@host:8020/x?y=1"),
        ("abfss://container@account.dfs.core.windows.net/x", "abfss://container@account.dfs.core.windows.net/x"),
        ("wasbs://c@a/x?sig=abc%2F&sv=2020", "wasbs://c@a/x?sig=***&sv=2020"),
        ("https://h/x?X-Amz-Signature=abc&b=c", "https://h/x?X-Amz-Signature=***&b=c"),
        ("spark.hadoop.fs.s3a.secret.key=abc other", "spark.hadoop.fs.s3a.secret.key=*** other"),
        ("--conf fs.azure.account.key.x.net=abc==", "--conf fs.azure.account.key.x.net=***"),
        ('{"password": "abc", "user": "u"}', '{"password": "***", "user": "u"}'),
        ("hdfs://namenode:8020/user/a@b/x", "hdfs://namenode:8020/user/a@b/x"),
        ("item a@b: 3", "item a@b: 3"),
        ("12:34:56 train: done", "12:34:56 train: done"),
    ],
)
def test_secrets_go_and_the_rest_stays(text: str, expected: str) -> None:
    assert redact(text) == expected


@given(
    st.text(st.characters(blacklist_categories=["Cs", "Cc", "Z"], blacklist_characters="/@:'\"\\,;&})]#"), min_size=4)
)
def test_no_password_of_a_uri_or_setting_is_left(secret: str) -> None:
    marked = f"{secret}QQQ"
    for text in (
        f"s3a://u:{marked}@b/p",
        f"https://h/?token={marked}",
        f"fs.s3a.secret.key={marked}",
        f"password: {marked}",
    ):
        assert "QQQ" not in redact(text), text
        assert redact(redact(text)) == redact(text)


def test_content_of_json_is_redacted_at_any_depth() -> None:
    content = {"a": ["s3a://u:p@b", {"b": "x://y:z@w", "fs.secret.key": "k"}], "n_tokens": 1, "none": None, 7: "x"}
    expected = {"a": ["s3a://***@b", {"b": "x://***@w", "fs.secret.key": "***"}], "n_tokens": 1, "none": None, 7: "x"}
    assert redacted(content) == expected


@pytest.mark.parametrize("formatter", [JsonLines(), PlainLines()])
def test_no_log_line_tells_a_secret(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("cannot reach s3a://u:hunter2@b/x")
    except ValueError as error:
        trace = (type(error), error, error.__traceback__)
    fields = {"fields": {"path": "s3a://u:hunter2@b/x"}}
    record = logging.getLogger("x").makeRecord("x", 40, "f", 1, "in s3a://u:hunter2@b/x", (), trace, extra=fields)
    assert "hunter2" not in formatter.format(record)
    assert "***@b/x" in formatter.format(record)


def test_an_error_does_not_tell_a_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.yaml"
    settings = {
        "name": "x",
        "input": {"path": "s3a://u:hunter2@b/x", "typo": 1},
        "output": {"path": "s3a://u:hunter2@b/o"},
    }
    config.write_text(json.dumps(settings))
    for extra in ([], ["--set", "input.typo=s3a://u:hunter2@b"]):
        assert main(["ingest", "--config", str(config), *extra]) == 2
    captured = capsys.readouterr()
    assert "hunter2" not in captured.err + captured.out
