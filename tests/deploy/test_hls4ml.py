"""hls4ml, where it is installed: its C++ gives the reference's outputs for a network of powers of two."""

import shutil
import warnings

import graphs
import numpy as np
import pytest

from bitsmith.deploy import run
from bitsmith.deploy.qonnx import write_qonnx

pytest.importorskip("qonnx", reason="qonnx isn't installed: pip install 'bitsmith[qonnx]'")
hls4ml = pytest.importorskip("hls4ml", reason="hls4ml isn't installed: pip install hls4ml")

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="g++ isn't installed: apt-get install g++"),
    pytest.mark.filterwarnings("ignore"),  # its own
]


def plain():
    """No BatchNorm, whose gains would make scales that are no powers of two."""
    s = graphs.Sketch((2, 6, 6))
    y = s.same("relu", "relu1", s.conv("conv1", "x", 4, bias=True, norm=False))
    y = s.same("relu", "relu2", s.conv("conv2", y, 4, bias=True, norm=False))
    return s.graph(s.linear("fc", s.flatten("flat", s.max_pool("pool", y)), 3))


def as_hls4ml_reads_it(path):
    """The front end wants channels last, and constants of a channel without the axes before it."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.channels_last import ConvertToChannelsLastAndClean
    from qonnx.util.cleanup import cleanup_model

    model = cleanup_model(ModelWrapper(str(path))).transform(ConvertToChannelsLastAndClean())
    model = cleanup_model(model)
    for node in model.graph.node:
        for name in node.input if node.op_type in ("Add", "Mul") else ():
            value = model.get_initializer(name)
            if value is not None and value.ndim == 4:
                model.set_initializer(name, value.reshape(-1))
    return model


@pytest.mark.timeout(900)
def test_predictions_are_the_references_on_a_thousand_images(case_of, tmp_path):
    case = case_of(plain(), (4, 4), kind="float", quantizer="lsq-pow2", images=1000)
    path = write_qonnx(case.program, case.blueprint.graph, tmp_path / "n.qonnx.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = as_hls4ml_reads_it(path)
        config = hls4ml.utils.config.config_from_onnx_model(
            model, granularity="name", backend="Vitis", default_precision="fixed<32,16>"
        )
        network = hls4ml.converters.convert_from_onnx_model(
            model, output_dir=str(tmp_path / "hls"), io_type="io_parallel", backend="Vitis", hls_config=config
        )
        network.compile()
    wanted = run(case.program, case.images)
    assert len(np.unique(wanted.argmax(1))) > 1
    assert np.array_equal(network.predict(np.ascontiguousarray(case.images)).reshape(wanted.shape), wanted)
