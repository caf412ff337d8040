"""What bitsmith uses of the package qonnx, an extra: `verify` imports this module when it needs it."""

from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.change_batchsize import ChangeBatchSize
from qonnx.transformation.infer_shapes import InferShapes
from qonnx.util.cleanup import cleanup_model

__all__ = ["ChangeBatchSize", "InferShapes", "ModelWrapper", "cleanup_model", "execute_onnx"]
