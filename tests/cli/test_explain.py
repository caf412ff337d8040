"""bitsmith explain on a digits run, as a person types it."""

import json

import pytest


@pytest.fixture
def run(bitsmith, own, trained):
    """A run folder whose networks are quantized without training."""
    bitsmith(
        "quantize", "--model", "ownnet:make", "--weights", trained, "--data", "digits", "--budget", "size=2.3kB",
        "--weight-bits", "2,4,8", "--limit", 400, "--ends", "free", "--out", own / "run", "--quiet", cwd=own,
    )  # fmt: skip
    return own / "run"


def test_a_run_is_explained(bitsmith, run):
    first = bitsmith("explain", run)
    assert "size: asked for at most 2.3 kB, obtained" in first.stdout
    for words in ("± holds for all steps together (95 %)", "~ within the noise of", "believed", "w 4→2"):
        assert words in " ".join(first.stdout.split())
    assert max(map(len, first.stdout.split("- ")[0].splitlines())) <= 80
    assert "Steps are measured one at a time on" in first.stdout
    assert "sensitivity at size=2.3kB" in first.stderr
    found = json.loads(bitsmith("explain", run, "--json").stdout)
    file = json.loads((run / "sensitivity-size_2.3kB" / "explain.json").read_text())
    assert found == [file]
    assert [line["obtained"] <= line["limit"] for line in file["requested"]] == [True]
    assert not (run / "uniform+fill-size_2.3kB" / "explain.json").exists()
    both = json.loads(
        bitsmith("explain", run, "--network", "uniform+fill", "--network", "sensitivity", "--json").stdout
    )
    assert {it["network"] for it in both} == {"sensitivity-size_2.3kB", "uniform+fill-size_2.3kB"}
    page = bitsmith("report", run, "--json")
    assert set(json.loads(page.stdout)["explained"]) == {it["network"] for it in both}


def test_what_can_not_be_explained_is_said(bitsmith, run, tmp_path):
    said = bitsmith("explain", run, "--network", "composite", check=1).stderr
    assert "no network of this run is called composite; it has sensitivity" in said
    assert "is not a run folder" in bitsmith("explain", tmp_path / "nowhere", check=1).stderr
    (run / "sensitivity-size_2.3kB" / "explain.measured.json").write_text("{}")
    assert "is damaged" in bitsmith("explain", run, check=1).stderr
