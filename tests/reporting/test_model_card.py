"""The report's header is what HuggingFace reads, and says no more than is known."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from huggingface_hub import ModelCard

from mlflow_ddpm.reporting.model_card import Result, data_set_name, front_matter, yaml_header

LOSS: Sequence[Result] = [("loss", "Training loss", 1e-05)]


def card(config: Mapping[str, Any], *, name: str = "owl", results: Sequence[Result] = LOSS) -> Any:
    """Return the header's data, as HuggingFace's own parser reads it."""
    return ModelCard(yaml_header(front_matter(name=name, config=config, results=results)) + "\n\n# Title\n").data


def test_the_header_names_library_task_data_licence_and_results() -> None:
    """Floats survive YAML, which reads 1e-05 as text."""
    data = card({"data": {"name": "digits"}, "license": "MIT"}, results=[*LOSS, ("fid", "fid (epoch 1)", 12.5)])

    assert (data.library_name, data.pipeline_tag) == ("pytorch", "unconditional-image-generation")
    assert (data.license, data.datasets, data.model_name) == ("mit", ["digits"], "owl")
    assert {"ddpm", "diffusion", "mlflow"} <= set(data.tags)
    assert [(r.metric_type, r.metric_name, r.metric_value) for r in data.eval_results] == [
        ("loss", "Training loss", 1e-05),
        ("fid", "fid (epoch 1)", 12.5),
    ]
    assert {r.dataset_name for r in data.eval_results} == {"digits"}


def test_the_header_makes_nothing_up() -> None:
    """Without a config there is no licence, no data set and no word on classes; without results no evaluation."""
    data = card({}, results=[])

    assert (data.license, data.datasets, data.eval_results) == (None, None, None)
    assert not {"class-conditional", "unconditional"} & set(data.tags)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model": {"num_classes": 10}}, "class-conditional"),
        ({"sample": {"guidance_scale": 2.0}}, "class-conditional"),
        ({"num_classes": 0}, "unconditional"),
    ],
)
def test_a_tag_says_whether_the_model_knows_classes(config: Mapping[str, Any], expected: str) -> None:
    """The config tells by a number of classes, or by guidance, which needs them."""
    assert {"class-conditional", "unconditional"} & set(card(config).tags) == {expected}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"data": {"name": "digits"}}, "digits"),
        ({"dataset": "org/set"}, "org/set"),
        ({"data": {"name": None}, "dataset": {"name": "b"}}, "b"),
        ({"data": {"dir": "x"}}, None),
        ({}, None),
    ],
)
def test_the_data_set_is_found_where_configs_name_it(config: Mapping[str, Any], expected: str | None) -> None:
    """Nested or flat, and None where there is none."""
    assert data_set_name(config) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"license": "Our own terms!"}, {"license": "other", "license_name": "Our own terms!"}),
        ({"dataset": "org/set-1.0"}, {"datasets": ["org/set-1.0"]}),
        ({"data": {"name": "my data | set"}}, {"datasets": None}),
        ({"data": {"name": "☃"}}, {"datasets": None}),
    ],
)
def test_identifiers_keep_to_the_patterns_that_the_hub_accepts(
    config: Mapping[str, Any], expected: Mapping[str, Any]
) -> None:
    """Free text stands only where the Hub takes free text."""
    data = card(config)

    assert {key: getattr(data, key, None) for key in expected} == expected
    assert re.fullmatch(r"([\w\-]+/)?[\w\-.]+", data.eval_results[0].dataset_type, re.ASCII)


@pytest.mark.parametrize(
    "text", ["a\n---\nb", "null", "1.5", "yes", "<b>", "[x](y)", "`", "\ud800", "- a: b", "#", "---"]
)
def test_no_name_ends_the_header_or_changes_its_type(text: str) -> None:
    """A name stays that name, on one line, and shows no markup to a viewer without YAML."""
    config = {"data": {"name": text}, "license": text}
    header = yaml_header(front_matter(name=text, config=config, results=LOSS))
    data: Any = ModelCard(header + "\n").data

    assert data.model_name == re.sub(r"[\s\ud800]+", " ", text).strip()
    assert header.count("\n---") == 1
    assert not re.search(r"[<`\[]", header)
