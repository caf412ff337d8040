"""C code of a network of the Python face: written beside its ONNX file, verified on real inputs."""

import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

import bitsmith as bs
from bitsmith.errors import VerifyError
from bitsmith.pipeline.artefacts import describe_c
from bitsmith.pipeline.exported import verify_c_code


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc isn't installed: apt-get install gcc")
@pytest.mark.parametrize("fpu", [True, False])
def test_c_code_beside_the_onnx_file(fpu, tmp_path):
    torch.manual_seed(0)
    digits = bs.open_data("digits")
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 10))
    space = bs.precision_space(net, digits, weight_bits=(3,), activation_bits=(4,))
    built = bs.quantize(bs.Task(data=digits), space.template, bs.capture(net, digits.shape).state)
    files = bs.export(built, tmp_path, formats=["onnx", "c"], fpu=fpu)
    assert files.artefacts["c"] == tmp_path / "c" / "model.c"
    assert files.artefacts["onnx"].exists()
    found = verify_c_code(files, digits.test, limit=100)
    assert found.problems == ()
    assert "C code verified on 100 images" in describe_c(found)
    assert "0 outputs differ" in describe_c(found)
    if fpu:
        assert found.accuracy == bs.verify(files, digits.test, limit=100).accuracy_reference
    broken = files.artefacts["c"].read_text().replace("= {\n    ", "= {\n    1 + ", 1)
    files.artefacts["c"].write_text(broken)
    with pytest.raises(VerifyError, match=r"model\.c is not what this version of bitsmith writes.*not run; export it"):
        verify_c_code(files, digits.test, limit=100)
    assert "NOT VERIFIED" in describe_c(replace(found, problems=("wrong",)))


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc isn't installed: apt-get install gcc")
def test_code_in_a_folder_of_a_stranger_is_not_run(tmp_path):
    """Neither what was added to the files nor a header beside them."""
    torch.manual_seed(0)
    digits = bs.open_data("digits")
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    space = bs.precision_space(net, digits, weight_bits=(3,), activation_bits=(4,))
    built = bs.quantize(bs.Task(data=digits), space.template, bs.capture(net, digits.shape).state)
    files = bs.export(built, tmp_path, formats=["onnx", "c"])
    source, mark = files.artefacts["c"], tmp_path / "ran"
    bomb = f'#include <stdlib.h>\n__attribute__((constructor)) static void go(void) {{ system("touch {mark}"); }}\n'
    (source.parent / "stdint.h").write_text(f"#include_next <stdint.h>\n{bomb}")
    assert verify_c_code(files, digits.test, limit=20).ok
    good = source.read_text()
    source.write_text(good + bomb)
    with pytest.raises(VerifyError, match="not run"):
        verify_c_code(files, digits.test, limit=20)
    assert not mark.exists()
