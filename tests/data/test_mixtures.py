"""Mixtures: shares as they are asked for, counts that add up, no row of an incomplete pass twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from stepjepa.data.mixtures import apportion, described, mix, shares, split_weights, table
from stepjepa.records import UserError


def group(name: str, count: int) -> list[dict[str, object]]:
    return [{"question": f"{name} {n}", "source": name} for n in range(count)]


def test_weights_stand_behind_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert split_weights(["a.jsonl:0.7", "b/c:main:train:.3"]) == (["a.jsonl", "b/c:main:train"], [0.7, 0.3])
    assert split_weights(["a.jsonl", "b/c:main:train"]) == (["a.jsonl", "b/c:main:train"], None)
    assert split_weights(["builtin:2", "a.jsonl:1."]) == (["builtin", "a.jsonl"], [2, 1])
    monkeypatch.chdir(tmp_path)
    Path("odd:3").touch()  # a file of that name
    assert split_weights(["odd:3"]) == (["odd:3"], None)
    with pytest.raises(UserError, match=r"b\.jsonl has no weight and others have"):
        split_weights(["a.jsonl:0.7", "b.jsonl"])
    with pytest.raises(UserError, match="all weights are 0"):
        split_weights(["a.jsonl:0", "b.jsonl:0.0"])


def test_shares_of_weights_and_temperatures() -> None:
    assert shares([10, 1000], [7, 3], None) == [0.7, 0.3]
    assert shares([100, 300], None, None) == [0.25, 0.75]
    assert shares([100, 300], None, 1) == [0.25, 0.75]
    assert shares([1, 9], None, 2) == [0.25, 0.75]  # 1 to 3
    assert shares([1, 9], None, 1e9) == pytest.approx([0.5, 0.5])
    assert shares([1, 9], None, 0.5) == pytest.approx([1 / 82, 81 / 82])


@pytest.mark.parametrize(
    ("wanted", "total", "counts"),
    [
        ([0.7, 0.3], 10, [7, 3]),
        ([1 / 3, 1 / 3, 1 / 3], 10, [4, 3, 3]),
        ([0.5, 0.25, 0.25], 1, [1, 0, 0]),
        ([0.9, 0.1, 0.0], 7, [6, 1, 0]),
        ([0.999, 0.001], 100, [100, 0]),
    ],
)
def test_counts_add_up(wanted: list[float], total: int, counts: list[int]) -> None:
    assert apportion(wanted, total) == counts


def test_whole_passes_and_the_rest_without_a_row_twice() -> None:
    groups = [group("a", 10), group("b", 90)]
    rows, parts = mix(["a", "b"], groups, [0.35, 0.65], seed=3)
    times = Counter(str(row["question"]) for row in rows)
    assert (len(rows), parts[0].taken, parts[1].taken) == (100, 35, 65)
    assert Counter(times[f"a {n}"] for n in range(10)) == {3: 5, 4: 5}
    assert Counter(times[f"b {n}"] for n in range(90)) == {1: 65, 0: 25}
    assert mix(["a", "b"], groups, [0.35, 0.65], seed=3)[0] == rows
    assert mix(["a", "b"], groups, [0.35, 0.65], seed=4)[0] != rows
    assert described(parts)[0] == {"source": "a", "rows": 10, "wanted": 0.35, "taken": 35, "share": 0.35, "passes": 3.5}
    assert table(parts).splitlines() == [
        "mixture  rows  wanted  taken   share  times each",
        "a          10  35.00%     35  35.00%        3.50",
        "b          90  65.00%     65  65.00%        0.72",
    ]


def test_a_temperature_of_one_is_the_rows_as_they_are() -> None:
    groups = [group("a", 7), group("b", 13)]
    assert mix(["a", "b"], groups, temperature=1)[0] == [*groups[0], *groups[1]]
    rows, _ = mix(["a", "b"], groups, temperature=1e12, rows=20)
    assert Counter(row["source"] for row in rows) == {"a": 10, "b": 10}


def test_a_source_without_a_row_cannot_be_drawn_from() -> None:
    with pytest.raises(UserError, match="--train_file a: no row is left"):
        mix(["a", "b"], [[], group("b", 3)], [0.5, 0.5])
    assert len(mix(["a", "b"], [[], group("b", 3)], [0, 1])[0]) == 3
