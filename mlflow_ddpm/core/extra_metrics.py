"""The further metrics of the included pipeline, and what a name of an extra metric may be."""

import re
from collections.abc import Iterable, Mapping

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.formatting import short_repr
from mlflow_ddpm.core.metrics import METRICS, Metric

# Label and meaning of what ``mlflow-ddpm train`` records, sample quality first. MLflow's page has a section a folder.
_PIPELINE = {
    "sample/accuracy": (
        "Sample accuracy, guidance 2",
        "Share of samples at guidance 2, equally many of each class, that a classifier assigns to the requested class.",
    ),
    "sample/accuracy_g1": (
        "Sample accuracy, guidance 1",
        "Share of samples at guidance 1, plain sampling, that the classifier assigns to the requested class.",
    ),
    "sample/classifier_accuracy": (
        "Classifier accuracy",
        "Share of held-out real images that the classifier assigns to their class.",
    ),
    "sample/frechet": (
        "Sample Fréchet distance, guidance 2",
        "Squared Fréchet distance of samples at guidance 2 from real images, in the classifier's feature space.",
    ),
    "sample/frechet_g1": (
        "Sample Fréchet distance, guidance 1",
        "Squared Fréchet distance of samples at guidance 1 from real images, in the classifier's feature space.",
    ),
    "sample/real_frechet": (
        "Fréchet distance of real halves",
        "Squared Fréchet distance of two halves of real images, each as many as the samples: a perfect model's value.",
    ),
    **{
        f"loss_t/q{quarter}": (
            f"Loss, timestep quartile {quarter}",
            f"Mean loss of the images whose timestep lay in the {where} quarter, over all ranks.",
        )
        for quarter, where in enumerate(("first, least noisy", "second", "third", "last, noisiest"), start=1)
    },
    **{
        f"grad_part/{part}": (
            f"Gradient norm, {part}",
            f"Mean over batches of the L2 norm of the gradients of {what}, before clipping.",
        )
        for part, what in (
            ("embedding", "the timestep's and the class's embeddings"),
            ("encoder", "the stem and the down-sampling half of the U-Net"),
            ("middle", "the blocks between the two halves, at the lowest resolution"),
            ("decoder", "the up-sampling half and the head"),
        )
    },
    "update/weight_ratio": (
        "Update to weight",
        "L2 norm of the weights' change in the epoch's last step, divided by that of the weights; about 1e-3 is usual.",
    ),
    "time/data_sec": (
        "Data time",
        "Part of `epoch_time_sec` in which rank 0's CPU fetched batches and drew their noise.",
    ),
    "time/maintenance_sec": (
        "Maintenance time",
        "Time outside `epoch_time_sec`: this epoch's sample grid and evaluation, and the previous epoch's checkpoint.",
    ),
}
INSIGHT = "Diagnostics"
PIPELINE_METRICS: tuple[Metric, ...] = tuple(
    Metric(
        name,
        label,
        unit="s" if name.startswith("time/") else "",
        category="Sample Quality" if name.startswith("sample/") else INSIGHT,
        meaning=meaning,
    )
    for name, (label, meaning) in _PIPELINE.items()
)
# Names of runs recorded before the extras had folders; such runs keep them, and are labelled as today's.
FORMER_NAMES = {
    "sample_accuracy": "sample/accuracy",
    "sample_accuracy_g1": "sample/accuracy_g1",
    "judge_accuracy": "sample/classifier_accuracy",
    "sample_frechet": "sample/frechet",
    "sample_frechet_g1": "sample/frechet_g1",
    "real_frechet": "sample/real_frechet",
    **{f"loss_t_q{quarter}": f"loss_t/q{quarter}" for quarter in (1, 2, 3, 4)},
    **{f"grad_norm_{part}": f"grad_part/{part}" for part in ("embedding", "encoder", "middle", "decoder")},
    "update_to_weight": "update/weight_ratio",
    "data_sec": "time/data_sec",
    "maintenance_sec": "time/maintenance_sec",
}

_BY_NAME = {m.name: m for m in METRICS}
_KNOWN = _BY_NAME | {m.name: m for m in PIPELINE_METRICS}


def metric(name: str) -> Metric:
    """Return the entry of a name, or of its former name; a name in neither table is its own label."""
    entry = _KNOWN.get(FORMER_NAMES.get(name, name))
    if entry is not None:
        return entry if entry.name == name else entry._replace(name=name)
    return Metric(name, name, "", "Extra", "Recorded by the training loop.")


def extra_value(extra: Mapping[str, float | None], name: str) -> float | None:
    """Return a row's extra by its name of today, whichever name the run recorded it under; None if it has neither."""
    former = next((old for old, new in FORMER_NAMES.items() if new == name), name)
    return extra.get(name, extra.get(former))


def axis_label(name: str) -> str:
    """Return ``"Label (unit)"``, or the label alone where there is no unit."""
    m = metric(name)
    return f"{m.label} ({m.unit})" if m.unit else m.label


# What MLflow's own validation admits (mlflow/utils/validation.py), less "." and ".." as path parts: the file store
# makes folders of the parts. Commas, quotes and line breaks are out, so a name needs no quoting in a CSV header.
_KEY = re.compile(r"[\w\-. :]+(/[\w\-. :]+)*")
_KEY_MAX = 250
_OWN_FOLDERS = ("live", "summary")  # of points within an epoch, and of the key results of the run
_RESERVED = frozenset(_BY_NAME) | {"logged_at_ms"}


def check_new_extra_names(names: Iterable[str], known: Iterable[str] = ()) -> None:
    """Raise UsageError for names of extras that no loop may give; ``known`` has those of its earlier rows."""
    for name in names:
        folder = name.partition("/")[0] if isinstance(name, str) else ""
        if folder in _OWN_FOLDERS:
            raise UsageError(f"the metric folder {folder}/ is taken; give {name!r} another name, such as 'my_{name}'")
    check_extra_names([*known, *names])


def check_extra_names(names: Iterable[str]) -> None:
    """Raise UsageError for a name that MLflow would refuse, that the table uses, or that starts with ``system/``.

    And for two names of which one is a folder of the other (``a`` and ``a/b``), which a file store cannot hold.
    """
    names = list(names)
    for name in names:
        if not isinstance(name, str):
            raise UsageError(f"extra metric names must be strings, got {short_repr(name)}")
        parts = name.split("/")
        if len(name) > _KEY_MAX or not _KEY.fullmatch(name) or {".", ".."} & set(parts):
            raise UsageError(
                f"MLflow would refuse the metric name {short_repr(name)}: use letters, digits and _ - . : / or space, "
                f"no empty part between slashes, {_KEY_MAX} characters at most"
            )
        if name in _RESERVED or parts[0] == "system":
            raise UsageError(f"the metric name {name!r} is taken; choose another, such as {'my_' + parts[-1]!r}")
    folders = {n.rsplit("/", i)[0] for n in names for i in range(1, n.count("/") + 1)}
    clash = sorted((folders & set(names)) | (folders & _RESERVED))
    if clash:
        raise UsageError(
            f"{clash[0]!r} cannot be both a metric and a folder of metrics; a file store holds only one. Rename either"
        )
