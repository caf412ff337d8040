"""A run on target c: C code beside every ONNX file without being asked, among the checks, gone with its weights."""

import json
import re
import shutil

import pytest

import bitsmith as bs
from bitsmith.errors import DataError
from bitsmith.pipeline.stages import _keep_training
from bitsmith.report import read_record
from bitsmith.train import History

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc isn't installed: apt-get install gcc")


def artefacts(said):
    return [(check["artefact"].rpartition("/c/")[1], check["ok"]) for check in json.loads(said.stdout)["artefacts"]]


def test_c_code_is_part_of_a_run_on_target_c(bitsmith, own, trained, monkeypatch):
    options = ["--model", "ownnet:make", "--weights", trained, "--data", "digits", "--weight-bits", "2,8"]
    options += ["--budget", "size=2.3kB", "--train-epochs", "1", "--target", "c", "--out", "q", "--json"]
    record = json.loads(bitsmith("quantize", *options, cwd=own).stdout)
    files = {check["artefact"].partition("/")[2]: check for check in record["verification"]}
    assert files.keys() == {"model.onnx", "c/model.c"}
    c_code = files["c/model.c"]
    assert c_code["ok"]
    assert c_code["equal_outputs"] == {"gcc": c_code["images"]}
    assert c_code["level"] == "bit-identical"
    assert {(check["integer_layers"], check["float_layers"]) for check in files.values()} == {(5, 0)}  # a pool too
    assert c_code["score"] == files["model.onnx"]["score"]

    # The self-test has validation images, and the header says what it has.
    folder = next((own / "q").glob("sens*/c"))
    image, _ = bs.open_data("digits").validation.raw(1)
    pixels = ", ".join(map(str, image.reshape(-1)))
    assert pixels in re.sub(r"\s+", " ", (folder / "selftest.c").read_text())
    assert "that were given" in (folder / "selftest.c").read_text()

    # Export by itself writes both too; without floating point only where C code is written.
    bitsmith("export", "q", "--no-fpu", cwd=own)
    assert "OUTPUT_STEP" in (folder / "model.h").read_text()
    done = bitsmith("export", "q", "--to", "onnx", "--no-fpu", cwd=own, check=1)
    assert "--no-fpu is about C code" in " ".join(done.stderr.split())
    done = bitsmith("export", "q", "--to", "c", "--vnni", cwd=own, check=1)
    assert "--vnni is about ONNX files" in " ".join(done.stderr.split())
    said = bitsmith("verify", "q", "--json", cwd=own)
    assert artefacts(said) == [("", True), ("/c/", True)] * (len(record["verification"]) // 2)
    assert 0.3 < json.loads(said.stdout)["artefacts"][1]["accuracy"] <= 1
    bitsmith("report", "q", cwd=own)
    levels = [check.level for check in read_record(own / "q").verification]
    assert sum(level.startswith("bit-identical with its fixed point") for level in levels) == len(levels) / 2

    # Without a compiler the ONNX results stay, and the C code is what isn't verified.
    monkeypatch.setattr("bitsmith.deploy.c.verify.shutil.which", lambda name: None)
    said = bitsmith("verify", "q", "--json", cwd=own, check=1)
    assert artefacts(said) == [("", True), ("/c/", False)] * (len(record["verification"]) // 2)
    assert "'gcc' isn't installed" in json.loads(said.stdout)["artefacts"][1]["problems"][0]
    bitsmith("report", "q", cwd=own)
    checks = read_record(own / "q").verification
    assert {(check.score is None, check.ok) for check in checks} == {(False, True), (True, False)}
    assert "not run: C code is verified by compiling it" in (own / "q" / "report.html").read_text(encoding="utf-8")


def test_data_that_is_gone_leaves_noise_and_is_said(bitsmith, own, trained, monkeypatch):
    options = ["--model", "ownnet:make", "--weights", trained, "--data", "digits", "--weight-bits", "8"]
    bitsmith("quantize", *options, "--budget", "size=4kB", "--train-epochs", "1", "--out", "q", "--quiet", cwd=own)
    assert not list((own / "q").glob("*/c"))  # target onnx

    def gone(recipe):
        raise DataError("no such folder")

    monkeypatch.setattr("bitsmith.pipeline.artefacts.open_task", gone)
    said = " ".join(bitsmith("export", "q", "--to", "onnx,c", cwd=own).stderr.split())
    assert "takes images of noise: no such folder" in said
    assert all("noise, as no others were given" in f.read_text() for f in (own / "q").glob("*/c/selftest.c"))


def test_no_c_code_of_other_weights_stays(tmp_path):
    for name in ("model.onnx", "c/model.c", "c/model.h", "blueprint.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    _keep_training(tmp_path, {}, History())
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "blueprint.json",
        "network.safetensors",
        "training.json",
    ]
