"""The model card of an exported run: the ``README.md`` that the Hugging Face Hub shows as the model's page.

It states what the run and its model's ``config.json`` say, and nothing else: no licence, data set or quality is made
up. Foreign text is escaped; every link is relative and leads to a file of the same folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mlflow_ddpm.analysis.findings.rules import find_findings
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.extra_metrics import FORMER_NAMES, extra_value
from mlflow_ddpm.core.formatting import count_of, format_number
from mlflow_ddpm.core.markdown import Code, Markdown, Table, code, escape, fence, image_link, one_line, table
from mlflow_ddpm.core.version import __version__
from mlflow_ddpm.plotting.plot_table import PLOTS, describe_plot
from mlflow_ddpm.reporting.context import model_results
from mlflow_ddpm.reporting.model_card import Result, data_set_name, front_matter, yaml_header

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
_DIGITS = (
    "The digits that scikit-learn contains: the test part of Alpaydin and Kaynak, *Optical Recognition of Handwritten "
    "Digits*, UCI Machine Learning Repository, 1998; 1,797 images of 8 x 8 pixels with 17 grey levels, of which 297 "
    "were held out."
)
_EMNIST = (
    "EMNIST, split `{split}`: Cohen, Afshar, Tapson and van Schaik, *EMNIST: an extension of MNIST to handwritten "
    "letters*, 2017; images of 28 x 28 pixels made from NIST Special Database 19. The split's training part was used."
)


class HubCard(NamedTuple):
    """What a card is made of."""

    history: RunHistory  # without credentials
    model: Mapping[str, Any]  # the content of the model's config.json
    parameters: int
    license: str  # as the user gave it; "" if none was
    plots: Mapping[str, str]  # link by name of the plot
    samples: Sequence[str]  # links, the newest last


def license_fields(given: str) -> dict[str, str]:
    """Return the card's licence: an identifier of the Hub, or ``other`` with a name; ``""`` if none is given."""
    given = one_line(given)
    if given and given.lower() in _HUB_LICENSES.split():
        return {"license": given.lower()}
    name = re.sub(r"[^a-z0-9.]+", "-", given.lower()).strip("-.")
    return {"license": "other", "license_name": name} if name not in ("", "other", "unknown") else _NO_LICENSE


def render_card(card: HubCard) -> str:
    """Return the card, header first."""
    return "\n\n".join([yaml_header(_header(card)), *_body(card)]) + "\n"


def _header(card: HubCard) -> dict[str, Any]:
    """Return the YAML header. Its model index names the data, but no data set of the Hub: none is known to be it."""
    header = front_matter(name=_title(card), config={}, results=_results(card.history))
    header["tags"] = ["ddpm", "diffusion", "image-generation", "class-conditional", "mlflow"]
    for entry in header.get("model-index", ()):
        for result in entry["results"]:
            result["dataset"] = {"type": "unknown", "name": _data_name(card)}
    return license_fields(card.license) | header


def _results(history: RunHistory) -> list[Result]:
    """Return the numbers of the model index: the loss, and the sample quality where it was measured."""
    results = [(FORMER_NAMES.get(name, name), text, value) for name, text, value in model_results(history)]
    return [result for result in results if result[0].startswith(("loss", "sample/"))]


def _body(card: HubCard) -> Iterator[str]:
    model = card.model
    names, side = model["class_names"], model["architecture"]["image_size"]
    yield f"# {escape(_title(card))}"
    if card.samples:
        yield image_link(card.samples[-1], "Samples of the trained model, a row for each class")
    yield (
        f"A class-conditional denoising diffusion model (DDPM) that draws grey images of {side} x {side} pixels, of "
        f"{count_of(len(names), 'class', 'classes')}: {_listed(names)}."
    )
    yield from _usage(card)
    yield "## Model"
    yield table(_model_table(card))
    yield "## Training data"
    yield _data(card)
    yield from _limits(card)
    yield from _training(card)
    yield "## License"
    yield _license_note(card.license)


def _usage(card: HubCard) -> Iterator[str]:
    names = card.model["class_names"][:_SNIPPET_CLASSES]
    side = card.model["architecture"]["image_size"]
    yield "## Usage"
    yield (
        f"This needs the Python package `mlflow_ddpm` (version {__version__} or later). Fetch this repository, with "
        "`USER/NAME` as it stands at the top of its page:"
    )
    yield fence("hf download USER/NAME --local-dir model\ncd model", "bash")
    yield "Then, in that folder:"
    shape = f"({len(names)}, {side}, {side})"
    lines = (
        "import numpy as np",
        "from PIL import Image",
        "",
        "from mlflow_ddpm import load_model",
        "",
        'model = load_model(".")  # reads model.safetensors and config.json, on a CPU',
        f"images = model.sample({json.dumps(names, ensure_ascii=False)}, seed=0)  # {shape} uint8",
        'Image.fromarray(np.hstack(images)).save("drawn.png")',
    )
    yield fence("\n".join(lines), "python")
    yield (
        "`model.sample` also takes `per_class`, `steps` and `guidance_scale`; `model.unet` is the network by itself, a "
        "`torch.nn.Module`."
    )


def _model_table(card: HubCard) -> Table:
    diffusion, sample = card.model["diffusion"], card.model["sample"]
    side = card.model["architecture"]["image_size"]
    predicted = {"eps": "the noise (eps)", "v": "the velocity (v)"}.get(
        diffusion["prediction"], diffusion["prediction"]
    )
    rows = [
        ("Network", f"U-Net with {card.parameters:,} parameters, conditioned on timestep and class"),
        ("Images", f"{side} x {side}, one channel, in [-1, 1]"),
        ("Noising", f"{diffusion.get('schedule', 'cosine')} schedule, {diffusion['timesteps']} timesteps"),
        ("Predicts", predicted),
        (
            "Sampler as used in the run",
            f"{sample['sampler']}, {sample['steps']} steps, guidance scale {sample['guidance_scale']:g}",
        ),
        ("Weights", "exponential moving average (EMA) over the training, float32, safetensors"),
    ]
    return Table(("Property", "Value"), rows, "ll")


def _data(card: HubCard) -> str:
    name = _data_name(card)
    if name == "digits":
        return _DIGITS
    if re.fullmatch("emnist-[a-z]+", name):
        return _EMNIST.format(split=name.removeprefix("emnist-"))
    return f"The run calls its training data {code(name)}; nothing more is known of it here."


def _limits(card: HubCard) -> Iterator[str]:
    measured = [extra_value(row.extra, "sample/accuracy") for row in card.history.rows]
    accuracy = next((value for value in reversed(measured) if value is not None), None)
    quality = (
        "How good its samples are was not measured in this run: look at them."
        if accuracy is None
        else f"A classifier trained on real images names {accuracy:.1%} of its samples as the class asked for; the "
        "others are of a wrong class, or cannot be read."
    )
    yield "## Intended use and limits"
    classes = count_of(len(card.model["class_names"]), "class", "classes")
    purpose = (
        "For teaching, and for experiments with diffusion models and samplers. It is not made to recognise writing, "
        "and not to be the basis of decisions about people."
    )
    limits = (
        purpose,
        f"It draws the {classes} above, in the style of its training data, and nothing else.",
        quality,
        "A diffusion model may repeat images that it was trained on. Whether this one does was not examined.",
        "All numbers here are those of one training with one seed, measured by the program that trained it.",
    )
    yield "\n".join(f"- {limit}" for limit in limits)


def _training(card: HubCard) -> Iterator[str]:
    history = card.history
    yield "## Training"
    results = _results(history)
    length = count_of(history.summary.epochs, "epoch")
    version = card.model.get("mlflow_ddpm_version")
    yield f"{length}, recorded by {code(f'mlflow_ddpm {version}')}; `training_metrics.csv` has a row for each."
    if results:
        rows = [(label, format_number(value)) for _, label, value in results]
        yield table(Table(("Result", "Value"), rows, "lr"))
    findings = [finding for finding in find_findings(history) if finding.severity in ("error", "warning")]
    if findings:
        yield "What the rules of `mlflow_ddpm` found in these numbers:"
        yield "\n".join(
            Markdown(f"- **{escape(f.label)}: {escape(f.title)}**, {escape(f.where)}. {escape(f.sentence)}")
            for f in findings
        )
    titles = {plot.name: plot for plot in PLOTS}
    dashboard = card.plots.get("training_dashboard")
    if dashboard:
        yield image_link(dashboard, titles["training_dashboard"].title)
        reading = describe_plot("training_dashboard", history)
        yield f"*{titles['training_dashboard'].caption}* {reading}".rstrip()
    others = [f"[{escape(titles[n].title)}]({link})" for n, link in card.plots.items() if n != "training_dashboard"]
    if others:
        yield f"Each plot by itself: {', '.join(others)}."


def _license_note(given: str) -> str:
    fields = license_fields(given)
    if fields == _NO_LICENSE:
        return (
            "None was chosen, so the header has `other`. Without a license only the author may use or pass on "
            "the model; whoever publishes it names one, as `license` in the header."
        )
    if fields["license"] != "other":
        return f"{code(fields['license'])}, for the files of this repository; the training data has its own."
    return (
        f"{escape(one_line(given))}, which the Hub does not know by name. Put its text into this "
        "repository, as `LICENSE`."
    )


def _title(card: HubCard) -> str:
    return one_line(str(card.history.run.get("run_name") or "")) or f"DDPM of {_data_name(card)}"


def _data_name(card: HubCard) -> str:
    trained_on = card.model.get("trained_on")
    name = trained_on if isinstance(trained_on, str) else data_set_name(card.history.config) or ""
    return one_line(name)[:100] or "unknown"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(escape(Code(name)) for name in names[:_NAMED_CLASSES])
    return shown + (f" and {len(names) - _NAMED_CLASSES} more" if len(names) > _NAMED_CLASSES else "")
