"""The race of batches against one question at a time counts right and compares like with like."""

from __future__ import annotations

import json

import pytest

from stepjepa.commands.bench import generation as main
from stepjepa.records import UserError


@pytest.mark.slow
def test_a_small_race(tmp_path, capsys):
    path = tmp_path / "record.json"
    words = ["--problems", "9", "--single", "4", "--batch_size", "4"]
    assert main([*words, "--output_file", str(path)]) == 0
    record = json.loads(path.read_text())
    assert sum(batch["finished"] for batch in record["batches"]) == record["batched"]["problems"] == 9
    assert sum(batch["alone"] for batch in record["batches"]) == record["one_at_a_time"]["problems"] == 4
    assert record["agreement"] == {"compared": 4, "same": 4}
    # Both stop at the end of the turn, far from the limit.
    assert all(batch["alone_tokens"] < 150 * batch["alone"] for batch in record["batches"] if batch["alone"])
    ratio = record["batched"]["problems_per_second"] / record["one_at_a_time"]["problems_per_second"]
    assert record["ratio"]["overall"] == pytest.approx(ratio)
    assert record["ratio"]["q1"] <= record["ratio"]["median"] <= record["ratio"]["q3"]
    assert record["environment"]["hardware"]["threads"] >= 1
    shown = capsys.readouterr().out
    assert f"{ratio:.1f} times as fast" in shown
    assert "4 of 4 answers are the same to the token" in shown


def test_nothing_to_race_is_refused():
    with pytest.raises(UserError, match="--single 9"):
        main(["--problems", "5", "--single", "9"])
