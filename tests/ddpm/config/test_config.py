"""The DDPM's settings: ranges, what "auto" means, and what a command line can derive from them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from mlflow_ddpm.core.errors import ConfigError
from mlflow_ddpm.ddpm.config.config import Config, from_options, options
from mlflow_ddpm.ddpm.config.fields import PRESETS
from mlflow_ddpm.ddpm.config.groups import DATA_NAMES

OUT_OF_RANGE: list[tuple[str, Any, str]] = [
    ("lr", -1, "optim.lr must be > 0, got -1"),
    ("lr", float("nan"), "optim.lr must be a finite number or 'auto', got nan"),
    ("epochs", 0, "train.epochs must be >= 1 and <= 1000000, got 0"),
    ("epochs", "3", "train.epochs must be a whole number or 'auto', got '3'"),
    ("batch_size", 0, "train.batch_size must be >= 1, got 0"),
    ("seed", 2**31, "train.seed must be >= 0 and < 2147483648, got 2147483648"),
    ("ema_decay", 1.0, "optim.ema_decay must be >= 0 and < 1, got 1.0"),
    ("class_dropout", -0.1, "diffusion.class_dropout must be >= 0 and < 1, got -0.1"),
    ("prediction", "x0", "diffusion.prediction must be one of v, eps, got 'x0'"),
    (
        "channel_mults",
        (1, 0),
        "model.channel_mults must be positive whole numbers such as 1,2,2 or 'auto', got (1, 0)",
    ),
    ("data", "mnist", f"data.name must be one of {', '.join(DATA_NAMES)}, got 'mnist'"),
    ("data_dir", "", "data.dir must be a non-empty string, got ''"),
    ("device", True, "train.device must be a non-empty string, got True"),
]


@pytest.mark.parametrize(("name", "value", "message"), OUT_OF_RANGE)
def test_a_setting_out_of_range_is_refused_by_its_dotted_name(name: str, value: Any, message: str) -> None:
    """The error names the option, what was expected, and what came."""
    with pytest.raises(ConfigError) as refused:
        from_options({name: value})

    assert message == str(refused.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": 18}, "data.image_size must be a multiple of 4"),
        ({"patch_size": 9 * 10**4299}, r"data.image_size must be a multiple of int \(model.patch_size 90000"),
        ({"base_channels": 12}, "model.base_channels must be a multiple of 8, got 12"),
        ({"timesteps": 10, "sample_steps": 11}, r"sample.steps must be <= diffusion.timesteps \(10\), got 11"),
        ({"sample_steps": 10**5000}, r"sample.steps must be <= diffusion.timesteps \(1000\), got int"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(values: dict[str, Any], message: str) -> None:
    """What no field can know alone is checked when the configuration is resolved."""
    with pytest.raises(ConfigError, match=message):
        from_options(values).resolve()


def test_an_unknown_setting_is_refused_with_the_list_of_known_ones() -> None:
    """A misspelt name does not pass silently."""
    with pytest.raises(ConfigError, match=r"no such setting: learning_rate; there are data, data_dir, .*lr"):
        from_options({"learning_rate": 1e-3})


@pytest.mark.parametrize(("data", "size", "mults"), [("digits", 16, (1, 2)), ("emnist-letters", 32, (1, 2, 2))])
def test_auto_takes_the_value_of_the_data_set(data: str, size: int, mults: tuple[int, ...]) -> None:
    """Where a default depends on the data it is None until it is resolved."""
    config = from_options({"data": data})

    assert config.as_dict()["data"]["image_size"] is None
    assert size == config.resolve().data.image_size
    assert mults == config.resolve().model.channel_mults


@pytest.mark.parametrize("preset", PRESETS)
def test_what_was_chosen_stands_against_the_value_of_the_preset(preset: str) -> None:
    """Resolving replaces None alone, and resolving twice changes nothing."""
    resolved = from_options({"image_size": 8, "epochs": 3, "base_channels": 16, "preset": preset}).resolve()

    assert (resolved.data.image_size, resolved.train.epochs, resolved.model.base_channels) == (8, 3, 16)
    assert resolved == resolved.resolve()


@pytest.mark.parametrize("data", ["digits", "emnist-byclass"])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_a_value_for_every_setting_that_is_auto(preset: str, data: str) -> None:
    """No None is left, and the help of each such setting says the value."""
    resolved = from_options({"preset": preset, "data": data}).resolve().as_dict()
    auto = [option for option in options() if option.default is None]

    assert not [name for group in resolved.values() for name, value in group.items() if value is None]
    for option in auto:
        value = resolved[option.group][option.field]
        text = ",".join(map(str, value)) if isinstance(value, tuple) else f"{value}"
        assert text in option.help.partition("auto: ")[2].replace(" or", ",")


def test_the_laptops_sizes_are_the_ones_that_the_readme_quotes() -> None:
    """A preset that is renamed or resized shows here first."""
    digits, emnist = Config().resolve(), from_options({"data": "emnist-mnist"}).resolve()

    assert (digits.model.base_channels, digits.train.epochs, digits.train.batch_size) == (32, 20, 64)
    assert (emnist.model.channel_mults, emnist.train.epochs, emnist.train.batch_size) == ((1, 2, 2), 6, 32)


def test_options_describe_every_setting_and_read_their_own_defaults() -> None:
    """A command line made of the options, given their default texts, is the default configuration."""
    every = options()

    assert len(every) == sum(len(group) for group in Config().as_dict().values())
    assert len({option.flag for option in every}) == len(every)
    assert all(option.help for option in every)
    assert Config() == from_options({option.dest: option.type(option.default_text) for option in every})


def test_nested_settings_have_dotted_names() -> None:
    """The mapping behind the run's parameters is grouped as errors name it."""
    told = Config().resolve().as_dict()

    assert (told["data"]["name"], told["model"]["base_channels"], told["optim"]["lr"]) == ("digits", 32, 2e-3)


def test_channel_multipliers_are_typed_with_commas() -> None:
    """The option's parser takes what a person types."""
    (option,) = (o for o in options() if o.field == "channel_mults")

    assert option.type("1,2,4") == (1, 2, 4)
    assert option.type("auto") is None
    with pytest.raises(ValueError, match="x"):
        option.type("1,x")


def test_settings_load_without_torch_numpy_or_mlflow() -> None:
    """``--help`` is derived from them and must come at once."""
    code = "import sys, mlflow_ddpm.ddpm.config.config as c; c.options(); "
    code += "print({'torch', 'numpy', 'mlflow'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "set()"
