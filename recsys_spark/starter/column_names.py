"""What a column's name says about what it holds."""

from __future__ import annotations

import re

_WORDS = {
    "user": "user uid customer client member reader listener viewer account visitor session reviewer person buyer "
    "consumer subscriber student profile",
    "item": "item iid product stock sku asin isbn movie film book artist song track album article news game anime "
    "business restaurant recipe video show course job hotel poi venue place",
    "rating": "rating rate score stars star overall quantity qty weight count counts plays playcount listens clicks "
    "views purchases watches hours grade preference value",
    "timestamp": "timestamp time ts date datetime day at when",
}
_ROLE_OF = {word: role for role, words in _WORDS.items() for word in words.split()}
# Endings that say how something is named, not what it is.
_ENDINGS = {"id", "ids", "no", "nr", "num", "number", "code", "key", "index", "idx"}


def words_of_name(name: str) -> list[str]:
    """Return the words of a name, such as ``Book-Rating``, ``CustomerID`` or ``unixReviewTime``, in small letters."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    words = [word.lower() for word in re.split(r"[^A-Za-z0-9]+|\s+", spaced) if word]
    # userid, movieid
    return [part for word in words for part in _without_ending(word)]


def _without_ending(word: str) -> list[str]:
    stem = word.removesuffix("id")
    return [stem, "id"] if stem in _ROLE_OF and stem != word else [word]


def role_of_name(name: str) -> str | None:
    """Return ``user``, ``item``, ``rating`` or ``timestamp`` where a name tells, else None.

    The last word counts that is no ending: a ``Book-Rating`` is a rating, an ``InvoiceDate`` a date.
    """
    words = [word for word in words_of_name(name) if word not in _ENDINGS]
    if not words:
        return None
    last = words[-1]
    return _ROLE_OF.get(last) or _ROLE_OF.get(last.removesuffix("s"))


def is_id_name(name: str) -> bool:
    """Return whether a name ends as those of ids do."""
    words = words_of_name(name)
    return bool(words) and words[-1] in _ENDINGS
