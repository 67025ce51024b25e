"""The EMA objects that people have, brought to one form: averaged tensors by the names of the model's parameters.

No framework is imported: what an object holds decides. A list goes by the order of ``model.parameters()``, a mapping
and a module by name.
"""

from __future__ import annotations

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
        UsageError: nothing in ``ema_model`` fits the model.
    """
    parameters = live_parameters(model) if parameters is None else parameters
    if isinstance(ema_model, Iterator):
        ema_model = list(ema_model)
    failure: UsageError | None = None
    live: dict[str, torch.Tensor] | None = None
    for candidate in [_named(model)] if ema_model is model else _candidates(ema_model, model, _DEPTH):
        try:
            shadow = _match(parameters, candidate)
        except UsageError as error:
            failure = failure or error
            continue
        if not _is_live(parameters, shadow):
            return shadow
        live = live or shadow
    if live and (isinstance(ema_model, Mapping) or hasattr(ema_model, "named_parameters")):
        return live  # the caller asked for the model itself
    raise failure or UsageError(
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


def _candidates(held: Any, model: Any, depth: int) -> Iterator[Any]:
    """Yield mappings and lists that may be the averaged weights, the likeliest first; never the live model's."""
    if held is None or held is model:
        return
    if isinstance(held, Mapping):
        yield from (held[name] for name in _NAMES if isinstance(held.get(name), Mapping | list | tuple))
        inner = {name[10:]: tensor for name, tensor in held.items() if str(name).startswith("ema_model.")}
        yield inner or held
    elif isinstance(held, list | tuple):
        yield held
        if len(held) == 1 and depth:  # improved and guided diffusion: a list for each decay
            yield from _candidates(held[0], model, depth - 1)
    else:
        if hasattr(held, "named_parameters"):
            for value in _values(held, _MODULE_NAMES) if depth else ():
                yield from _candidates(value, model, depth - 1)
            named = _named(held)
            has_names = not named or not all(map(str.isdigit, named))  # a ParameterList has none
            yield named if has_names else list(named.values())
        for value in (*_values(held, _NAMES), *_other_values(held)) if depth else ():
            yield from _candidates(value, model, depth - 1)


def _values(held: Any, names: Sequence[str]) -> Iterator[Any]:
    for name in names:
        value = getattr(held, name, None)
        if value is not None and (hasattr(value, "named_parameters") or not callable(value)):
            yield value


def _other_values(held: Any) -> Iterator[Any]:
    attributes = getattr(held, "__dict__", {})
    for name, value in {**attributes, **attributes.get("_modules", {})}.items():
        is_weights = isinstance(value, Mapping | list | tuple) or hasattr(value, "named_parameters")
        is_one_of_several = name.isdigit()  # of a ModuleList: which average, the caller must choose
        if is_weights and not (is_one_of_several or name in _NAMES or any(word in name for word in _LIVE_WORDS)):
            yield value


def _match(parameters: Mapping[str, torch.Tensor], candidate: Any) -> dict[str, torch.Tensor]:
    held = candidate if isinstance(candidate, Mapping) else _by_order(parameters, candidate)
    trained = [name for name, p in parameters.items() if p.requires_grad]
    for spelling in (str, _bare, _undotted):
        named = {spelling(str(name)): tensor for name, tensor in held.items()}
        names = {name: spelling(name) for name in parameters}
        if len(set(names.values())) < len(names):
            raise UsageError("ema_model's names fit several parameters of model; pass the average of the same class")
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


def _is_live(parameters: Mapping[str, torch.Tensor], shadow: Mapping[str, torch.Tensor]) -> bool:
    """Return whether these are the live weights, which many EMA objects hold beside the averaged ones."""
    return any(shadow[name] is p and p.requires_grad for name, p in parameters.items() if name in shadow)


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
