"""The EMA objects that people have, brought to one form: averaged tensors by the names of the model's parameters.

No framework is imported: what an object holds decides. A list goes by the order of ``model.parameters()``, a mapping
and a module by name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_ddpm.core.errors import UsageError

if TYPE_CHECKING:
    import torch

# Where libraries keep the averaged weights: diffusers and torch_ema; ema_pytorch; timm; home-made objects.
_NAMES = ("shadow_params", "ema_model", "shadow", "module", "averaged_model", "average_model", "ema_params", "ema")
_MODULE_NAMES = ("shadow_params", "ema_model")  # of modules, most of which are the average themselves
_LIVE_WORDS = ("collected", "backup", "stored", "online", "live", "student", "original")  # the weights beside them
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_DEPTH = 2  # an object that holds an object that holds the weights
_SHOWN = 8  # names in a message, when two models do not match


def match_shadow(
    model: torch.nn.Module, ema_model: Any, parameters: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """Return the averaged tensors by the model's own names, in its order; frozen parameters may be missing.

    Args:
        model: the live model, plain or wrapped by DDP, FSDP or ``torch.compile``.
        ema_model: a module, plain or wrapped (``AveragedModel``, timm's ``ModelEmaV3``); a mapping, list or iterator of
            tensors; an EMA's ``state_dict()``; or an object or module that holds one of these, such as diffusers'
            ``EMAModel``, ``ema_pytorch.EMA``, ``torch_ema``'s or latent diffusion's ``LitEma``.
        parameters: the model's :func:`live_parameters`, where the caller has them: torch takes long to list them.

    Raises:
        UsageError: nothing in ``ema_model`` but the model's own weights fits the model, or several averages do.
    """
    parameters = live_parameters(model) if parameters is None else parameters
    if isinstance(ema_model, Iterator):
        ema_model = list(ema_model)
    if ema_model is model:
        return _match(parameters, parameters)
    search = _Search(model, parameters)
    shadow = search.find(ema_model, _DEPTH)
    if shadow is not None:
        return shadow
    if isinstance(ema_model, Mapping) or hasattr(ema_model, "named_parameters"):
        with contextlib.suppress(UsageError):  # it may be the live model, wrapped: the caller asked for it
            return _match(parameters, ema_model if isinstance(ema_model, Mapping) else _named(ema_model))
    raise search.failure or UsageError(
        "ema_model must be a module, a mapping or list of tensors, or an object that holds one, got "
        f"{type(ema_model).__name__}"
    )


def live_parameters(model: Any) -> dict[str, torch.Tensor]:
    """Return the parameters by name, a shared one under its first name only."""
    if not hasattr(model, "named_parameters"):
        raise UsageError(f"model must be a torch module, got {type(model).__name__}")
    named = _named(model)
    if len(set(map(id, named.values()))) == len(named):
        return named
    first: dict[int, str] = {}
    for name, tensor in named.items():
        first.setdefault(id(tensor), name)
    return {name: named[name] for name in first.values()}


def _named(model: Any) -> dict[str, torch.Tensor]:
    """Return the parameters by name, shared ones under each of theirs: finding those takes torch longer than us."""
    import torch

    is_module = isinstance(model, torch.nn.Module)  # else a wrapper of the user's, which may know no such argument
    return dict(model.named_parameters(remove_duplicate=False) if is_module else model.named_parameters())


class _Search:
    """Looks for averaged weights that fit the model's ``parameters``, and passes over the live ones."""

    def __init__(self, model: Any, parameters: Mapping[str, torch.Tensor]) -> None:
        self._model, self._parameters = model, parameters
        self._least = sum(p.requires_grad for p in parameters.values())  # tensors of an average: frozen ones may miss
        self.failure: UsageError | None = None  # why the likeliest place does not fit

    def find(self, held: Any, depth: int) -> dict[str, torch.Tensor] | None:
        """Return the averaged weights that ``held`` is or holds; None if nothing fits.

        Raises:
            UsageError: several models fit, and no name is known to be that of an average.
        """
        return next((shadow for shadow in self._places(held, depth) if shadow is not None), None)

    def _places(self, held: Any, depth: int) -> Iterator[dict[str, torch.Tensor] | None]:
        """Yield what each place in ``held`` gives, the likeliest first."""
        if isinstance(held, Mapping):
            yield from (self._fit(held[name]) for name in _NAMES if isinstance(held.get(name), Mapping | list | tuple))
            names = (name for name in held if isinstance(name, str) and name.startswith("ema_model."))
            yield self._fit({name[10:]: held[name] for name in names} or held)
        elif isinstance(held, list | tuple):
            yield self._fit(held)
            if len(held) == 1 and depth:  # improved and guided diffusion: a list for each decay
                yield self.find(held[0], depth - 1)
        elif held is not None and held is not self._model:
            if hasattr(held, "named_parameters"):
                for value in _values(held, _MODULE_NAMES) if depth else ():
                    yield self.find(value, depth - 1)
                named = _named(held)
                has_names = not named or not all(map(str.isdigit, named))  # a ParameterList has none
                yield self._fit(named if has_names else list(named.values()))
            for value in _values(held, _NAMES) if depth else ():
                yield self.find(value, depth - 1)
            yield self._find_other(held, depth - 1) if depth else None

    def _find_other(self, held: Any, depth: int) -> dict[str, torch.Tensor] | None:
        """Return what fits under a name of the user's own; which of several is the average, the caller must choose."""
        fits: dict[str, dict[str, torch.Tensor]] = {}
        for name, value in _other_values(held):
            shadow = self.find(value, depth)
            if shadow is not None and not any(_is_same(shadow, other) for other in fits.values()):
                fits[name] = shadow
        if len(fits) > 1:
            raise UsageError(
                f"ema_model holds several models that fit: {', '.join(fits)}; pass the one that is the EMA"
            )
        return next(iter(fits.values()), None)

    def _fit(self, candidate: Sequence[Any] | Mapping[Any, Any]) -> dict[str, torch.Tensor] | None:
        if self.failure and len(candidate) < self._least:
            return None  # at once: a module has many parts, and the first failure is the one to report
        try:
            shadow = _match(self._parameters, candidate)
            _refuse_live(self._parameters, shadow)
        except UsageError as error:
            self.failure = self.failure or error
            return None
        return shadow


def _values(held: Any, names: Sequence[str]) -> Iterator[Any]:
    for name in names:
        value = getattr(held, name, None)
        if value is not None and (hasattr(value, "named_parameters") or not callable(value)):
            yield value


def _other_values(held: Any) -> Iterator[tuple[str, Any]]:
    attributes = getattr(held, "__dict__", {})
    for name, value in {**attributes, **attributes.get("_modules", {})}.items():
        has_entries = isinstance(value, Mapping | list | tuple) and len(value) > 0  # unlike a module's ten of hooks
        is_weights = has_entries or hasattr(value, "named_parameters")
        is_one_of_several = name.isdigit()  # of a ModuleList: which average, the caller must choose
        if is_weights and not (is_one_of_several or name in _NAMES or any(word in name for word in _LIVE_WORDS)):
            yield name, value


def _match(parameters: Mapping[str, torch.Tensor], candidate: Any) -> dict[str, torch.Tensor]:
    held = candidate if isinstance(candidate, Mapping) else _by_order(parameters, candidate)
    trained = [name for name, p in parameters.items() if p.requires_grad]
    for spelling in (str, _bare, _undotted):
        names = {name: spelling(name) for name in parameters}
        wanted = set(names.values())
        keys = [name for name in held if isinstance(name, str) and spelling(name) in wanted]
        named = {spelling(name): held[name] for name in keys}
        if len(wanted) < len(names) or len(named) < len(keys):
            raise UsageError(
                "ema_model's names fit several parameters of model, or several one; pass the average of the same class"
            )
        missing = [name for name in trained if names[name] not in named]
        present = [name for name in parameters if names[name] in named]
        if present and not missing:
            break
    if missing or (parameters and not present):
        missing = missing or list(parameters)
        shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        raise UsageError(
            f"ema_model must hold every parameter of model; {len(missing)} of {len(parameters)} are missing: {shown}. "
            "Pass the EMA of this very model"
        )
    shadow = {name: named[names[name]] for name in present}
    _check(parameters, shadow)
    return shadow


def _by_order(parameters: Mapping[str, torch.Tensor], tensors: Sequence[Any]) -> dict[str, Any]:
    trained = [name for name, p in parameters.items() if p.requires_grad]
    for names in (list(parameters), trained):
        if len(names) == len(tensors):
            return dict(zip(names, tensors, strict=True))
    raise UsageError(
        f"ema_model's list must have a tensor for each of model's {len(parameters)} parameters, or for each of the "
        f"{len(trained)} that are trained, got {len(tensors)}. Pass the EMA of this very model"
    )


def _bare(name: str) -> str:
    """Return a parameter's name without the parts that DDP, FSDP, AveragedModel and torch.compile put into it."""
    if not any(wrapper in name for wrapper in _WRAPPERS):
        return name
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _undotted(name: str) -> str:
    """Return the name without dots, which no buffer's may hold; ``LitEma`` drops them, others write underscores."""
    return _bare(name).replace(".", "").replace("_", "")


def _refuse_live(parameters: Mapping[str, torch.Tensor], shadow: Mapping[str, torch.Tensor]) -> None:
    """Raise UsageError for the live weights, which many EMA objects hold beside the averaged ones."""
    if any(shadow[name] is p and p.requires_grad for name, p in parameters.items() if name in shadow):
        raise UsageError("ema_model holds the model's own weights, not their average; pass the EMA of this model")


def _is_same(shadow: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """Return whether both are views of one average, such as a module and the list of its parameters."""
    return all(tensor is other.get(name, tensor) for name, tensor in shadow.items())


def _check(parameters: Mapping[str, torch.Tensor], shadow: Mapping[str, Any]) -> None:
    import torch

    for name, q in shadow.items():
        if not isinstance(q, torch.Tensor):
            raise UsageError(f"ema_model's {name} must be a torch tensor, got {type(q).__name__}")
        for owner, tensor in (("model", parameters[name]), ("ema_model", q)):
            if tensor.is_meta or tensor.layout is not torch.strided:
                kind = "on the meta device" if tensor.is_meta else f"of {tensor.layout}"
                raise UsageError(f"{owner}'s {name} must be a dense tensor with values, got one {kind}")
        if parameters[name].shape != q.shape:
            expected, got = tuple(parameters[name].shape), tuple(q.shape)
            raise UsageError(f"ema_model's {name} must have the model's shape {expected}, got {got}")
