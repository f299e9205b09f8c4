"""ONNX weights as small as the checkpoint's own, without changing any of them."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LEAST_SIZE = 1024  # numbers in a weight; smaller ones stay as they are
STORED = ".stored"


def compact(model: onnx.ModelProto) -> None:
    """Store float32 weights as int8 with a scale for each row or column, or as float16, where that
    gives exactly the same numbers: a shipped checkpoint's do. Runtimes convert them once, when they
    load the graph. Weights that no node uses are dropped.
    """
    graph = model.graph
    used = _names_used(graph)
    converted, weights = [], []
    for stored in graph.initializer:
        if stored.name not in used:
            continue
        small, nodes = _smaller(stored)
        weights += small
        converted += nodes
    del graph.initializer[:]
    graph.initializer.extend(weights)
    nodes = [*converted, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _names_used(graph: onnx.GraphProto) -> set[str]:
    """Names that a graph's nodes take, and those inside of them, and its outputs."""
    used = {output.name for output in graph.output}
    for node in graph.node:
        used.update(node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                used |= _names_used(attribute.g)
    return used


def _smaller(weight: TensorProto) -> tuple[list[TensorProto], list[onnx.NodeProto]]:
    """What to store for a weight, and the nodes that restore it."""
    name = weight.name
    if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) < LEAST_SIZE:
        return [weight], []
    values = numpy_helper.to_array(weight)
    if values.ndim == 2 and np.isfinite(values).all():  # a mask is not
        for axis in (1, 0):
            quantised = _as_int8(values, axis)
            if quantised is not None:
                numbers, scale = quantised
                stored = [
                    numpy_helper.from_array(numbers, name + STORED),
                    numpy_helper.from_array(scale, name + ".scale"),
                ]
                whole = name + ".whole"
                return stored, [
                    helper.make_node("Cast", [name + STORED], [whole], to=TensorProto.FLOAT),
                    helper.make_node("Mul", [whole, name + ".scale"], [name]),
                ]
    half = values.astype(np.float16)
    if np.array_equal(half.astype(np.float32), values):
        cast = helper.make_node("Cast", [name + STORED], [name], to=TensorProto.FLOAT)
        return [numpy_helper.from_array(half, name + STORED)], [cast]
    return [weight], []


def _as_int8(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Whole numbers and scales, along `axis`, whose products are exactly `values`; None: there are
    none. The largest number is 127 times its scale."""
    largest = np.abs(values).max(axis, keepdims=True)
    nearest = np.maximum(largest / np.float32(127), np.finfo(np.float32).tiny)
    scale, found = nearest.copy(), np.zeros(nearest.shape, bool)
    for towards in (0, np.inf, -np.inf):  # the quotient may be off by a rounding
        candidate = np.nextafter(nearest, np.float32(towards)) if towards else nearest
        exact = (np.round(values / candidate) * candidate == values).all(axis, keepdims=True)
        scale = np.where(exact & ~found, candidate, scale)
        found |= exact
    return (np.round(values / scale).astype(np.int8), scale) if found.all() else None
