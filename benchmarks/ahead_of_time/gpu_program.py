"""Which kernels an XLA program for a GPU calls, and how much they compute, read from the compiled program's text."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(?:ENTRY )?%\S+ \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?(%\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*?)\)(.*)$")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


class Call(NamedTuple):
    """One kernel: cuDNN's name for it, 'product' (of matrices) or 'elementwise'."""

    kernel: str
    flops: int
    """Products and sums, with every zero that the program writes out or pads with."""


class Instruction(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    opcode: str
    operands: tuple[tuple[int, ...], ...]
    attributes: str


def calls(text: str) -> list[Call]:
    """What the compiled program computes, kernel by kernel."""
    found = []
    for instructions in _computations(text):
        # A fused loop computes what its last instruction keeps, whatever is cut off before; not so where it sums.
        *_, root = instructions
        sums = any(instruction.opcode in ("reduce", "dot") for instruction in instructions)
        most = math.inf if sums else math.prod(root.shape)
        found += [call for instruction in instructions if (call := _call(instruction, most)) is not None]
    return found


def _computations(text: str) -> Iterator[list[Instruction]]:
    shapes: dict[str, tuple[int, ...]] = {}
    instructions: list[Instruction] = []
    for line in text.splitlines():
        if _COMPUTATION.match(line):
            shapes, instructions = {}, []
        elif found := _INSTRUCTION.match(line):
            root, name, result, opcode, operands, attributes = found.groups()
            # The first of a tuple: the others are a kernel's scratch space.
            dtype, sizes = _ARRAY.findall(result)[0] if _ARRAY.search(result) else ("", "")
            shapes[name] = tuple(map(int, sizes.split(","))) if sizes else ()
            known = tuple(shapes[operand] for operand in re.findall(r"%[^\s,)]+", operands) if operand in shapes)
            instructions.append(Instruction(dtype, shapes[name], opcode, known, attributes))
            if root:
                yield instructions


def _call(instruction: Instruction, most: float) -> Call | None:
    dtype, shape, opcode, operands, attributes = instruction
    if opcode == "while":
        raise NotImplementedError("a loop: its body's work would be counted once")
    if opcode == "multiply" and dtype[:1] in "fbc":  # a floating or complex type: integers are positions
        return Call("elementwise", 2 * int(min(math.prod(shape), most)))
    target = re.search(r'custom_call_target="([^"]+)"', attributes)
    if target and target[1].startswith("__cudnn$conv"):
        return _convolution(target[1].removeprefix("__cudnn$"), instruction)
    if opcode == "dot" or (target and target[1].startswith("__cublas$")):
        contracted = re.search(r'lhs_contracting_dim(?:ension)?s"?[=:][{\[]([\d,"]+)', attributes)
        assert contracted, attributes
        terms = math.prod(operands[0][int(axis)] for axis in re.findall(r"\d+", contracted[1]))
        return Call("product", 2 * math.prod(shape) * terms)
    return None


def _convolution(kernel: str, instruction: Instruction) -> Call:
    """The forward convolution that the kernel belongs to: its output's elements, times taps and input channels."""
    first, second = instruction.operands[:2]
    filter, output = {"convBackwardInput": (second, first), "convBackwardFilter": (instruction.shape, second)}.get(
        kernel, (second, instruction.shape)
    )
    labels = re.search(r"dim_labels=\w+_(\w+)->", instruction.attributes)
    window = re.search(r"window=\{size=([\dx]+)", instruction.attributes)
    assert labels, instruction.attributes
    taps = math.prod(map(int, window[1].split("x"))) if window else 1
    return Call(kernel, 2 * math.prod(output) * taps * filter[labels[1].index("i")])
