"""A GPU that is not there: tensors that count as on it, and an error wherever CUDA would raise one.

Every storage has a mark: on the accelerator or not. `Tensor.device` reads cuda:0 for marked tensors, so that
the program takes its GPU branches; each operation, of autograd too, is computed on the CPU, and its results
are marked as its inputs are. Where marked and unmarked tensors meet in one operation, where numpy or a C++
kernel gets a marked tensor, it raises as CUDA does. That finds the CPU tensor that has sneaked in.

    with Accelerator() as accelerator:
        x = torch.ones(3, device="cuda") + torch.ones(3)  # RuntimeError

Not modelled: streams and synchronisation, kernels that CUDA lacks, memory, the rounding of a GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("cuda", 0)
CPU = torch.device("cpu")
_ACROSS = {"copy_", "_local_scalar_dense", "set_"}  # operations that may join two devices
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}  # a CPU index may choose on a GPU
_STRICT = {"cat", "stack"}  # where even a CPU number is refused
_NOWHERE_ELSE = {"numpy", "__array__", "data_ptr"}  # what only a CPU tensor has, or kernels read
_DEVICE_OF = torch.Tensor.device.__get__  # type: ignore[attr-defined]
_IS_CUDA = torch.Tensor.is_cuda.__get__  # type: ignore[attr-defined]


class Accelerator:
    """The block in which the accelerator is there."""

    def __init__(self) -> None:
        self._marks: dict[
            int, StorageWeakRef
        ] = {}  # by storage; a weak reference keeps its address from reuse
        self._stack = ExitStack()
        self.operations = 0
        """Operations on the accelerator so far."""
        self.away = False
        self.calls: int | None = None
        """Depth of torch functions that python has called within its backward pass; None outside of one."""

    def __enter__(self) -> Accelerator:
        patch = self._stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(torch, "Generator", _Generator)
        functions, engine = _Functions(self), torch.autograd._engine_run_backward

        def backward(*args: Any, **kwargs: Any) -> Any:
            before, self.calls = self.calls, 0 if any(map(self.has, _tensors(args[0]))) else None
            try:
                with functions:  # a mode is off while it handles a call, and this one runs code of ours
                    return engine(*args, **kwargs)
            finally:
                self.calls = before

        patch.setattr(torch.autograd, "_engine_run_backward", backward)
        self._stack.enter_context(_Operations(self))
        self._stack.enter_context(functions)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    @contextmanager
    def left(self) -> Iterator[None]:
        """A block in which it is not there: all tensors are what they are, CPU tensors."""
        before, self.away = self.away, True
        try:
            yield
        finally:
            self.away = before

    def mark(self, tensors: Any) -> Any:
        """Marks all tensors of a tree as on the accelerator; returns the tree."""
        for tensor in _tensors(tensors):
            storage = tensor.untyped_storage()
            self._marks[storage._cdata] = StorageWeakRef(storage)
        return tensors

    def has(self, tensor: Tensor) -> bool:
        """Whether a tensor is on the accelerator."""
        with torch._C.DisableTorchFunction():
            return tensor.untyped_storage()._cdata in self._marks


class _Generator(torch.Generator):
    """A generator for either device."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        made = "cpu" if _is_accelerator(device) else device
        return super().__new__(cls, made)  # type: ignore[call-arg]


def _is_accelerator(value: Any) -> bool:
    if isinstance(value, torch.device):
        return value.type == "cuda"
    return isinstance(value, str) and value.partition(":")[0] == "cuda"


def _tensors(tree: Any) -> Iterator[Tensor]:
    yield from (leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor))


class _Functions(TorchFunctionMode):
    """What Python calls: devices that are asked for, and what a tensor says of itself."""

    def __init__(self, accelerator: Accelerator) -> None:
        super().__init__()
        self.accelerator = accelerator

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.accelerator.calls is None:
            return self._call(func, args, kwargs or {})
        self.accelerator.calls += 1
        try:
            return self._call(func, args, kwargs or {})
        finally:
            self.accelerator.calls -= 1

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.accelerator.away:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if func == _DEVICE_OF:
            return DEVICE if self.accelerator.has(args[0]) else CPU
        if func == _IS_CUDA:
            return self.accelerator.has(args[0])
        if name in _NOWHERE_ELSE and first is not None and self.accelerator.has(first):
            raise TypeError(f"{name}: cannot convert a tensor on cuda:0: use Tensor.cpu() first")
        wanted = self._wanted(func, name, args, kwargs)
        if wanted is None:
            return func(*args, **kwargs)
        swap = functools.partial(tree_map, lambda value: CPU if _is_device(value) else value)
        if first is None:  # a factory
            plain = func(*swap(args), **swap(kwargs))
            return self.accelerator.mark(plain) if wanted else plain
        return self._moved(func, name, first, args, kwargs, wanted)

    def _wanted(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool | None:
        """Whether the result shall be on the accelerator; None where the call says nothing of it."""
        if name in ("cpu", "cuda"):
            return name == "cuda"
        if kwargs.get("device") is not None:
            return _is_accelerator(kwargs["device"])
        if name == "new_tensor":
            return self.accelerator.has(args[0])
        if name == "to":
            for value in args[1:]:
                if isinstance(value, Tensor):
                    return self.accelerator.has(value)
                if _is_device(value):
                    return _is_accelerator(value)
        return None

    def _moved(
        self, func: Any, name: str, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], wanted: bool
    ) -> Any:
        there = self.accelerator.has(x)
        rest = [value for value in args[1:] if not _is_device(value) and not isinstance(value, Tensor)]
        others = {key: value for key, value in kwargs.items() if key != "device"}
        like = next((value.dtype for value in args[1:] if isinstance(value, Tensor)), None)
        if name not in ("to", "cpu", "cuda"):  # zeros_like, new_zeros, ...
            result = func(x, *rest, **others)
            self.accelerator._marks.pop(result.untyped_storage()._cdata, None)
            return self.accelerator.mark(result) if wanted else result
        dtype = next((value for value in rest if isinstance(value, torch.dtype)), others.get("dtype", like))
        copy = bool(others.get("copy", False))
        if there == wanted and (dtype is None or dtype == x.dtype) and not copy:
            return x
        return _Move.apply(x, dtype or x.dtype, wanted, self.accelerator)


def _is_device(value: Any) -> bool:
    return isinstance(value, torch.device) or (
        isinstance(value, str) and value.partition(":")[0] in ("cpu", "cuda")
    )


class _Move(torch.autograd.Function):
    """A copy on the other device, or in another type; its gradient goes back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype, wanted: bool, accelerator: Accelerator) -> Tensor:
        ctx.back = (x.dtype, accelerator.has(x), accelerator)
        return _copied(x, dtype, wanted, accelerator)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return _copied(grads[0], *ctx.back), None, None, None


def _copied(x: Tensor, dtype: torch.dtype, wanted: bool, accelerator: Accelerator) -> Tensor:
    copy = x.detach().to(dtype, copy=True)
    accelerator._marks.pop(copy.untyped_storage()._cdata, None)
    return accelerator.mark(copy) if wanted else copy


class _Operations(TorchDispatchMode):
    """What torch computes, in backward passes too: inputs must be on one device."""

    def __init__(self, accelerator: Accelerator) -> None:
        super().__init__()
        self.accelerator = accelerator

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.accelerator.away:
            return func(*args, **kwargs)
        name = func._schema.name.partition("::")[2]
        inputs = list(_tensors((args, kwargs)))
        there = [self.accelerator.has(tensor) for tensor in inputs]
        if any(there) and not all(there):
            self._check(name, func, args, inputs, there)
        result = func(*args, **kwargs)
        if not inputs and self.accelerator.calls == 0:  # zeros that autograd itself puts where nothing came
            self.accelerator.mark(result)
        if any(there) and name != "_local_scalar_dense" and name != "copy_":
            self.accelerator.operations += 1
            self.accelerator.mark(result)
        return result

    def _check(
        self, name: str, func: Any, args: tuple[Any, ...], inputs: list[Tensor], there: list[bool]
    ) -> None:
        """Raises as CUDA does, where a result would need two devices."""
        if name in _ACROSS:
            return
        if name in _INDEXING and there[0]:
            rest: Iterable[Any] = args[2:3]  # the values
            if all(self.accelerator.has(value) or value.dim() == 0 for value in _tensors(list(rest))):
                return
        changed = func._schema.is_mutable
        numbers = all(tensor.dim() == 0 for tensor, on in zip(inputs, there, strict=True) if not on)
        if numbers and name not in _STRICT and name not in _INDEXING and (there[0] or not changed):
            return
        where = ", ".join(
            f"{list(tensor.shape)} on {'cuda:0' if on else 'cpu'}"
            for tensor, on in zip(inputs, there, strict=True)
        )
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, got {where}")


class Rasterizer(torch.autograd.Function):
    """What stands for gsplat: a CPU backend of ours, away from the accelerator, whose tensors are on it."""

    @staticmethod
    def forward(ctx: Any, accelerator: Accelerator, run: Any, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        with accelerator.left(), torch.enable_grad():
            ctx.leaves = [tensor.detach().requires_grad_() for tensor in tensors]
            colors, alphas, meta = run(*ctx.leaves)
            ctx.results, ctx.inner, ctx.run = (colors, alphas), meta["means2d"], run
        ctx.accelerator = accelerator
        ctx.set_materialize_grads(False)
        outer = {key: value.detach() if isinstance(value, Tensor) else value for key, value in meta.items()}
        ctx.means2d = outer["means2d"].clone().requires_grad_(any(tensor.requires_grad for tensor in tensors))
        run.meta = accelerator.mark({**outer, "means2d": ctx.means2d})
        return accelerator.mark((colors.detach().clone(), alphas.detach().clone()))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        used = [(result, grad) for result, grad in zip(ctx.results, grads, strict=True) if grad is not None]
        assert all(ctx.accelerator.has(grad) for _, grad in used), "gsplat's backward wants CUDA gradients"
        with ctx.accelerator.left():
            leaves = [ctx.inner, *ctx.leaves]
            results, given = zip(*used, strict=True)
            found = torch.autograd.grad(results, leaves, given, allow_unused=True)
        ctx.accelerator.mark(found)
        ctx.means2d.grad = found[0]
        if (absolute := getattr(ctx.inner, "absgrad", None)) is not None:
            ctx.means2d.absgrad = ctx.accelerator.mark(absolute)
        return None, None, *found[1:]
