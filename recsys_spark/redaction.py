"""Secrets in paths, settings and messages, before they reach a log, a manifest or a report."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"
_NAMES = (
    r"[\w.\-]{0,99}(?:secret|passw(?:or)?d|passphrase|pwd|token|signature|credential|sas|api[._-]?key|"
    r"(?:access|account|private|encryption)[._-]?key)[\w.\-]{0,99}"
)
_SECRET_NAME = re.compile(_NAMES, re.IGNORECASE)
_RULES = (
    # scheme://user:password@host; a container before the @ of abfss:// has no colon, and is no secret. What begins
    # as a port does, and a slash, is a path.
    (re.compile(r"(?<=://)[^/\s:@'\"]*:(?!\d+/)[^\s'\"@]*@(?=[^/\s@])"), f"{HIDDEN}@"),
    (re.compile(rf"(?i)([?&](?:{_NAMES}|sig|key)=)[^&\s'\"#]+"), rf"\g<1>{HIDDEN}"),
    # spark.hadoop.fs.s3a.secret.key=..., "password": "...", password: ...
    (
        re.compile(rf"(?i)((?<![\w.\-?&]){_NAMES}['\"]?\s*[=:]\s*['\"]?)(?!{re.escape(HIDDEN)})[^\s'\",;&}})\]]+"),
        rf"\g<1>{HIDDEN}",
    ),
)


def redact(text: str) -> str:
    """Return a text without the passwords, keys and tokens that its URIs and settings hold."""
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


def redacted(value: Any) -> Any:
    """Return JSON content, every text of it without secrets."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {
            key: HIDDEN if isinstance(content, str) and _SECRET_NAME.fullmatch(str(key)) else redacted(content)
            for key, content in value.items()
        }
    return [redacted(content) for content in value] if isinstance(value, list | tuple) else value
