"""Frozen TorchScript programs: their constants, and in which order a program uses them as weights. Nothing is run.

A frozen program has no names of weights. Its code is Python in form; it is parsed and never executed.
"""

import ast
import math
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from miipher2.importing.torch_file import ArchiveStorages, SourceError, StoredTensor, reading

CONSTANTS = "constants.pkl"
PROGRAM = "torchscript"  # what is read from a program has it under this name
MAX_CODE_BYTES = 2**21  # the largest known: 30 kB
# By the name of an operation: what it is here, and which of its arguments are weights.
WEIGHTS = {
    "layer_norm": ("norm", (2, 3)),
    "linear": ("linear", (1, 2)),
    "embedding": ("embedding", (0,)),
    "_convolution": ("conv", (1, 2)),
    "conv1d": ("conv", (1, 2)),
    "conv_transpose1d": ("conv", (1, 2)),
}


@dataclass(frozen=True)
class Use:
    """An operation with weights.

    Args:
        kind: norm, linear, embedding, conv, or snake, whose weight is multiplied with the argument of a sine.
        constants: numbers of its weights; None for one that it is without.
    """

    kind: str
    constants: tuple[int | None, ...]


@dataclass(frozen=True)
class Program:
    """A frozen program.

    Args:
        uses: operations with weights, in the order in which they run.
        is_for_gpu: whether the code names a GPU.
    """

    path: Path
    constants: list[StoredTensor]
    uses: list[Use]
    is_for_gpu: bool


def is_program(path: Path) -> bool:
    """Return whether a file is an archive with a TorchScript program."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(f"/{name}".endswith(f"/{CONSTANTS}") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def read_program(path: Path) -> Program:
    """Return a program's constants, and how it uses them.

    Raises:
        SourceError: it is not frozen, damaged, or made to harm.
    """
    with reading(path):
        storages = ArchiveStorages(path, CONSTANTS)
    constants = list(storages.value) if isinstance(storages.value, list | tuple) else []
    if not constants or not all(isinstance(each, StoredTensor) for each in constants):
        raise SourceError(f"{path}: {CONSTANTS} in it holds no tensors alone; should be a frozen program")
    code = storages.read_code(MAX_CODE_BYTES)
    try:
        functions = [each for each in ast.walk(ast.parse(code)) if isinstance(each, ast.FunctionDef)]
        if len(functions) != 1 or functions[0].name != "forward":
            raise SourceError(f"{path}: a program of {len(functions)} functions; should be frozen, one forward")
        reader = _Reader(path, len(constants))
        for statement in functions[0].body:
            reader.visit(statement)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{path}: its code cannot be read ({type(error).__name__}: {str(error)[:100]})") from None
    return Program(path, constants, reader.uses, '"cuda' in code)


@dataclass
class _Reader(ast.NodeVisitor):
    """Lists operations with weights as they run: the arguments of a call before the call."""

    path: Path
    count: int
    uses: list[Use] = field(default_factory=list)
    _values: dict[str, ast.expr] = field(default_factory=dict)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Remember what a name stands for."""
        self.generic_visit(node)
        if len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            self._values[node.targets[0].id] = node.value

    def visit_Call(self, node: ast.Call) -> None:
        """List a call with weights."""
        self.generic_visit(node)
        name = _operation(node)
        if name in WEIGHTS:
            kind, places = WEIGHTS[name]
            found = tuple(self._constant(node.args[place]) for place in places if place < len(node.args))
            self.uses.append(Use(kind, found))
        elif name == "sin" and node.args:
            factors = self._resolve(node.args[0])
            parts = factors.args if isinstance(factors, ast.Call) and _operation(factors) == "mul" else []
            self.uses.append(Use("snake", tuple(n for n in map(self._constant, parts) if n is not None)))

    def _resolve(self, node: ast.expr) -> ast.expr:
        return self._values.get(node.id, node) if isinstance(node, ast.Name) else node

    def _constant(self, node: ast.expr) -> int | None:
        """Return the number of a constant, or None for anything else."""
        node = self._resolve(node)
        if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name) or node.value.id != "CONSTANTS":
            return None
        number = node.attr.removeprefix("c")
        if not number.isdecimal() or len(number) > 6 or int(number) >= self.count:
            raise SourceError(f"{self.path}: its code names the constant {node.attr[:20]}; it has {self.count}")
        return int(number)


def _operation(node: ast.Call) -> str | None:
    """Return the name of an operation of torch that a call is of."""
    function = node.func
    is_torch = isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)
    if not is_torch:
        return None
    assert isinstance(function, ast.Attribute)
    assert isinstance(function.value, ast.Name)
    return function.attr if function.value.id == "torch" else None


def is_scalar(constant: StoredTensor) -> bool:
    """Return whether a constant is one number, such as a factor."""
    return math.prod(constant.shape) == 1 and len(constant.shape) <= 1
