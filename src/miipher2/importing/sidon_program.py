"""Sidon's release, frozen TorchScript programs, with the names that its training checkpoints have.

A program is told by the order of its operations. Every constant gets a name: a weight's, or `constants.N`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from miipher2.importing.sidon import DECODER, NUMBERS, RECIPROCALS, STATE, STUDENT
from miipher2.importing.torch_file import SourceError, StoredTensor
from miipher2.importing.torchscript import PROGRAM, Program, Use, is_scalar, read_program


def read_sidon_program(path: Path) -> dict[str, Any]:
    """Return a program's weights as a training checkpoint names them, and the program as `torchscript`.

    Raises:
        SourceError: it is neither Sidon's encoder nor its decoder, damaged, or made to harm.
    """
    program = read_program(path)
    kinds = {use.kind for use in program.uses}
    namer = _Namer(program)
    if "snake" in kinds:
        namer.name_decoder()
    else:
        namer.name_encoder()
    return {STATE: namer.finish(), PROGRAM: program}


class _Namer:
    """Goes through the operations of a program and gives names to their weights."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._uses: Iterator[Use] = iter(program.uses)
        self._next: Use | None = next(self._uses, None)
        self._position = 0
        self._state: dict[str, StoredTensor] = {}
        self._used: set[int] = set()

    def name_encoder(self) -> None:
        """Name the weights of w2v-BERT 2.0, its LoRA beside the layers, or merged into them."""
        self._take("norm", f"{STUDENT}feature_projection.layer_norm")
        self._take("linear", f"{STUDENT}feature_projection.projection")
        number = 0
        while self._next is not None:
            layer = f"{STUDENT}encoder.layers.{number}"
            self._name_feed_forward(f"{layer}.ffn1")
            self._take("norm", f"{layer}.self_attn_layer_norm")
            self._name_query_key_value(f"{layer}.self_attn")
            self._take("embedding", f"{layer}.self_attn.distance_embedding")
            self._take("linear", f"{layer}.self_attn.linear_out")
            self._take("norm", f"{layer}.conv_module.layer_norm")
            self._take("conv", f"{layer}.conv_module.pointwise_conv1")
            self._take("conv", f"{layer}.conv_module.depthwise_conv")
            self._take("norm", f"{layer}.conv_module.depthwise_layer_norm")
            self._take("conv", f"{layer}.conv_module.pointwise_conv2")
            self._name_feed_forward(f"{layer}.ffn2")
            self._take("norm", f"{layer}.final_layer_norm")
            number += 1

    def _name_feed_forward(self, name: str) -> None:
        self._take("norm", f"{name}_layer_norm")
        self._take("linear", f"{name}.intermediate_dense")
        base = self._advance("linear", f"{name}.output_dense")
        if self._next is None or self._next.kind != "linear":
            self._keep(f"{name}.output_dense", base)
            return
        self._keep(f"{name}.output_dense.base_layer", base)
        for part in "AB":
            self._take("linear", f"{name}.output_dense.lora_{part}.default")

    def _name_query_key_value(self, name: str) -> None:
        """Name three linear layers, which freezing for a GPU joins into one."""
        first = self._advance("linear", f"{name}.linear_q")
        weight, bias = (self._constant(number, f"{name}.linear_q") for number in first.constants)
        rows, columns = weight.shape if len(weight.shape) == 2 else (0, 0)
        if rows != 3 * columns:
            self._keep(f"{name}.linear_q", first)
            self._take("linear", f"{name}.linear_k")
            self._take("linear", f"{name}.linear_v")
            return
        for place, part in enumerate("qkv"):
            for kind, joined in (("weight", weight), ("bias", bias)):
                self._state[f"{name}.linear_{part}.{kind}"] = _third(joined, place)

    def name_decoder(self) -> None:
        """Name the weights of the decoder."""
        self._take("conv", f"{DECODER}model.0")
        number = 1
        while True:
            snake = self._advance("snake", f"{DECODER}model.{number}")
            convolution = self._advance("conv", f"{DECODER}model.{number}")
            if self._next is None:
                self._keep(f"{DECODER}model.{number}", snake)
                self._keep(f"{DECODER}model.{number + 1}", convolution)
                return
            block = f"{DECODER}model.{number}.block"
            self._keep(f"{block}.0", snake)
            self._keep(f"{block}.1", convolution)
            for unit in range(2, 5):
                for place, kind in enumerate(("snake", "conv", "snake", "conv")):
                    self._take(kind, f"{block}.{unit}.block.{place}")
            number += 1

    def finish(self) -> dict[str, StoredTensor]:
        """Return all constants by name, those that are no weights by what they are."""
        alphas = [tensor for name, tensor in self._state.items() if name.endswith(".alpha")]
        for number, constant in enumerate(self._program.constants):
            if number in self._used:
                continue
            prefix = "constants."
            if is_scalar(constant):
                prefix = NUMBERS
            elif any(_is_reciprocal(constant, alpha) for alpha in alphas):
                prefix = RECIPROCALS
            self._state[f"{prefix}{number}"] = constant
        return self._state

    def _take(self, kind: str, name: str) -> None:
        """Name the weights of the next operation."""
        self._keep(name, self._advance(kind, name))

    def _advance(self, kind: str, name: str) -> Use:
        """Return the next operation, which should be of a kind."""
        found = self._next
        if found is None or found.kind != kind:
            what = "its end" if found is None else f"a {found.kind}"
            raise SourceError(
                f"{self._program.path}: a TorchScript program that is neither Sidon's encoder nor its decoder: "
                f"operation {self._position} with weights is {what}; should be a {kind} ({name})"
            )
        self._position += 1
        self._next = next(self._uses, None)
        return found

    def _keep(self, name: str, use: Use) -> None:
        parts = ("alpha",) if use.kind == "snake" else ("weight", "bias")
        numbers = [number for number in use.constants if number is not None]
        if not numbers or len(numbers) > len(parts) or use.constants[0] is None:
            raise SourceError(f"{self._program.path}: {name} has {len(numbers)} constants; should have its weights")
        for part, number in zip(parts, numbers, strict=False):
            self._state[f"{name}.{part}"] = self._constant(number, name)

    def _constant(self, number: int | None, name: str) -> StoredTensor:
        if number is None:
            raise SourceError(f"{self._program.path}: {name} has no bias, or no constant weight; should have both")
        self._used.add(number)
        return self._program.constants[number]


def _third(joined: StoredTensor, place: int) -> StoredTensor:
    """Return a third of the rows of a tensor that is still in its file."""
    rows = joined.shape[0] // 3

    def read() -> torch.Tensor:
        return joined.read()[place * rows : (place + 1) * rows].clone()

    return StoredTensor(joined.dtype, (rows, *joined.shape[1:]), read)


def _is_reciprocal(constant: StoredTensor, alpha: StoredTensor) -> bool:
    """Return whether a constant is what a snake multiplies the square of the sine with."""
    if constant.shape != alpha.shape or not constant.dtype.is_floating_point:
        return False
    return torch.allclose(constant.read() * (alpha.read() + 1e-9), torch.ones(()), rtol=1e-5, atol=0)
