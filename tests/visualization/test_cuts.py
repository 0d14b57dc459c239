"""The figure of cuts shows each cut before its word, filled where a step begins."""

from matplotlib.lines import Line2D

from stepjepa.visualization.cuts import cuts_along


def test_each_cut_is_shown_before_its_word():
    text = "One two. Three costs $5 now. Four."
    figure = cuts_along(text, [0, 9, 29], {"a": [9, 29], "b": [4, 29], "c": []})
    (axes,) = figure.axes
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    shown = [(line.get_xdata()[0], line.get_ydata()[0], line.get_fillstyle()) for line in dots]
    assert shown == [(1.5, 0, "full"), (5.5, 0, "full"), (0.5, 1, "none"), (5.5, 1, "full")]
    known = [line.get_xdata()[0] for line in axes.lines if isinstance(line, Line2D) and line not in dots]
    assert sorted(known) == [1.5, 5.5]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b", "c"]
    assert [tick.get_text() for tick in axes.get_xticklabels()][4] == r"\$5"
