"""Numbers as each language writes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from webapp.domain.units import GIB, KIB, MIB
from webapp.web import formats

SPACE = "\u00a0"


@pytest.mark.parametrize(
    ("size", "ru", "en"),
    [
        (24 * GIB, "24,0 GiB", "24.0 GiB"),
        (int(3.75 * GIB), "3,8 GiB", "3.8 GiB"),
        (512 * MIB, "512 MiB", "512 MiB"),
        (GIB - 1, "1,0 GiB", "1.0 GiB"),
        (int(4.1 * MIB), "4,1 MiB", "4.1 MiB"),
        (12 * KIB, "12 KiB", "12 KiB"),
        (0, "0 GiB", "0 GiB"),
        (1500 * GIB, "1500,0 GiB", "1500.0 GiB"),
        (None, "нет данных", "n/a"),
        (10**400, "нет данных", "n/a"),
    ],
)
def test_a_size_is_in_the_unit_that_fits(speak: Callable[[str], None], size: int | None, ru: str, en: str) -> None:
    speak("ru")
    assert formats.size(size).replace(SPACE, " ") == ru
    speak("en")
    assert formats.size(size).replace(SPACE, " ") == en


@pytest.mark.parametrize(
    ("seconds", "ru"),
    [
        (0.005, "5 мс"),
        (1.24, "1,2 с"),
        (9.94, "9,9 с"),
        (9.96, "9 с"),
        (38.9, "38 с"),
        (60, "1 мин"),
        (125, "2 мин 5 с"),
        (3600, "1 ч"),
        (11400, "3 ч 10 мин"),
        (90000, "1 д 1 ч"),
        (None, "нет данных"),
    ],
)
def test_a_length_of_time_has_two_units_at_most(russian: None, seconds: float | None, ru: str) -> None:
    assert formats.duration(seconds).replace(SPACE, " ") == ru


@pytest.mark.parametrize(
    ("seconds", "en"), [(0.4, "0 s ago"), (59.9, "59 s ago"), (3599, "59 min ago"), (7200, "2 h ago"), (-3, "0 s ago")]
)
def test_an_age_is_in_its_largest_unit(english: None, seconds: float, en: str) -> None:
    assert formats.short_age(seconds).replace(SPACE, " ") == en


@pytest.mark.parametrize(
    ("seconds", "en"), [(59.9, "less than a minute"), (60, "1 min"), (1259, "20 min"), (7300, "2 h"), (90000, "1 d")]
)
def test_a_rough_length_of_time_changes_once_a_minute_at_most(english: None, seconds: float, en: str) -> None:
    assert formats.rough_duration(seconds).replace(SPACE, " ") == en


def test_large_numbers_are_grouped_and_four_digits_are_not(speak: Callable[[str], None]) -> None:
    speak("en")
    assert (formats.number(2048), formats.number(40960)) == ("2048", "40,960")
    speak("ru")
    assert (formats.number(2048), formats.number(40960).replace(SPACE, " ")) == ("2048", "40 960")


def test_sizes_that_stand_together_share_their_unit(russian: None) -> None:
    assert formats.together((15.3 * GIB, 0.2 * GIB), " · ").replace(SPACE, " ") == "15,3 · 0,2 GiB"
    assert formats.together((512 * MIB, None), " → ").replace(SPACE, " ") == "512 → нет данных MiB"
    assert formats.together((None,), " → ") == "нет данных"


def test_counts_are_shortened_from_a_million(english: None) -> None:
    assert [formats.count(n) for n in (8_030_000_000, 1_200_000, 135_000_000, 4096, None)] == [
        "8.0 B", "1.2 M", "135 M", "4096", "n/a",
    ]  # fmt: skip


def test_a_moment_of_another_day_carries_its_date(english: None) -> None:
    now = 1_800_000_000.0

    assert len(formats.moment(now - 1, now)) == len("12:34")
    assert "," in formats.moment(now - 3 * 86400, now)
