"""What a page of the timeline says: every holder with a name and a pattern, marks with their people, sums that hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.web import timelines
from tests.web.fakes import FakeTimeline
from tests.web.timelines import at, event, model, user
from webapp.domain.memory import LedgerKind
from webapp.domain.operation import OperationKind, OperationState
from webapp.domain.timeline import Point, Span, Track, Who
from webapp.web.timeline.presenter import TimelineView, table_view, timeline_view

pytestmark = pytest.mark.usefixtures("russian")


def shown(timeline: FakeTimeline, span: Span = Span.HOUR, device: str = "gpu-0") -> TimelineView:
    return timeline_view(timeline.track(device, span))


def of(*points: Point) -> Track:
    begun_at = float(points[0].taken_at // 20 * 20)
    return Track("gpu-0", Span.HOUR, begun_at, begun_at + 3600, points)


@pytest.mark.parametrize("span", Span)
def test_every_holder_has_a_name_and_a_pattern_of_its_own(span: Span) -> None:
    view = shown(timelines.many_holders(), span)

    assert view.chart is not None
    patterns = [layer.pattern for layer in view.chart.layers]
    names = [layer.name for layer in view.chart.layers]
    assert len(set(patterns)) == len(patterns)
    assert len(set(names)) == len(names)
    assert {"остальные модели", "остальные чужие процессы", "драйвер"} <= set(names)


def test_a_holder_keeps_its_pattern_when_others_come_and_go() -> None:
    alone = timeline_view(of(at(1e6, {user("alice"): 1})))
    among = timeline_view(of(at(1e6, {user("alice"): 1, model("lab/one"): 2})))

    def pattern(view: TimelineView) -> str:
        assert view.chart is not None
        return next(layer.pattern for layer in view.chart.layers if layer.name == "alice")

    assert pattern(alone) == pattern(among)


def test_instances_of_one_model_are_one_layer_and_modes_are_two() -> None:
    view = timeline_view(
        of(at(1e6, {model("lab/one"): 1, model("lab/one", "transformers", "i2"): 2, model("lab/one", "vllm", "i3"): 3}))
    )

    assert view.chart is not None
    assert {layer.name: layer.most for layer in view.chart.layers if layer.kind in ("worker", "container")} == {
        "one · Transformers": "3,0\u00a0GiB",
        "one · vLLM": "3,0\u00a0GiB",
    }


def test_a_process_of_ours_without_a_model_is_not_called_one() -> None:
    view = timeline_view(of(at(1e6, {Who(LedgerKind.WORKER, "spare"): 1})))

    assert view.chart is not None
    assert "служебные процессы Warden" in {layer.name for layer in view.chart.layers}


def test_a_peak_inside_a_bucket_is_in_the_legend() -> None:
    point = at(1e6, {user("alice"): 1})
    held = tuple(h._replace(most_bytes=h.most_bytes * 2) if h.who.user else h for h in point.held)

    view = timeline_view(of(replace(point, held=held)))

    assert view.chart is not None
    assert [layer.most for layer in view.chart.layers if layer.name == "alice"] == ["2,0\u00a0GiB"]


def test_what_is_unknown_is_a_gap_that_the_summary_names() -> None:
    view = shown(timelines.with_gaps())

    assert view.chart is not None
    assert len(view.chart.gaps) == 3
    assert "Нет данных за 13\u00a0мин" in view.summary


def test_without_a_figure_there_is_no_drawing() -> None:
    assert shown(timelines.nothing()).chart is None
    assert timeline_view(of(Point(1e6, None))).chart is None


def test_every_sign_is_shown_with_its_person_and_what_touches_no_memory_is_not() -> None:
    view = shown(timelines.usual())

    assert view.chart is not None
    assert [mark.mark for mark in view.chart.marks] == [
        "load", "clean", "selftest", "failure", "cancelled", "switch", "unload", "container", "emergency",
    ]  # fmt: skip
    assert all(mark.count == 1 and mark.operation for mark in view.chart.marks)
    assert "ivan" in view.chart.marks[3].title
    assert "ошибка" in view.chart.marks[3].title
    assert view.events[3].title == "Переключение: Qwen3-1.7B → Qwen3-8B-AWQ"


def test_many_operations_at_once_are_one_mark_with_a_number() -> None:
    view = shown(timelines.usual(), Span.WEEK)

    assert view.chart is not None
    counts = [mark.count for mark in view.chart.marks]
    assert (sum(counts), view.events_left) == (49, 49 - len(view.events))
    crowd = next(mark for mark in view.chart.marks if mark.count > 30)
    assert crowd.operation is None
    assert crowd.title.startswith("38 операций")


def test_a_mark_that_stands_for_several_shows_the_worst() -> None:
    now = 1_000_000.0
    several = [event(n, now + n, OperationKind.UNLOAD) for n in range(5)]
    several.append(event(9, now + 6, OperationKind.CLEAN, state=OperationState.ABANDONED))

    view = timeline_view(replace(of(at(now, {})), events=tuple(several)))

    assert view.chart is not None
    assert [(mark.mark, mark.count) for mark in view.chart.marks] == [("unload", 1), ("unload", 1), ("failure", 4)]


@pytest.mark.parametrize("span", Span)
def test_the_table_has_a_row_for_each_column_and_its_rows_add_up(span: Span) -> None:
    track = timelines.many_holders().track("gpu-0", span)

    table = table_view(track)

    assert len(table.rows) == track.scale.columns
    for row in table.rows:
        if row.sizes:
            *parts, total = (float(size.replace(",", ".")) for size in row.sizes)
            assert len(row.sizes) == len(table.heads)
            assert sum(parts) == pytest.approx(total, abs=0.01 * len(parts))


def test_a_gap_in_the_table_has_no_figures() -> None:
    table = table_view(timelines.with_gaps().track("gpu-0", Span.HOUR))

    assert [row.sizes for row in table.rows].count(()) == pytest.approx(41, abs=3)


def test_the_version_changes_with_what_is_shown_alone() -> None:
    timeline = timelines.usual()

    assert shown(timeline).version == shown(timeline).version
    assert shown(timeline).version != shown(timeline, Span.WEEK).version
