"""The timeline's page, its fragment, its table, its CSV and its JSON."""

from __future__ import annotations

import csv
import io
import re
from xml.etree import ElementTree

import pytest
from flask import Flask

from tests.web import timelines
from tests.web.conftest import HTMX, Visitor
from tests.web.fakes import FakeTimeline
from webapp.errors import StoreUnavailable
from webapp.web.ports import EXTENSION


@pytest.fixture
def timeline(app: Flask) -> FakeTimeline:
    """The application's own, with eight devices in it."""
    made = timelines.eight_gpus()
    app.extensions[EXTENSION].timeline = made
    return made


def record(app: Flask, made: FakeTimeline) -> None:
    app.extensions[EXTENSION].timeline = made


def test_the_page_shows_the_first_device_and_the_last_hour(visitor: Visitor, timeline: FakeTimeline) -> None:
    page = visitor.get("/timeline")

    assert page.status_code == 200
    assert 'data-device="gpu-0" data-span="hour"' in page.text
    assert "GPU 0 за последний час" in page.text
    assert re.findall(r'data-holder="(\w+)"', page.text)[-2:] == ["free", "gap"]
    assert 'href="/timeline" aria-current="page"' in page.text


def test_device_and_span_are_links(visitor: Visitor, timeline: FakeTimeline) -> None:
    page = visitor.get("/timeline?device=gpu-3&span=week").text

    assert 'href="/timeline?device=gpu-7&amp;span=week"' in page
    assert 'href="/timeline?device=gpu-3&amp;span=hour"' in page
    assert "GPU 3 за последнюю неделю" in page


def test_htmx_gets_the_drawing_alone_and_nothing_while_it_has_it(visitor: Visitor, timeline: FakeTimeline) -> None:
    fragment = visitor.get("/timeline?device=gpu-1", headers=HTMX)
    version = re.search(r'name="version" value="(\w+)"', fragment.text)

    assert version is not None
    assert "<html" not in fragment.text
    assert visitor.get(f"/timeline?device=gpu-1&version={version[1]}", headers=HTMX).status_code == 204
    assert visitor.get(f"/timeline?device=gpu-2&version={version[1]}", headers=HTMX).status_code == 200


def test_the_drawing_is_well_formed_has_a_name_and_no_style(visitor: Visitor, timeline: FakeTimeline) -> None:
    fragment = visitor.get("/timeline", headers=HTMX).text
    drawing = re.search(r'<svg class="timeline__plot".*</svg></div>', fragment, re.DOTALL)

    assert drawing is not None
    root = ElementTree.fromstring(drawing[0].removesuffix("</div>"))
    assert [one.tag for one in root.iter("title")][:1] == ["title"]
    assert root.find(".//desc") is not None
    assert " style=" not in fragment
    ids = [one.attrib["id"] for one in root.iter() if "id" in one.attrib]
    assert len(set(ids)) == len(ids)
    wanted = {name for name in re.findall(r"(?:url\(|href=\")#([\w-]+)", drawing[0]) if not name.startswith("sign-")}
    assert wanted - {"timeline-events"} <= set(ids)


def test_marks_are_links_with_what_who_and_when(visitor: Visitor, timeline: FakeTimeline) -> None:
    page = visitor.get("/timeline").text

    mark = re.search(r'href="/operations/op-5" data-mark="failure" data-count="1">\s*<title>([^<]+)</title>', page)
    assert mark is not None
    assert "ivan" in mark[1]
    assert 'data-event="op-5"' in page


def test_operations_of_another_device_are_not_marked(visitor: Visitor, timeline: FakeTimeline) -> None:
    page = visitor.get("/timeline?device=gpu-1").text

    assert re.findall(r'data-event="(op-\d+)"', page) == ["op-10", "op-2"]


def test_before_the_first_point_the_page_says_what_will_come(visitor: Visitor, app: Flask) -> None:
    record(app, timelines.nothing())
    assert "data-empty" in visitor.get("/timeline").text
    record(app, FakeTimeline())
    for path in ("/timeline", "/timeline/table"):
        assert visitor.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/timeline", "/timeline/table", "/timeline.csv", "/api/v1/timeline"])
def test_an_unknown_device_and_a_span_that_cannot_be_meant_are_refused(
    visitor: Visitor, timeline: FakeTimeline, path: str
) -> None:
    assert visitor.get(f"{path}?device=gpu-9").status_code == 404
    assert visitor.get(f"{path}?span=month").status_code == 422
    assert "gpu-9" not in visitor.get(f"{path}?span=month").text


def test_without_the_store_the_page_says_why_and_asks_again(visitor: Visitor, timeline: FakeTimeline) -> None:
    timeline.refusal = StoreUnavailable(reason="disk is full")

    page, fragment = visitor.get("/timeline"), visitor.get("/timeline", headers=HTMX)

    assert (page.status_code, fragment.status_code) == (503, 200)
    assert "disk is full" in page.text
    assert "timeline-poll" in fragment.text
    assert visitor.get("/timeline.csv").status_code == 503


def test_the_table_has_the_drawings_figures_and_can_be_scrolled_by_keys(
    visitor: Visitor, timeline: FakeTimeline
) -> None:
    page = visitor.get("/timeline/table").text

    assert 'data-rows="180"' in page
    assert 'role="region"' in page
    assert 'tabindex="0"' in page
    assert page.count('class="timeline__unknown"') > 30


def lines(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_the_csv_has_a_line_for_each_holder_that_adds_up_and_times_in_utc(visitor: Visitor, app: Flask) -> None:
    record(app, timelines.many_holders())

    answer = visitor.get("/timeline.csv?device=gpu-0&span=week")
    rows = lines(answer.text)

    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8; header=present"
    assert answer.headers["Content-Disposition"] == "attachment; filename=warden-gpu-0-week.csv"
    assert "\r\n" in answer.get_data(as_text=True)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row["time"]) for row in rows)
    by_time: dict[str, int] = {}
    for row in rows:
        by_time[row["time"]] = by_time.get(row["time"], 0) + int(row["bytes"])
    assert set(by_time.values()) == {timelines.TOTAL}
    assert {row["user"] for row in rows if "HYPERLINK" in row["user"]} == {"'=HYPERLINK('http://evil')"}


def test_an_unknown_moment_is_a_line_without_figures(visitor: Visitor, app: Flask) -> None:
    record(app, timelines.with_gaps())

    unknown = [row for row in lines(visitor.get("/timeline.csv").text) if row["kind"] == "unknown"]

    assert len(unknown) > 50
    assert {(row["bytes"], row["total_bytes"]) for row in unknown} == {("", "")}


def test_the_csv_without_a_device_is_the_first_one_s(visitor: Visitor, timeline: FakeTimeline) -> None:
    assert {row["device"] for row in lines(visitor.get("/timeline.csv").text)} == {"gpu-0"}


def test_the_csv_without_any_device_has_its_head(visitor: Visitor) -> None:
    assert visitor.get("/timeline.csv").text.startswith("time,device,kind,")


def test_the_json_has_every_point_in_bytes_with_its_operations(visitor: Visitor, timeline: FakeTimeline) -> None:
    track = visitor.get("/api/v1/timeline?device=gpu-0&span=hour").get_json()

    known = [point for point in track["points"] if point["total_bytes"] is not None]
    assert (track["device"], track["span"], track["step_seconds"]) == ("gpu-0", "hour", 10)
    assert 0 < len(known) < len(track["points"])
    for point in known:
        assert sum(holder["bytes"] for holder in point["holders"]) + point["free_bytes"] == point["total_bytes"]
    assert [o["mark"] for o in track["operations"] if o["id"] in ("op-4", "op-5", "op-7")] == [
        None,
        "failure",
        "switch",
    ]


def test_the_json_without_any_device_says_so(visitor: Visitor) -> None:
    assert visitor.get("/api/v1/timeline").status_code == 404
