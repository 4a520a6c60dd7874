from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest

from recsys_spark.report.charts import bar_chart, interval_chart, round_ticks, short_number
from recsys_spark.report.page import compare_page, run_page, visible
from recsys_spark.report.page_data import even_bars
from recsys_spark.report.page_tables import verdict_of
from tests.report.page_samples import comparison, feature, metric, page_data

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\x00\u202e{{ 7*7 }}"
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Reader(HTMLParser):
    """Reads a page, and refuses tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page() -> str:
    return run_page(page_data())


def test_a_page_is_one_file_that_loads_nothing(page: str) -> None:
    reader = Reader(page)
    assert len(page.encode()) < 1_000_000
    names = {tag for tag, _ in reader.tags}
    assert not names & {"script", "iframe", "object", "embed", "img", "form", "base"}
    for tag, attributes in reader.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "action", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,")), (tag, attributes)
    assert not re.search(r"url\(|@import|https?:", page)
    assert ("http-equiv", "Content-Security-Policy") in {(k, v) for _, a in reader.tags for k, v in a.items()}


def test_everything_that_was_asked_for_is_on_the_page(page: str) -> None:
    text = Reader(page).text
    for wanted in (
        "1,002,000", "unparsable rating", "1,book 17,x", "Ratings by value", "Users by number of ratings",
        "Objective after each half-iteration", "penalty on the factors", "NDCG of lists of 10", "previous model",
        "Recall of lists of 10 by segment", "users of 1 to 9 ratings", "Calibration", "coverage@10",
        "Who gets the places", "Lists of 10 by model hold 40.0% of the 1,200 items",
        "A few users", "Similar items", "Why user book 17", "Stages", "384.0\u00a0MiB", "predicted",
        "reg_exponent", "4.3.0", "out/manifest.json", "entry 3", "0.3000 to 0.3200",
        "What is known of the items", "1,234", "789", "31% of the values", "0.1 deviations", "10,400",
        "gets book 17, by features", "genre=book 17", "+0.7000", "3 other features", "+3.4000",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_charts_can_be_read_without_seeing_them(page: str) -> None:
    reader = Reader(page)
    pictures = [attributes for tag, attributes in reader.tags if tag == "svg"]
    assert len(pictures) >= 10
    assert all(attributes["role"] == "img" and len(attributes["aria-label"] or "") > 30 for attributes in pictures)
    assert reader.text.count("The numbers") == len(pictures), "each chart has its numbers as a table"
    assert ("html", {"lang": "en"}) in reader.tags
    headings = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch(r"h\d", tag)]
    assert headings[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(headings))
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {(attributes["href"] or "")[1:] for tag, attributes in reader.tags if tag == "a"}
    assert targets <= set(ids)


@pytest.mark.parametrize("make", [run_page, lambda data: compare_page(data, data)], ids=["run", "compare"])
def test_hostile_ids_are_text(make: Any) -> None:
    data = json.loads(json.dumps(page_data(HOSTILE)))
    data["run"]["run_id"] = data["run"]["config"]["name"] = HOSTILE
    page = make(data)
    reader = Reader(page)
    assert not {tag for tag, _ in reader.tags} & {"script", "img"}
    assert "<script>alert(1)</script>" in reader.text
    assert "\\u0000\\u202e{{ 7*7 }}" in reader.text
    assert "\x00" not in page
    assert "\u202e" not in page


def test_credentials_and_what_cannot_be_seen_are_not_shown() -> None:
    assert "secret" not in run_page(page_data())
    assert visible("s3a://key:secret@bucket/x") == "s3a://***@bucket/x"
    assert visible("a\ud800\x1b[31m\u200b") == "a\\ud800\\u001b[31m\\u200b"
    assert visible("x" * 10_000) == "x" * 400 + "…"
    assert visible(3) == 3


def test_a_model_that_does_not_beat_its_baselines_is_told_in_red() -> None:
    data = page_data()
    data["records"]["evaluate"]["comparisons"] = [comparison("popularity", -0.01, "not told apart")]
    data["records"]["evaluate"]["advice"] = "Try another weight."
    page = run_page(data)
    assert "<li>Try another weight.</li>" in page
    assert 'class="verdict bad"' in page
    assert "The model does not beat its baselines" in page
    assert re.search(r'<td class="n bad">0\.1200<', page), "the baseline that it loses to is marked"
    unclear = {"comparisons": [comparison("popularity", 0.01, "not told apart")]}
    assert verdict_of(unclear).kind == "warn"
    assert verdict_of({"comparisons": [comparison("popularity", 0.1, "better")]}).kind == "good"
    assert verdict_of(None).kind == verdict_of({"comparisons": []}).kind == "warn"


def test_what_has_drifted_is_marked_though_it_has_no_unit() -> None:
    data = page_data()
    features = data["records"]["features"]
    page = run_page(data)
    assert re.search(r'<td class="n bad">31% of the values<', page)
    assert not re.search(r'<td class="n bad">0\.1 deviations<', page)
    features["features"] = [feature("price", "numeric", None, has_drifted=True), feature("new", "text", None)]
    page = run_page(data)
    assert re.search(r'<td class="n bad">no longer constant<', page)
    del data["records"]["features"]
    assert "What is known of the items" not in run_page(data)


def test_factors_are_not_explained_by_features() -> None:
    data = page_data()
    data["why"] = [{**one, "features": [], "n_other_features": 0, "without_features": None} for one in data["why"]]
    assert ", by features" not in run_page(data)


def test_a_run_that_has_hardly_begun_has_a_page() -> None:
    full = page_data()
    kept = {name: full[name] for name in ("run", "written", "config", "versions")}
    page = run_page({**kept, "records": {}, "manifest": None, "previous": None})
    text = Reader(page).text
    assert "Nothing was measured" in text
    assert "not published" in text


def test_two_runs_stand_side_by_side() -> None:
    a, b = page_data(), page_data()
    a["run"]["run_id"], b["run"]["run_id"] = "monday", "tuesday"
    b["run"]["config"]["train"]["rank"] = 77
    b["records"]["evaluate"]["metrics"] = [
        metric("model", "ndcg@10", 0.41), metric("model", "rmse", 0.5), metric("popularity", "ndcg@10", 0.12),
    ]  # fmt: skip
    page = compare_page(a, b)
    text = Reader(page).text
    for wanted in (
        "monday",
        "tuesday",
        "train.rank",
        "77",
        "+0.1000",
        "seconds of train",
        "NDCG@10: 0.3100 in A, 0.4100",
        "model: 0.3100 in A, 0.4100 in B.",
    ):
        assert wanted in text, wanted
    assert 'class="verdict good"' in page
    assert re.search(r'<td class="n good">\+0\.1000', page)
    assert 'class="verdict bad"' in compare_page(b, a)
    assert 'class="verdict warn"' in compare_page(a, a)
    assert "none" in Reader(compare_page(a, a)).text, "no settings differ"


def test_axes_have_round_numbers_that_hold_all_values() -> None:
    for low, high in ((0.0, 0.0), (0.0, 7.3), (-2.0, 1e9), (0.31, 0.3101), (5.0, 5.0), (-3.0, -1.0)):
        ticks = round_ticks(low, high)
        assert ticks[0] <= low + 1e-9 * abs(low)
        assert ticks[-1] >= high - 1e-9 * abs(high)
        assert 2 <= len(ticks) <= 9
    assert [short_number(v) for v in (12_300_000, 45_000, 0.05, 0)] == ["12.3M", "45k", "0.05", "0"]


def test_ratings_between_steps_stand_at_the_nearest() -> None:
    bars = even_bars({1.0: 50, 3.0: 100, 4.0: 900, 4.5: 3, 3.667: 2, 5.0: 800})
    assert [(bar["name"], bar["n"], bar["n_moved"]) for bar in bars] == [
        ("1", 50, 0), ("2", 0, 0), ("3", 100, 0), ("4", 902, 2), ("5", 803, 3),
    ]  # fmt: skip
    assert [bar["name"] for bar in even_bars({0.5: 10, 1.0: 10, 2.0: 10})] == ["0.5", "1", "1.5", "2"]
    assert [bar["name"] for bar in even_bars({0.0: 1, 0.37: 5, 1000.0: 1})] == ["0", "0.37", "1000"]
    data = page_data(rating_histogram=bars)
    assert "5 that lie between these values stand at the nearest." in run_page(data)


def test_bars_are_as_long_as_their_numbers_and_stay_inside() -> None:
    chart = bar_chart("t", "s", ["a", "b"], {"x": [1.0, 3.0], "y": [2.0, 0.0]}, x_title="", y_title="", stacked=True)
    heights = [rect.height for rect in chart.rects]
    assert heights[2] == pytest.approx(3 * heights[0])
    assert heights[1] == pytest.approx(2 * heights[0])
    assert chart.rects[1].y + chart.rects[1].height == pytest.approx(chart.rects[0].y), "one stands on the other"
    assert all(rect.x >= 0 and rect.x + rect.width <= chart.width for rect in chart.rects)
    beside = bar_chart("t", "s", ["a"], {"x": [1.0], "y": [2.0]}, x_title="", y_title="")
    assert beside.rects[0].x + beside.rects[0].width == pytest.approx(beside.rects[1].x)
    dots = interval_chart("t", "s", [("m", "s1", 0.5, 0.4, 0.6), ("p", "s2", 0.2, None, None)], x_title="").dots
    assert dots[0].x > dots[1].x
