"""EMA objects of every library that people use, against the distance computed by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from support.common import slow
from torch import nn

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.tracking import ema_shadow
from mlflow_ddpm.tracking.ema_distance import EmaProbe, ema_distance
from mlflow_ddpm.tracking.ema_shadow import match_shadow


def _model(*, frozen: bool = False) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    model[2].requires_grad_(not frozen)
    return model


def _averaged(model: nn.Module) -> nn.Module:
    """Return a copy whose trained weights are 0.1 away."""
    average = copy.deepcopy(model)
    with torch.no_grad():
        for p in average.parameters():
            p.add_(0.1 if p.requires_grad else 0.0)
    return average


def _expected(model: nn.Module) -> float:
    return 0.1 * math.sqrt(sum(p.numel() for p in model.parameters() if p.requires_grad))


class ModuleBeside(nn.Module):
    """As ``ema_pytorch.EMA``: the average and the live model in one module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.online_model, self.ema_model = model, _averaged(model)


class Undotted(nn.Module):
    """As latent diffusion's ``LitEma``: buffers, whose names may hold no dots, of what is trained."""

    def __init__(self, model: nn.Module, dot: str = "") -> None:
        super().__init__()
        self.register_buffer("decay", torch.tensor(0.999))
        for name, tensor in _trained(model).items():
            self.register_buffer(name.replace(".", dot), tensor)


def _modules(**held: nn.Module) -> nn.Module:
    return nn.ModuleDict(held)


class Holder:
    """An object of somebody's own, with its weights under any name."""

    def __init__(self, **held: Any) -> None:
        self.decay = 0.999
        self.__dict__.update(held)


def _shadow_list(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in _averaged(model).parameters()]


def _trained(model: nn.Module) -> dict[str, torch.Tensor]:
    average = dict(_averaged(model).named_parameters())
    return {name: average[name].detach() for name, p in model.named_parameters() if p.requires_grad}


def _in_two_forms(average: nn.Module) -> Holder:
    return Holder(polyak=average, params=list(average.parameters()))


KINDS: dict[str, Callable[[nn.Module], Any]] = {
    "module": _averaged,
    "state_dict": lambda m: _averaged(m).state_dict(),
    "AveragedModel": lambda m: torch.optim.swa_utils.AveragedModel(_averaged(m)),
    "AveragedModel's state_dict": lambda m: torch.optim.swa_utils.AveragedModel(_averaged(m)).state_dict(),
    "compiled": lambda m: torch.compile(_averaged(m)),
    "list": _shadow_list,
    "tuple": lambda m: tuple(_shadow_list(m)),
    "list of what is trained": lambda m: list(_trained(m).values()),
    "mapping of what is trained": _trained,
    "module beside the live one": ModuleBeside,
    "its state_dict": lambda m: ModuleBeside(m).state_dict(),
    "shadow_params": lambda m: Holder(shadow_params=_shadow_list(m), collected_params=list(m.parameters())),
    "its state dict": lambda m: {"decay": 0.9, "shadow_params": _shadow_list(m), "collected_params": None},
    "shadow mapping": lambda m: Holder(backup=dict(m.named_parameters()), shadow=_trained(m)),
    "module inside": lambda m: Holder(model=m, module=_averaged(m)),
    "any other name": lambda m: Holder(model=m, params=list(m.parameters()), polyak=_averaged(m)),
    "live list first": lambda m: Holder(params=list(m.parameters()), polyak=_shadow_list(m)),
    "buffers without dots": Undotted,
    "buffers with underscores": lambda m: Undotted(m, "_"),
    "ParameterList": lambda m: nn.ParameterList(_shadow_list(m)),
    "their state_dict": lambda m: Undotted(m).state_dict(),
    "module of the live one and its average": lambda m: _modules(net=m, shadow=_averaged(m)),
    "the average first": lambda m: _modules(target=_averaged(m), net=m),
    "a wrapped average of more": lambda m: torch.optim.swa_utils.AveragedModel(_modules(unet=_averaged(m))),
    "iterator": lambda m: _averaged(m).parameters(),
    "a list for each decay": lambda m: Holder(model=m, ema_rate=[0.9], ema_params=[_shadow_list(m)]),
    "one average in two forms": lambda m: _in_two_forms(_averaged(m)),
    "a known name beside a teacher": lambda m: Holder(teacher=copy.deepcopy(m), ema=Undotted(m)),
    "two objects deep": lambda m: Holder(helper=None, ema=Holder(shadow=_trained(m))),
}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_form_of_ema_gives_the_distance(kind: str, frozen: bool) -> None:  # noqa: FBT001 - a parameter
    """Lists go by the order of the parameters, all else by name; frozen parameters may be missing."""
    model = _model(frozen=frozen)

    assert ema_distance(model, KINDS[kind](model)) == pytest.approx(_expected(model), rel=1e-6)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_the_live_model_may_be_wrapped(wrap: Callable[[nn.Module], Any]) -> None:
    """DDP and torch.compile put parts into the names."""
    model = _model()

    assert ema_distance(wrap(model), _averaged(model)) == pytest.approx(_expected(model), rel=1e-6)


def _by_diffusers(model: nn.Module) -> tuple[Any, Callable[[], object], Callable[[Any], list[torch.Tensor]]]:
    from diffusers.training_utils import EMAModel

    ema = EMAModel(model.parameters(), decay=0.9)
    return ema, lambda: ema.step(model.parameters()), lambda e: e.shadow_params


def _by_ema_pytorch(model: nn.Module) -> tuple[Any, Callable[[], object], Callable[[Any], list[torch.Tensor]]]:
    ema = pytest.importorskip("ema_pytorch").EMA(model, beta=0.9, update_after_step=0, update_every=1)
    return ema, ema.update, lambda e: list(e.ema_model.parameters())


def _by_torch_ema(model: nn.Module) -> tuple[Any, Callable[[], object], Callable[[Any], list[torch.Tensor]]]:
    ema = pytest.importorskip("torch_ema").ExponentialMovingAverage(model.parameters(), decay=0.9)
    return ema, ema.update, lambda e: e.shadow_params


LIBRARIES = {"diffusers": _by_diffusers, "ema_pytorch": _by_ema_pytorch, "torch_ema": _by_torch_ema}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("library", [slow(name) if name == "diffusers" else name for name in LIBRARIES])
@pytest.mark.parametrize("form", ["itself", "state_dict"])
def test_the_objects_of_real_libraries_are_taken(library: str, form: str) -> None:
    """After real steps, against the difference computed tensor by tensor."""
    pytest.importorskip(library)
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ema, update, shadow = LIBRARIES[library](model)
    for _ in range(3):
        model(torch.randn(8, 3)).square().mean().backward()
        optimizer.step()
        update()
    pairs = zip(model.parameters(), shadow(ema), strict=True)
    expected = float(sum((p - q).double().square().sum() for p, q in pairs)) ** 0.5

    assert expected > 0
    assert ema_distance(model, ema if form == "itself" else ema.state_dict()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (object(), "must be a module, a mapping or list of tensors, or an object that holds one, got object"),
        (3, "got int"),
        ([torch.ones(1)], "for each of model's 6 parameters, or for each of the 6 that are trained, got 1"),
        ({"0.weight": torch.ones(4, 3)}, r"5 of 6 are missing: 0\.bias"),
        (nn.Linear(3, 4), "6 of 6 are missing"),
        (nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)), r"shape \(4, 3\), got \(5, 3\)"),
        ({}, "6 of 6 are missing"),
        ([_shadow_list(_model()), _shadow_list(_model())], "got 2"),
        (nn.ModuleList([_model(), _model()]), "6 of 6 are missing"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(wrong: Any, message: str) -> None:
    """What was expected, what came."""
    with pytest.raises(UsageError, match=message) as caught:
        match_shadow(_model(), wrong)

    assert "\n" not in str(caught.value)


WITHOUT_AVERAGE: dict[str, Callable[[nn.Module], Any]] = {
    "a module that holds it": lambda m: _modules(net=m),
    "an object": lambda m: Holder(net=m),
    "a mapping in an object": lambda m: Holder(weights=dict(m.named_parameters())),
}


@pytest.mark.parametrize("wrap", [lambda m: m, torch.compile, nn.DataParallel])
@pytest.mark.parametrize("kind", WITHOUT_AVERAGE)
def test_the_live_weights_are_never_taken_for_their_average(kind: str, wrap: Callable[[nn.Module], Any]) -> None:
    """Their distance would be 0 for ever; only who passes the model itself gets it."""
    model = _model()
    with pytest.raises(UsageError, match=r"own weights, not their average|are missing|an object that holds one, got"):
        match_shadow(wrap(model), WITHOUT_AVERAGE[kind](model))
    with pytest.raises(UsageError, match="own weights, not their average"):
        match_shadow(wrap(model), list(model.parameters()))

    assert ema_distance(wrap(model), model) == 0.0


SEVERAL: dict[str, Callable[[nn.Module], Any]] = {
    "backbone, head": lambda m: _modules(backbone=copy.deepcopy(m), head=copy.deepcopy(m)),
    "teacher, averages": lambda m: Holder(teacher=copy.deepcopy(m), averages=nn.ParameterList(_shadow_list(m))),
    "fast, slow": lambda m: Holder(net=m, fast=_trained(m), slow=_shadow_list(m)),
}


@pytest.mark.parametrize("names", SEVERAL)
def test_which_of_several_models_is_the_average_is_not_guessed(names: str) -> None:
    """The message names them."""
    model = _model()
    with pytest.raises(UsageError, match=f"holds several models that fit: {names}; pass"):
        match_shadow(model, SEVERAL[names](model))


def test_keys_that_are_no_names_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spelling out a tensor would read the device."""
    model = _model()
    by_tensor: dict[Any, Any] = {p: p.detach() for p in model.parameters()}
    monkeypatch.setattr(torch.Tensor, "__str__", lambda _: pytest.fail("a tensor was spelled out"))
    with pytest.raises(UsageError, match="6 of 6 are missing"):
        match_shadow(model, by_tensor)

    assert ema_distance(model, by_tensor | _trained(model)) == pytest.approx(_expected(model), rel=1e-6)


def test_a_large_model_that_does_not_fit_is_refused_without_a_look_at_each_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A module has ten mappings of hooks, which are empty, and parts that are too small."""
    monkeypatch.setattr(ema_shadow, "_undotted", spelling := Mock(wraps=ema_shadow._undotted))
    model, other = (_modules(**{f"part{i}": nn.Linear(1, 1) for i in range(count)}) for count in (20, 19))
    with pytest.raises(UsageError, match="2 of 40 are missing"):
        match_shadow(model, other)

    assert spelling.call_count < 300  # 40 names and 38 others: not so many for each part


def test_a_pair_is_measured_anew_each_time_and_another_goes_before_it() -> None:
    """Lists are replaced by some libraries, so nothing is kept but the object."""
    model, probe = _model(), EmaProbe()
    holder = Holder(shadow_params=_shadow_list(model))
    assert probe.measure() is None
    probe.watch(model, holder)
    holder.__dict__["shadow_params"] = [p.detach().clone() for p in model.parameters()]

    assert probe.measure() == 0.0
    assert probe.measure(model, _averaged(model)) == pytest.approx(_expected(model), rel=1e-6)


def test_names_that_fit_two_parameters_are_refused() -> None:
    """``AveragedModel`` puts ``module.`` before each name, and this model has it in some of its own."""
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "module": nn.ModuleDict({"a": nn.Linear(2, 2)})})
    average = torch.optim.swa_utils.AveragedModel(model)

    assert ema_distance(model, average) == 0.0  # by what it holds
    with pytest.raises(UsageError, match="fit several parameters of model"):
        ema_distance(model, average.state_dict())


def test_two_of_the_emas_names_that_fit_one_parameter_are_refused() -> None:
    """Either may be the average."""
    model = nn.ModuleDict({"ab": nn.Linear(2, 2)})
    shadow = {"abweight": torch.ones(2, 2), "abbias": torch.ones(2), "a_b_weight": torch.zeros(2, 2)}

    with pytest.raises(UsageError, match="fit several parameters of model"):
        ema_distance(model, shadow)
    assert ema_distance(model, {**dict(model.named_parameters()), **shadow}) == 0.0  # the very names
