"""The mapping: what a size means in a window, and that history keeps its meaning (S5)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from drawdown.schema.units import MAX_EVENT_TYPES, MAX_MEMORY_MB
from drawdown.worker.catalog.mapping import UNITS, MappingRow, Segment, making, resolve, rewrites, segments

SIZES = st.integers(0, 12)
rows = st.builds(
    MappingRow,
    kind=st.just("exact"),
    memory_mb=SIZES,
    feature=st.sampled_from(["a", "b", None]),
    unit=st.sampled_from(["s", "mb_s"]),
    start_ms=st.integers(0, 6),
) | st.builds(
    MappingRow,
    kind=st.just("up_to"),
    memory_mb=SIZES | st.none(),
    feature=st.sampled_from(["c", "d", None]),
    unit=st.just("s"),
    start_ms=st.integers(0, 6),
)
METERS = st.integers(MAX_MEMORY_MB + 1, MAX_MEMORY_MB + 3)
all_rows = rows | st.builds(
    MappingRow,
    kind=st.just("exact"),
    memory_mb=METERS,
    feature=st.sampled_from(["e", "f", None]),
    unit=st.just(UNITS),
    start_ms=st.integers(0, 6),
)


def row(kind: str, size: int | None, feature: str | None, start: int = 0, unit: str = "s") -> MappingRow:
    return MappingRow(kind, size, feature, unit, start)


def feature(found: MappingRow | None) -> str | None:
    return None if found is None else found.feature


def test_mapping_exact_size_wins_over_tier_and_smaller_tier_over_larger() -> None:
    known = [row("up_to", None, "top"), row("up_to", 8, "mid"), row("up_to", 4, "low"), row("exact", 3, "three")]
    wanted = {0: "low", 3: "three", 4: "low", 5: "mid", 8: "mid", 9: "top"}
    assert {size: feature(resolve(known, size, 0)) for size in wanted} == wanted


def test_mapping_selector_can_end_and_restart() -> None:
    known = [row("exact", 4, "a"), row("exact", 4, None, start=2), row("exact", 4, "b", start=5)]
    assert [feature(resolve(known, 4, window)) for window in range(7)] == ["a", "a", None, None, None, "b", "b"]


def test_mapping_tier_applies_after_exact_size_ends() -> None:
    known = [row("up_to", 8, "tier"), row("exact", 4, "a"), row("exact", 4, None, start=2)]
    assert [feature(resolve(known, 4, window)) for window in (1, 2)] == ["a", "tier"]


@given(st.lists(all_rows, max_size=7), SIZES | METERS, st.integers(0, 8))
def test_mapping_segments_agree_with_lookup(known: list[MappingRow], size: int, window: int) -> None:
    found = [s for s in segments(known) if s.lo <= size <= s.hi and s.start_ms <= window < s.end_ms]
    looked_up = resolve(known, size, window)
    assert len(found) <= 1
    assert (found[0].feature, found[0].unit) == (looked_up.feature, looked_up.unit) if looked_up else found == []


@given(st.lists(all_rows, max_size=6), all_rows, st.integers(0, 8))
def test_mapping_rewrites_detects_every_change_of_sealed_window(
    known: list[MappingRow], new: MappingRow, sealed: int
) -> None:
    changed = []
    for size in (*range(14), *range(MAX_MEMORY_MB, MAX_MEMORY_MB + 5)):
        for window in range(sealed):
            was, becomes = resolve(known, size, window), resolve([*known, new], size, window)
            if was is not None and (becomes is None or (becomes.feature, becomes.unit) != (was.feature, was.unit)):
                changed.append((size, window))
    assert bool(changed) == (rewrites(known, new, sealed) is not None)


def test_mapping_backdated_row_may_only_fill_a_gap() -> None:
    known = [row("exact", 4, "a"), row("up_to", 8, "tier", start=4)]
    assert rewrites(known, row("exact", 5, "b"), 4) is None  # 5 had nothing before window 4
    assert rewrites(known, row("exact", 5, "b"), 6) == (5, 4, "tier")
    assert rewrites(known, row("up_to", None, "top"), 9) is None
    assert rewrites(known, row("exact", 4, "z", start=3), 4) == (4, 3, "a")
    assert rewrites(known, row("exact", 4, "z", start=4), 4) is None


def test_mapping_tier_excludes_meters() -> None:
    known = [
        row("up_to", None, "top"),
        row("up_to", MAX_MEMORY_MB, "mid"),
        row("exact", MAX_MEMORY_MB + 2, "e", unit=UNITS),
    ]
    wanted = {MAX_MEMORY_MB: "mid", MAX_MEMORY_MB + 1: None, MAX_MEMORY_MB + 2: "e", MAX_MEMORY_MB + 3: None}
    assert {size: feature(resolve(known, size, 0)) for size in wanted} == wanted
    assert [(one.lo, one.hi) for one in segments(known)] == [(0, MAX_MEMORY_MB), (MAX_MEMORY_MB + 2, MAX_MEMORY_MB + 2)]


def test_mapping_of_maximum_event_types_is_segmented_quickly() -> None:
    """Each from a window of its own: beside as many sizes that would take hours."""
    meters = range(MAX_MEMORY_MB + 1, MAX_MEMORY_MB + 1 + MAX_EVENT_TYPES)
    known = [row("exact", meter, f"f{meter}", start=meter, unit=UNITS) for meter in meters]
    found = segments([row("up_to", None, "top"), *known])
    assert len(found) == MAX_EVENT_TYPES + 1
    assert isinstance(found[-1], Segment) and found[-1].start_ms == meters[-1]
    assert rewrites(known, known[5], 1 << 40) is None


@given(st.lists(all_rows, max_size=6), st.sampled_from(["a", "c", "e"]), st.integers(0, 6))
def test_mapping_feature_end_leaves_other_features(known: list[MappingRow], name: str, start: int) -> None:
    """Ended from a window on, by the rows that make it from there: nothing makes it there, all others stay."""
    ends = [
        MappingRow(one.kind, one.memory_mb, None, one.unit, max(start, one.start_ms))
        for one in making(known, name, start)
    ]
    exact = [(one.lo, one.hi, one.start_ms, one.end_ms, one.feature) for one in segments([*known, *ends])]
    assert not [one for one in exact if one[4] == name and one[3] > start]
    for size in [*range(13), *range(MAX_MEMORY_MB + 1, MAX_MEMORY_MB + 4)]:
        for window in range(8):
            was = resolve(known, size, window)
            if was is not None and not (was.feature == name and window >= start):
                assert resolve([*known, *ends], size, window) == was
