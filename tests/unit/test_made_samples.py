"""Samples that are made of a quantity come to it exactly, or none is made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawdown.schema.units import MAX_ID_CHARS, MAX_INTERVAL_S, MAX_MEMORY_MB, MAX_METER
from drawdown.worker.sources.samples.rows import MAX_UNITS, MOST_SAMPLES, NotMade, id_of, sizes_of
from tests.cases import cases


@given(
    st.integers(1, 2**60), st.sampled_from(["s", "mb_s"]), st.integers(0, MAX_MEMORY_MB), st.integers(0, MAX_MEMORY_MB)
)
def test_synthesized_samples_sum_to_quantity_within_bounds(quantity: int, unit: str, one: int, other: int) -> None:
    lo, hi = sorted((one, other))
    try:
        made = list(sizes_of(quantity, unit, lo, max(hi, 1)))
    except NotMade:
        return
    assert sum(seconds * (size if unit == "mb_s" else 1) for size, seconds in made) == quantity
    assert len(made) <= MOST_SAMPLES
    assert all(max(lo, 1) <= size <= max(hi, 1) and 0 < seconds <= MAX_INTERVAL_S for size, seconds in made)


@cases(
    ("quantity", "unit", "lo", "hi", "made"),
    [
        (45, "s", 2049, 4096, [(2049, 45)]),
        (2 * MAX_INTERVAL_S + 1, "s", 0, 9, [(1, MAX_INTERVAL_S), (1, MAX_INTERVAL_S), (1, 1)]),
        (10, "mb_s", 0, 4, [(4, 2), (2, 1)]),
        (3, "mb_s", 1, 4, [(3, 1)]),
        (12, "mb_s", 3, 5, [(3, 4)]),
        (9, "mb_s", 4, 8, [(4, 1), (5, 1)]),
        (5096, "mb_s", 2049, 4096, [(2548, 2)]),
        (2**40, "mb_s", 0, MAX_MEMORY_MB, [(MAX_MEMORY_MB, 65_536)]),
    ],
)
def test_synthesized_samples_have_expected_sizes(
    quantity: int, unit: str, lo: int, hi: int, made: list[tuple[int, int]]
) -> None:
    assert list(sizes_of(quantity, unit, lo, hi)) == made


@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 20))
def test_synthesized_samples_are_refused_only_if_no_sizes_fit(quantity: int, one: int, other: int) -> None:
    lo, hi = sorted((one, other))
    fits = any(seconds * lo <= quantity <= seconds * hi for seconds in range(1, quantity + 1))
    try:
        made = list(sizes_of(quantity, "mb_s", lo, hi))
    except NotMade:
        made = []
    assert bool(made) == fits


@given(st.integers(1, 2**50))
def test_synthesized_units_sum_to_quantity_and_fit_64_bits(quantity: int) -> None:
    try:
        made = list(sizes_of(quantity, "units", MAX_METER, MAX_METER))
    except NotMade:
        assert quantity > MAX_UNITS * MOST_SAMPLES
        return
    assert sum(units for _, units in made) == quantity
    assert {meter for meter, _ in made} == {MAX_METER}
    assert all(0 < units <= MAX_UNITS and units * MAX_METER < 2**63 for _, units in made)


@cases(
    ("quantity", "unit", "lo", "hi"),
    [(MAX_INTERVAL_S * MOST_SAMPLES + 1, "s", 1, 1), (7, "mb_s", 4, 4), (3, "mb_s", 4, 8), (9, "mb_s", 5, 8)],
)
def test_synthesized_samples_of_impossible_quantity_are_refused(quantity: int, unit: str, lo: int, hi: int) -> None:
    with pytest.raises(NotMade):
        list(sizes_of(quantity, unit, lo, hi))
    assert len(list(sizes_of(MAX_INTERVAL_S * MOST_SAMPLES, "s", 1, 1))) == MOST_SAMPLES


def test_synthesized_sample_ids_are_distinct_and_fit() -> None:
    assert id_of("e-1", "final", "compute", 0) == "run:e-1:final:compute:0"
    long = [id_of("k" * 200, number, "compute", at) for number in ("d1", "final") for at in range(3)]
    assert len(set(long)) == 6
    assert all(len(name) <= MAX_ID_CHARS for name in long)
