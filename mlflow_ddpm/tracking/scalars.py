"""What a training loop may log as one number: every kind of it becomes a float, or a 0-d tensor that is read later.

Whatever cannot be recorded is refused here, when it is logged, and not when the epoch ends an hour later.
"""

import math
from collections.abc import Mapping
from typing import Any, SupportsFloat

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.formatting import short_repr
from mlflow_ddpm.core.metrics import whole_number

_REAL: set[Any] = set()  # real dtypes of the tensors seen; looking one up costs less than asking torch
_LOCAL: set[type] = set()  # tensor types seen whose value lies in this process: all but DTensor
_DENSE: set[Any] = set()  # layouts of tensors that are read as they are

Scalar = SupportsFloat  # numbers, numpy's too, and tensors; torch itself need not be imported


def scalar(name: str, value: Any) -> Any:
    """Return ``value`` as a float, or as a 0-d tensor without its graph where it is a tensor.

    A DTensor becomes a plain tensor, a collective that every rank must enter where its value is spread over ranks.

    Raises:
        UsageError: it is not one real number.
    """
    try:
        if value.requires_grad:  # else the batch's whole graph would live on
            value = value.detach()  # not .data, which hides changes in place
        if (
            not value.ndim
            and value.dtype in _REAL
            and type(value) in _LOCAL
            and value.layout in _DENSE
            and not value.is_meta
        ):
            return value
    except Exception:  # noqa: BLE001, S110 - no tensor, or one without a value: what follows finds out which
        pass
    try:
        return _one_element(name, value) if hasattr(value, "requires_grad") else _number(name, value)
    except UsageError:
        raise
    except Exception as error:  # what torch and NumPy raise
        cause = " ".join(str(error).split())[:200]
        raise UsageError(f"{name} must be one real number, got {short_repr(value)} ({cause})") from error


def join_collectives(*values: object) -> None:
    """Enter, on a rank that records nothing, the collectives that rank 0 needs to read these values."""
    for value in values:
        if hasattr(value, "full_tensor"):
            value.full_tensor()


def _one_element(name: str, tensor: Any) -> Any:
    if tensor.dtype.is_complex:
        raise UsageError(f"{name} must be a real number, got a tensor of {tensor.dtype}")
    if tensor.is_nested:
        raise UsageError(f"{name} must be one number, got a nested tensor; reduce it first")
    if tensor.numel() != 1:
        raise UsageError(f"{name} must be one number, got a tensor of shape {tuple(tensor.shape)}; reduce it first")
    if tensor.is_meta:
        raise UsageError(f"{name} must have a value, got a tensor on the meta device")
    if hasattr(tensor, "full_tensor"):  # a DTensor, as clip_grad_norm_ returns it under FSDP2
        return _one_element(name, tensor.full_tensor())
    tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    import torch

    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.dtype not in _REAL or type(tensor) not in _LOCAL:  # can it be read later? One without a value shows it
        is_plain = type(tensor).__torch_dispatch__ is torch.Tensor.__torch_dispatch__
        like = torch.empty((), dtype=tensor.dtype) if is_plain else torch.empty_like(tensor, device="cpu")
        trial = torch.stack([like]).double()
        if not is_plain:
            trial.numpy()
        _REAL.add(tensor.dtype)
        _LOCAL.add(type(tensor))
        _DENSE.add(torch.strided)
    return tensor.reshape(()) if tensor.ndim else tensor


def _number(name: str, value: Any) -> float:
    is_real = getattr(getattr(value, "dtype", None), "kind", "f") not in "cmM"  # no complex numbers, dates, durations
    if is_real and getattr(value, "size", None) == 1 and hasattr(value, "item") and not getattr(value, "mask", False):
        value = value.item()  # NumPy's arrays and scalars of one element
    is_real = is_real and not (isinstance(value, complex) or hasattr(value, "mask"))
    if not is_real or not (hasattr(value, "__float__") or hasattr(value, "__index__")):
        raise UsageError(f"{name} must be a real number or a 0-d tensor, got {short_repr(value)}")
    try:
        number = float(value)
    except OverflowError as error:  # 10**400
        raise UsageError(f"{name} must be a real number within float64, got {short_repr(value)}") from error
    if math.isinf(number) and number != value:  # Decimal("1e400"), which is finite
        raise UsageError(f"{name} must be a real number within float64, got {short_repr(value)}")
    return number


def extra_values(extra: Mapping[str, Scalar | None]) -> dict[str, float]:
    """Return extra metrics as floats, less those that are None; raises as :func:`scalar`."""
    # no -0.0: sqlite would drop its sign
    return {name: float(value) + 0.0 for name, value in measured_extras(extra).items()}


def measured_extras(extra: Mapping[str, Scalar | None]) -> dict[str, Any]:
    """Return extra metrics as floats and 0-d tensors, less those that are None; raises as :func:`scalar`."""
    return {name: scalar(f"the extra metric {name!r}", value) for name, value in extra.items() if value is not None}


def sample_count(batch_size: Any) -> int | None:
    """Return a batch's size as an int; None where none was given."""
    return None if batch_size is None else whole_number("batch_size", batch_size)
