"""The model card of an exported run: the ``README.md`` that the Hugging Face Hub shows as the model's page.

It states what the run and its model's ``config.json`` say, and nothing else: no licence, data set or quality is made
up. Foreign text is escaped; every link is relative and leads to a file of the same folder.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_ddpm.analysis.findings.rules import find_findings
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.extra_metrics import FORMER_NAMES, extra_value
from mlflow_ddpm.core.formatting import count_of, format_number
from mlflow_ddpm.core.markdown import Code, Markdown, Table, escape, one_line
from mlflow_ddpm.core.strict_json import flatten
from mlflow_ddpm.core.version import __version__
from mlflow_ddpm.plotting.plot_table import PLOTS
from mlflow_ddpm.report import plot_figure
from mlflow_ddpm.reporting.context import model_results
from mlflow_ddpm.reporting.model_card import Result, data_set_name, front_matter
from mlflow_ddpm.reporting.rendering import markdown_template

# The identifiers that the Hub takes as ``license``; others go into ``license_name``.
# https://huggingface.co/docs/hub/repositories-licenses
_HUB_LICENSES = """
afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0 bigscience-openrail-m bsd
bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0
cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0
cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m
ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 gfdl gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr lppl-1.3c mit
mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openrail openrail++ osl-3.0 pddl postgresql unlicense wtfpl zlib
"""
_NO_LICENSE = {"license": "other", "license_name": "none-chosen"}
_SNIPPET_CLASSES = 3
_NAMED_CLASSES = 100
_SNIPPET = """import numpy as np
from PIL import Image

from mlflow_ddpm import load_model

model = load_model(".")  # reads model.safetensors and config.json, on a CPU
images = model.sample({names}, seed=0)  # ({count}, {side}, {side}) uint8
Image.fromarray(np.hstack(images)).save("drawn.png")"""


def license_fields(given: str) -> dict[str, str]:
    """Return the card's licence: an identifier of the Hub, or ``other`` with a name; ``""`` if none is given."""
    given = one_line(given)
    if given and given.lower() in _HUB_LICENSES.split():
        return {"license": given.lower()}
    name = re.sub(r"[^a-z0-9.]+", "-", given.lower()).strip("-.")
    return {"license": "other", "license_name": name} if name not in ("", "other", "unknown") else _NO_LICENSE


def render_card(
    history: RunHistory,
    model: Mapping[str, Any],
    *,
    parameters: int,
    license_name: str,
    plots: Mapping[str, str],
    samples: Sequence[str],
) -> str:
    """Return the card, header first.

    Args:
        history: without credentials.
        model: the content of the model's ``config.json``.
        parameters: how many the model has.
        license_name: as the user gave it; "" if none was.
        plots: link by name of the plot.
        samples: links, the newest last.
    """
    names, side = model["class_names"], model["architecture"]["image_size"]
    shown = names[:_SNIPPET_CLASSES]
    data_name = _data_name(history, model)
    title = one_line(str(history.run.get("run_name") or "")) or f"DDPM of {data_name}"
    results = _results(history)
    measured = [extra_value(row.extra, "sample/accuracy") for row in history.rows]
    accuracy = next((value for value in reversed(measured) if value is not None), None)
    titles = {plot.name: plot.title for plot in PLOTS}
    others = [f"[{escape(titles[n])}]({link})" for n, link in plots.items() if n != "training_dashboard"]
    dashboard = plots.get("training_dashboard")
    split = re.fullmatch("emnist-([a-z]+)", data_name)
    count = flatten(history.config).get("data.train_images", "")
    about_license = license_fields(license_name)
    return markdown_template("hub_card.md.j2").render(
        samples=samples,
        header=about_license | _header(title, data_name, results),
        title=title,
        version=__version__,
        side=side,
        classes=count_of(len(names), "class", "classes"),
        names=[Code(name) for name in names[:_NAMED_CLASSES]],
        more_names=len(names) - _NAMED_CLASSES,
        snippet=_SNIPPET.format(names=json.dumps(shown, ensure_ascii=False), count=len(shown), side=side),
        properties=_model_table(model, parameters),
        data_name=data_name,
        split=split and split[1],
        images=f"{int(count):,} images" if re.fullmatch("[0-9]{1,9}", count) else "Images",
        accuracy=None if accuracy is None else f"{accuracy:.1%}",
        epochs=count_of(history.summary.epochs, "epoch"),
        recorder=f"mlflow_ddpm {model.get('mlflow_ddpm_version')}",
        results=Table(("Result", "Value"), [(label, format_number(v)) for _, label, v in results], "lr"),
        findings=[finding for finding in find_findings(history) if finding.severity in ("error", "warning")],
        dashboard=dashboard and plot_figure("training_dashboard", dashboard, history),
        other_plots=Markdown(", ".join(others)),
        license_name=license_name,
        license={"license_name": ""} | about_license,
    )


def _header(title: str, data_name: str, results: Sequence[Result]) -> dict[str, Any]:
    """Return the YAML header. Its model index names the data, but no data set of the Hub: none is known to be it."""
    header = front_matter(name=title, config={}, results=results)
    header["tags"] = ["ddpm", "diffusion", "image-generation", "class-conditional", "mlflow"]
    for entry in header.get("model-index", ()):
        for result in entry["results"]:
            result["dataset"] = {"type": "unknown", "name": data_name}
    return header


def _results(history: RunHistory) -> list[Result]:
    """Return the numbers of the model index: the loss, and the sample quality where it was measured."""
    results = [(FORMER_NAMES.get(name, name), text, value) for name, text, value in model_results(history)]
    return [result for result in results if result[0].startswith(("loss", "sample/"))]


def _model_table(model: Mapping[str, Any], parameters: int) -> Table:
    diffusion, sample, side = model["diffusion"], model["sample"], model["architecture"]["image_size"]
    predicted = {"eps": "the noise (eps)", "v": "the velocity (v)"}
    rows = [
        ("Network", f"U-Net with {parameters:,} parameters, conditioned on timestep and class"),
        ("Images", f"{side} x {side}, one channel, in [-1, 1]"),
        ("Noising", f"{diffusion.get('schedule', 'cosine')} schedule, {diffusion['timesteps']} timesteps"),
        ("Predicts", predicted.get(diffusion["prediction"], diffusion["prediction"])),
        (
            "Sampler as used in the run",
            f"{sample['sampler']}, {sample['steps']} steps, guidance scale {sample['guidance_scale']:g}",
        ),
        ("Weights", "exponential moving average (EMA) over the training, float32, safetensors"),
    ]
    return Table(("Property", "Value"), rows, "ll")


def _data_name(history: RunHistory, model: Mapping[str, Any]) -> str:
    trained_on = model.get("trained_on")
    name = trained_on if isinstance(trained_on, str) else data_set_name(history.config) or ""
    return one_line(name)[:100] or "unknown"
