"""What a person sees in a terminal of 80 columns."""

import io
from dataclasses import replace

import pytest
from rich.console import Console
from rich.progress import Progress

from bitsmith.cli import show
from bitsmith.cli.show import bar_columns, counted, duration, front_line, progress, results
from bitsmith.report import Record, Row
from bitsmith.train import Event

ROW = Row(
    name="filters",
    kind="found",
    budget="macs=300k, size=5kB",
    bits="w2-8 a8, 57 of 71 filters",
    costs={"size": 4_658.0, "ram": 2_000.0, "macs": 250_000.0},
    epochs=3,
    seconds=1,
    seed=0,
    metric="accuracy",
    validation=0.5,
    test=0.5,
    source="onnx",
    meets={"macs=300k": True, "size=5kB": True},
    trained=True,
    folder="a",
)


def terminal(width=80):
    return Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None)


def printed(console):
    return console.file.getvalue()


@pytest.mark.parametrize("name", ["train", "search supernet at size=100kB, macs=12M, ram=64kB, latency=3.25ms"])
@pytest.mark.parametrize("figures", ["", "loss 0.123 91.2 %", "loss 12345.678 100.0 %, and more than fits a line"])
def test_a_bar_keeps_its_count_and_the_time_left(name, figures):
    console = terminal()
    bars = Progress(*bar_columns(), console=console)
    bars.add_task(name, total=39_100, completed=17_204, speed="12,345 images/s", figures=figures)
    lines = console.render_lines(bars.make_tasks_table(bars.tasks), pad=False)
    text = "".join(segment.text for segment in lines[0])
    assert len(lines) == 1
    assert "17204/39100" in text
    assert "-:--:--" in text  # what rich writes where no time is known yet
    assert "12,345 images/s" in text
    assert text.startswith(name[:5])


def test_without_a_terminal_there_is_a_line_per_epoch(monkeypatch):
    console = terminal(width=200)
    monkeypatch.setattr(show, "err", console)
    with progress(quiet=False) as watch:
        for step in range(1, 21):
            ends = step % 10 == 0
            watch(
                Event(
                    stage="train",
                    step=step,
                    steps=20,
                    images=8,
                    epoch_end=ends,
                    values={"loss": 1 / step} if ends else {},
                )
            )
    lines = printed(console).splitlines()
    assert lines[0] == "train: step 1 of 20"
    assert lines[1:] == [
        "train: step 10 of 20, epoch 1 done: loss 0.1",
        "train: step 20 of 20, epoch 2 done: loss 0.05",
    ]


def record(*rows):
    return Record(
        title="run",
        created="",
        verdict="",
        network={},
        data={"test_images": 100},
        rows=list(rows),
        chosen=[],
        layers={},
        sensitivities={},
        explained={},
        curves=[],
        requested=[],
        verification=[],
        environment={},
        notes=[],
        command="",
        latencies=[],
        speeds=[],
    )


def test_every_budgeted_cost_is_a_column():
    console = terminal()
    console.print(
        results(record(ROW, replace(ROW, name="uniform", folder="b", costs={"size": 5_000.0, "macs": 300_000.0})))
    )
    text = printed(console)
    assert "4.658 kB" in text
    assert "250 k" in text
    assert "300 k" in text
    assert "ram" not in text


def test_networks_of_one_cost_and_score_are_called_equal():
    """One network found twice is not less than itself."""
    twin, small = replace(ROW, name="uniform", folder="b"), replace(ROW, name="random", folder="c", test=0.4)
    small = replace(small, costs=ROW.costs | {"macs": 1_000.0})
    assert front_line(record(ROW, twin, small)) == (
        "Front over macs: 1 k 40.00 % (random) < 250 k 50.00 % (filters = uniform)"
    )
    assert front_line(record(ROW, twin)) == ""


def test_one_is_no_plural_and_short_is_no_hour():
    assert (counted(1, "network"), counted(2, "network"), counted(0, "run")) == ("1 network", "2 networks", "0 runs")
    assert counted(1.5, "epoch") == "1.5 epochs"
    assert [duration(seconds) for seconds in (12, 600, 7200)] == ["12 s", "10 min", "2.0 h"]
