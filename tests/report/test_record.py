import json
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.errors import RunError
from bitsmith.report import SCHEMA, Curve, Record, Requested, Row, read_record, write_report

CHOSEN = "composite-size=20kB"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@pytest.fixture
def damaged(record, tmp_path):
    """Write the sample's JSON with one value changed; `value` is ... to leave it out."""

    def write(*place, value):
        values = json.loads(record().to_json())
        inner = values
        for step in place[:-1]:
            inner = inner[step]
        if value is ...:
            del inner[place[-1]]
        else:
            inner[place[-1]] = value
        path = tmp_path / "report.json"
        path.write_text(json.dumps(values))
        return path

    return write


def test_a_record_comes_back_unchanged(record, tmp_path):
    curve = Curve(name="gaps", x_label="epoch", x=[1.0, 2.0], series={"f1": [None, 0.1 + 0.2]})
    sample = record(curves=[curve])
    write_report(sample, tmp_path)
    assert read_record(tmp_path / "report.json") == sample
    assert read_record(tmp_path) == sample
    assert json.loads((tmp_path / "report.json").read_text())["schema"] == SCHEMA


@given(title=TEXT, note=TEXT, value=st.one_of(TEXT, st.integers(), st.floats(allow_nan=False, allow_infinity=False)))
def test_any_text_and_number_comes_back(tmp_path_factory, title, note, value):
    sample = Record(
        title=title, created="2026-11-20", verdict=note, network={title: value}, data={}, rows=[], chosen=[], layers={},
        sensitivities={}, explained={}, latencies=[], speeds=[], curves=[], requested=[], verification=[],
        environment={note: title}, notes=[note], command=title,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("record") / "report.json"
    path.write_text(sample.to_json(), encoding="utf-8")
    back = read_record(path)
    assert back == sample
    assert type(back.network[title]) is type(value)


@pytest.mark.parametrize("field", [f.name for f in fields(Record)])
def test_a_missing_field_is_an_error(damaged, field):
    path = damaged(field, value=...)
    if field == "schema":
        with pytest.raises(RunError, match="schema None"):
            read_record(path)
    else:
        with pytest.raises(RunError, match=rf"report\.json is not a report: {field}: "):
            read_record(path)


@pytest.mark.parametrize("field", [f.name for f in fields(Row)])
def test_a_missing_field_of_a_row_is_named(damaged, field):
    with pytest.raises(RunError, match=rf"rows\.2\.{field}: Field required"):
        read_record(damaged("rows", 2, field, value=...))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("schema",), 1, f"schema 1; this version of bitsmith reads {SCHEMA}"),
        (("extra",), 1, "extra"),
        (("created",), "yesterday", "created: .*isoformat"),
        (("rows", 0, "test"), 1.2, r"rows\.0\.test: .*less than or equal to 1"),
        (("rows", 0, "test"), float("nan"), r"rows\.0\.test: .*finite"),
        (("rows", 0, "test"), "0.9", r"rows\.0\.test: .*number"),
        (("rows", 0, "seed"), True, r"rows\.0\.seed: .*integer"),
        (("rows", 0, "kind"), "ours", r"rows\.0\.kind"),
        (("rows", 0, "metric"), "f1", "different metrics"),
        (("rows", 0, "costs"), {"money": 1.0}, "unknown cost 'money'"),
        (("rows", 0, "costs"), {"size": -1.0}, r"rows\.0\.costs\.size: .*greater"),
        (("rows", 0, "meets"), {"size=20": True}, "can't be in 'a bare number'"),
        (("rows", 1, "folder"), "random-size=20kB", "can't share a folder"),
        (("layers", CHOSEN, 3, "weight_bits"), 64, rf"layers\.{CHOSEN}\.3\.weight_bits"),
        (("layers", CHOSEN, 3, "shares"), {"size": 1.5}, rf"layers\.{CHOSEN}\.3\.shares\.size"),
        (("layers", "nobody"), [], "network 'nobody' is none of the rows"),
        (("sensitivities", CHOSEN, "decisions", 0, "loss"), [1.0], "1 losses for 3 options"),
        (("sensitivities", CHOSEN, "within"), -1, "within"),
        (("requested", 0, "network"), "nobody", "network 'nobody' is none of the rows"),
        (("curves", 0, "x"), [1.0], "30 values for 1 of x"),
        (("requested", 0, "met"), False, "can't be recorded as met=False"),
        (("verification", 0, "images"), 9_999, "more equal outputs than its 9999 images"),
        (("verification", 0, "first_difference"), "fc", "can't be ok"),
        (("chosen",), ["nobody"], "network 'nobody' is none of the rows"),
    ],
)
def test_damage_is_named(damaged, place, value, message):
    with pytest.raises(RunError, match=message):
        read_record(damaged(*place, value=value))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"[]", b"null", b"3"])
def test_what_is_no_record_is_refused(tmp_path, content):
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"report\.json"):
        read_record(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RunError, match=r"can't read .*report\.json: No such file"):
        read_record(tmp_path)


@pytest.mark.parametrize("value", [np.float32(0.9), float("nan"), "0.9", 1.01])
def test_a_careless_caller_is_told_where_and_nothing_is_written(record, row, tmp_path, value):
    with pytest.raises(RunError, match=r"the record is not a report: rows\.0\.test: "):
        write_report(record(rows=[row(test=value)]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_boundary_counts_as_met():
    assert Requested(network="x", cost="size", limit=2e4, obtained=2e4, met=True).met
    with pytest.raises(RunError, match="met=True"):
        Requested(network="x", cost="size", limit=2e4, obtained=2e4 + 1, met=True)


def test_an_interrupted_write_leaves_the_old_report(record, tmp_path, monkeypatch):
    page = write_report(record(), tmp_path)
    before = page.read_bytes(), (tmp_path / "report.json").read_bytes()
    write_text = type(page).write_text

    def full_disk(self, text, **kwargs):
        if "html" in self.name:
            write_text(self, text[:100], **kwargs)
            raise OSError(28, "No space left on device")
        return write_text(self, text, **kwargs)

    monkeypatch.setattr(type(page), "write_text", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_report(replace(record(), title="second"), tmp_path)
    assert before == (page.read_bytes(), (tmp_path / "report.json").read_bytes())
    monkeypatch.undo()
    write_report(replace(record(), title="third"), tmp_path)
    assert read_record(tmp_path).title == "third"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]
