"""The page of all settings, generated from the models that validate them.

python -m supply.configuration
"""

import json
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from lance_pipeline.orchestration.assets.lance_splits import SplitsConfig
from lance_pipeline.orchestration.assets.model import TrainingConfig
from lance_pipeline.orchestration.attributes import ImageClassifierAttributes
from lance_pipeline.orchestration.resources import FOLDER_VARIABLES, default_resources
from lance_pipeline.orchestration.trials.job import ExperimentConfig
from supply.lock import ROOT

PAGE = ROOT / "docs" / "configuration.md"

_INTRODUCTION = """\
<!-- Written by `make docs` from the models in the code: change the descriptions there. -->
# Configuration

[A dataset](#a-dataset) is configured by its `defs.yaml`, the [resources](#resources) are shared by all datasets, a
[run](#runs) may set a little more, and [environment variables](#environment-variables) say where things are.

`lance-pipeline new` looks at a folder of images and writes a `defs.yaml`. Whatever is wrong with such a file is named
with file, line, key, the nearest known key and an example. The dataset is then a group of one asset that fails with
this error, the others load, and `dagster definitions validate` and `dg check yaml` fail.
"""
_DATASET = """\
The keys below `attributes` of a `defs.yaml`. All of them are optional but `source`. `{{ env.NAME }}` takes a value from
an environment variable.
"""
_RESOURCES = """\
`lance_pipeline.orchestration.resources.default_resources()` makes them. A run's configuration may set the fields that
are marked, and no path, address or credential. Every field takes `dg.EnvVar` as well, `dg.EnvVar.int` where it is a
number:

```python
default_resources(LanceStore(models=dg.EnvVar("TEAM_MODELS"), cache="/nvme/cache"))
```

A variable is read in the process that uses the value. Dagster's page of the resource shows the name of the variable
and never what is in it. Hand `LanceStore` to `default_resources`, so that the IO manager keeps its records there too.
The commands (`summary`, `disk`, `verify`, `reproduce`) and `make ui` know the [variables](#environment-variables) only:
prefer these where the folders are the whole deployment's.
"""
_RUNS = """\
What the launchpad, `--config` or `--config-json` of one run may set, below `ops: <dataset>__<op>: config:`.
"""
_VARIABLES = """\
Variables that people may set. Credentials belong here, not into a `defs.yaml`: they are left out of all that is stored
or shown.
"""
_INTERNAL = """\
The pipeline sets these for its own processes, or reads what another tool sets. Leave them alone.
"""

VARIABLES: dict[str, str] = {
    "LANCE_PIPELINE_DATA": "The data folder, an absolute path; `data` in the project when unset. With an object-store "
    "URI such as `s3://bucket/data` the Lance datasets are there, and everything else stays in `data`.",
    "LANCE_PIPELINE_DEVICE": "`device` of the resource `gpu`: `cpu`, `mps`, `cuda`, `cuda:1`, or several with commas "
    "between them.",
    "LANCE_PIPELINE_PRECISION": "`precision` of the resource `gpu`: `fp32`, `bf16` or `fp16`.",
    "LANCE_PIPELINE_THREADS": "`threads` of the resource `gpu`.",
    "LANCE_PIPELINE_EXCLUSIVE": "`exclusive` of the resource `gpu`: `true` or `false`.",
    **{variable: f"`{name}` of the resource `lance_store`." for name, variable in FOLDER_VARIABLES.items()},
    "LANCE_PIPELINE_MLFLOW_UI": "`ui_url` of the resource `mlflow`.",
    "LANCE_PIPELINE_MLFLOW_UNREACHABLE": "`on_unreachable` of the resource `mlflow`: `fail` or `continue`.",
    "LANCE_PIPELINE_UI_HOSTS": "Further names with ports, with commas between them, under which `make ui` may be "
    "opened, such as `localhost:8888`.",
    "LANCE_PIPELINE_CACHE": "The folder of decoded images of an `ImageLoader` outside of Dagster, unless its "
    "`CachePlace` names one; `lance_pipeline` in `XDG_CACHE_HOME` when unset.",
    "DAGSTER_HOME": "The Dagster instance, an absolute path; commands of `lance-pipeline` take `dagster` in the data "
    "folder when unset. `make` writes it to `.env`, which Dagster reads.",
    "MLFLOW_TRACKING_URI": "The tracking server or database; `mlflow/mlflow.db` in the data folder when unset. A user "
    "and a password in it are neither shown nor stored.",
    "MLFLOW_TRACKING_USERNAME": "The user for the tracking server; set from `MLFLOW_TRACKING_URI` where that has one.",
    "MLFLOW_TRACKING_PASSWORD": "Its password, likewise.",
    "OPENCV_FOR_THREADS_NUM": "OpenCV's threads in the pipeline's own processes; 1 when unset, because ingest and "
    "loaders have threads of their own.",
    "MALLOC_ARENA_MAX": "glibc's arenas in the pipeline's own processes; one for each core when unset.",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "How often a request to the tracking server is repeated; 1 when unset.",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "Seconds to wait for an answer of the tracking server; 30 when unset.",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "Whether MLflow shows progress bars; `false` when unset.",
    "MLFLOW_LOGGING_LEVEL": "The level of MLflow's own log; `WARNING` when unset.",
    "MLFLOW_DISABLE_TELEMETRY": "Whether MLflow sends no usage data to its makers; `true` under `make`, which writes "
    "it to `.env` too, and in the UI.",
    "PYTHONWARNINGS": "Which warnings of Python libraries are shown; `ignore` when unset, `default` shows them.",
    "XDG_RUNTIME_DIR": "Holds the locks of devices; `~/.local/state/lance-pipeline` when there is none of your own.",
    "XDG_CACHE_HOME": "The user's cache folder; `~/.cache` when unset.",
    "AWS_ACCESS_KEY_ID": "For object stores.",
    "AWS_SECRET_ACCESS_KEY": "For object stores.",
    "AWS_SESSION_TOKEN": "For object stores, with temporary credentials.",
    "AWS_REGION": "For object stores; `AWS_DEFAULT_REGION`, then `us-east-1` when unset.",
    "AWS_DEFAULT_REGION": "Where `AWS_REGION` is unset.",
    "AWS_ENDPOINT_URL": "The address of an object store of your own.",
    "AWS_ENDPOINT_URL_S3": "The same, taken first.",
}
"""Variables that users may set, and what they set."""

INTERNAL: dict[str, str] = {
    "LANCE_PIPELINE_COMMAND": "The command that was typed, for the line that says how to resume.",
    "DAGSTER_IS_DEV_CLI": "Set for the servers of the UI: a wrong definition is shown without Dagster's stack trace.",
    "DAGSTER_IS_DEFS_VALIDATION_CLI": "Set by `dagster definitions validate`, which then fails for a broken dataset.",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "Set for MLflow's server behind `make ui`.",
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "The same: the guard of `make ui` checks hosts in its place.",
    "_MLFLOW_SERVER_FILE_STORE": "The same.",
    "_MLFLOW_SERVER_ARTIFACT_ROOT": "The same.",
    "_MLFLOW_SERVER_ARTIFACT_DESTINATION": "The same.",
    "_MLFLOW_SERVER_SERVE_ARTIFACTS": "The same.",
    "PYTHONUNBUFFERED": "Set for the process that `lance-pipeline run` starts, whose lines it shows at once.",
    "PYTHONPATH": "Set for the processes of an ingest, which import what their parent can import.",
}
"""Variables that users need not set, and their purpose."""

_KINDS = {bool: "`true`, `false`", int: "integer", float: "number", str: "text", Any: "any value"}
_CONTAINERS = {list: "list of {0}", tuple: "list of {count} {0}s", dict: "mapping of {0} to {1}"}
_LIMITS = {"ge": "from", "gt": "above", "le": "up to", "lt": "below"}
_RUN_CONFIGS = {"<network>": TrainingConfig, "lance_splits": SplitsConfig, "experiment": ExperimentConfig}


def page() -> str:
    """The page in Markdown."""
    dataset = "\n".join(_sections(ImageClassifierAttributes, ""))
    return "\n".join(
        [
            _INTRODUCTION,
            "## A dataset\n",
            _DATASET,
            dataset,
            "## Resources\n",
            _RESOURCES,
            *(_resource(key, resource) for key, resource in default_resources().items()),
            "## Runs\n",
            _RUNS,
            *(_table(f"`{op}`", config, "###") for op, config in _RUN_CONFIGS.items()),
            "## Environment variables\n",
            _VARIABLES,
            _variables(VARIABLES),
            "### Internal variables\n",
            _INTERNAL,
            _variables(INTERNAL),
        ]
    )


def _sections(model: type[BaseModel], key: str) -> Iterator[str]:
    """The table of a model's fields, then those of the models inside it."""
    yield _table(f"`{key}`" if key else "", model, "###")
    for name, field in model.model_fields.items():
        for inner in _models(field.annotation):
            yield from _sections(inner, f"{key}.{name}" if key else name)


def _table(title: str, model: type[BaseModel], level: str) -> str:
    rows = [_row(name, field) for name, field in model.model_fields.items()]
    head = [f"{level} {title}\n"] if title else []
    about = [f"{_text(' '.join((model.__doc__ or '').split()))}\n"] if title else []
    return "\n".join([*head, *about, "| key | value | default | what it sets |\n|---|---|---|---|", *rows, ""])


def _row(name: str, field: FieldInfo, mark: str = "") -> str:
    return f"| `{name}`{mark} | {_value(field)} | {_default(field)} | {_text(field.description or '')} |"


def _resource(key: str, resource: Any) -> str:
    """The table of a resource's fields; those that a run may set are marked."""
    marks = dict.fromkeys(resource.at_launch, " (a run too)")
    rows = [_row(name, field, marks.get(name, "")) for name, field in _fields(type(resource)).items()]
    about = _text((type(resource).__doc__ or "").partition("\n\n")[0])
    return "\n".join(
        [f"### `{key}`\n", about, "\n| field | value | default | what it sets |\n|---|---|---|---|", *rows, ""]
    )


def _fields(resource: type) -> dict[str, FieldInfo]:
    return resource.model_fields  # pyright: ignore[reportAttributeAccessIssue] - a pydantic model, all of them


def _variables(variables: dict[str, str]) -> str:
    rows = [f"| `{name}` | {_text(text)} |" for name, text in variables.items()]
    return "\n".join(["| variable | what it sets |\n|---|---|", *rows, ""])


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    for one in get_args(annotation) or (annotation,):
        if isinstance(one, type) and issubclass(one, BaseModel):
            yield one


def _value(field: FieldInfo) -> str:
    limits = [
        f"{word} {_shown(getattr(one, name))}"
        for one in field.metadata
        if isinstance(one, annotated_types.BaseMetadata)
        for name, word in _LIMITS.items()
        if hasattr(one, name)
    ]
    return " ".join([_kind(field.annotation), *limits])


def _kind(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(one) for one in inner if one is not type(None))
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in inner)
    if origin in _CONTAINERS:
        return _CONTAINERS[origin].format(*map(_kind, inner), count=len(inner))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "keys below"
    return next((text for kind, text in _KINDS.items() if kind is annotation), "text")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "(required)"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value is PydanticUndefined or isinstance(value, BaseModel):
        return ""
    return f"`{_shown(value)}`" if value != "" else ""


def _shown(value: object) -> str:
    """A value as written in a `defs.yaml`."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)


def _text(text: str) -> str:
    """A description as text of a table cell: angle brackets are not HTML, and bars do not end the cell."""
    parts = re.split(r"(`[^`]*`)", text.replace("``", "`"))
    escaped = [part if part.startswith("`") else part.replace("<", "&lt;").replace("*", r"\*") for part in parts]
    return "".join(escaped).replace("|", r"\|").replace("\n", " ")


def write(path: Path = PAGE) -> None:
    """Write the page."""
    path.write_text(page())


if __name__ == "__main__":
    write()
    print(PAGE.relative_to(ROOT))
