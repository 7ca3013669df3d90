"""A network as data: which operators are applied to which tensors. No torch, and nothing that could run."""

from squeezer.graph.checks import check
from squeezer.graph.ir import Argument, ElementType, Graph, Input, MemoryFormat, Node, Value
from squeezer.graph.modes import dropout_of, in_mode, scaled_dropout

__all__ = [
    "Argument",
    "ElementType",
    "Graph",
    "Input",
    "MemoryFormat",
    "Node",
    "Value",
    "check",
    "dropout_of",
    "in_mode",
    "scaled_dropout",
]
