"""The YAML header that makes the report a HuggingFace model card.

Only what the config and the history say is stated: no licence, data set or figure is made up. The Hub refuses a card
whose identifiers break its patterns, so names that are no identifiers appear only where free text is allowed.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_ddpm.core.markdown import Markdown, one_line
from mlflow_ddpm.core.strict_json import flatten

Result = tuple[str, str, float]  # metric type, its description, value: finite

_TASK = "unconditional-image-generation"  # the Hub has no task of its own for class-conditional generation
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[\w.\-]+)?", re.ASCII)
_LICENSE_ID = re.compile(r"[a-z0-9][a-z0-9.\-]*")
_DATA_KEYS = ("data.name", "dataset.name", "data", "dataset")
_CLASS_COUNT_KEYS = ("num_classes", "n_classes")
_GUIDANCE_KEYS = ("class_dropout", "guidance_scale")  # classifier-free guidance guides towards a class


def data_set_name(config: Mapping[str, Any]) -> str | None:
    """Return the data set that the config names, in ``data.name`` or one of its usual other places."""
    leaves = flatten(config)
    names = (one_line(leaves.get(key, "")) for key in _DATA_KEYS)
    return next((name for name in names if name not in ("", "None")), None)


def front_matter(*, name: str, config: Mapping[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    """Return the header's content; ``model-index`` is there only if there are results to state."""
    data = data_set_name(config)
    card: dict[str, Any] = {"library_name": "pytorch", "pipeline_tag": _TASK, "tags": _tags(config)}
    card |= _license(config)
    if data and _HUB_ID.fullmatch(data):
        card["datasets"] = [data]
    if results:
        card["model-index"] = [{"name": one_line(name), "results": [_evaluation(data, results)]}]
    return card


def yaml_header(card: Mapping[str, Any]) -> Markdown:
    """Return the header between its two lines of dashes. No value can end it or begin markup after it.

    A viewer that does not know YAML headers shows this text as Markdown; hence the escapes, which are YAML's own.
    """
    import yaml

    class Dumper(yaml.SafeDumper):
        """Double-quotes every text that is not obviously harmless."""

    def represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
        style = None if re.fullmatch(r"[\w .,()/\-]+", text) else '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Dumper.add_representer(str, represent)
    text = yaml.dump(dict(card), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=float("inf"))
    return Markdown("---\n" + re.sub(r"[<\[`]", lambda m: f"\\x{ord(m[0]):02X}", text) + "---")


def _tags(config: Mapping[str, Any]) -> list[str]:
    """Return the tags; whether the model is class-conditional is stated only if the config does."""
    leaves = {key.rsplit(".", 1)[-1]: value for key, value in flatten(config).items()}
    counts = [leaves[key] for key in _CLASS_COUNT_KEYS if key in leaves]
    conditional = any(key in leaves for key in _GUIDANCE_KEYS) or any(c.isdecimal() and int(c) > 0 for c in counts)
    kind = ["class-conditional"] if conditional else ["unconditional"] if "0" in counts else []
    return ["ddpm", "diffusion", "image-generation", *kind, "mlflow"]


def _license(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the licence if the config has one; free text goes where the Hub takes free text."""
    given = one_line(str(config.get("license") or ""))
    if not given:
        return {}
    if _LICENSE_ID.fullmatch(given.lower()):
        return {"license": given.lower()}
    return {"license": "other", "license_name": given}


def _evaluation(data: str | None, results: Sequence[Result]) -> dict[str, Any]:
    # The Hub demands a data set; if the config names no data set, the card has `unknown`.
    identifier = re.sub(r"[^\w.\-]+", "-", data or "", flags=re.ASCII).strip("-.") or "unknown"
    return {
        "task": {"type": _TASK},
        "dataset": {"type": identifier, "name": data or "unknown"},
        "metrics": [
            {"type": one_line(kind), "name": one_line(words), "value": float(value)} for kind, words, value in results
        ],
    }
