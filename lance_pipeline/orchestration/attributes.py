"""The attributes of a dataset's ``defs.yaml``, checked strictly when the code location loads."""

from typing import Any, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, ValidationInfo, field_validator, model_validator

from lance_pipeline.orchestration.nearest import nearest
from lance_pipeline.quality.split_checks import CheckSettings
from lance_pipeline.settings import StrictModel
from lance_pipeline.storage.addresses import IN_FULL, Address, remember_variables, require_no_user
from lance_pipeline.storage.transparency import TRANSPARENCY, Transparency
from lance_pipeline.training.device_names import device_names
from lance_pipeline.training.networks import DEFAULT_NETWORK, NETWORKS
from lance_pipeline.training.recipe import Recipe, later_defaults

# Valid in Dagster as a group name, and as part of an asset key, an op name and a job name.
NAME_PATTERN = "[A-Za-z][A-Za-z0-9_]*"
# Always part of a source's identity, even at their defaults; settings added later count only if they differ.
_ALWAYS_IDENTIFYING = ("folder", "sample", "archive", "url", "checksum", "max_bytes", "max_members")
_SOME_NETWORKS = "resnet18, resnet50, convnext_tiny, efficientnet_b0 or vit_b_16; docs/training.md has all of them"


def _valid_cron(cron: str) -> str:
    from dagster._utils.schedules import is_valid_cron_schedule

    if not is_valid_cron_schedule(cron):
        raise ValueError(f"{cron!r} is not a cron expression; expected five fields such as `0 3 * * 1`")
    return cron


def _known_timezone(timezone: str) -> str:
    try:
        ZoneInfo(timezone)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{timezone!r} is not a time zone; expected a name such as `Europe/Berlin`") from error
    return timezone


class Archive(StrictModel):
    """An archive of images, .tar, .tar.gz, .tar.xz or .zip: downloaded once, checked and unpacked."""

    url: Address = Field(
        examples=["https://example.org/flowers.zip"],
        description="Its address: https, http, or file:///… for an archive on disk. Credentials in the address are "
        "shown nowhere.",
    )
    checksum: str | None = Field(
        default=None,
        examples=["md5:6ee4d0c996905fe93221de577967a372"],
        description="`sha256:…` or `md5:…` as its publisher states it; an archive with another checksum is refused. "
        "Not checked when unset.",
    )
    max_bytes: int = Field(
        default=20_000_000_000,
        gt=0,
        description="The greatest size in bytes of the archive, and of its unpacked files together.",
    )
    max_members: int = Field(default=5_000_000, gt=0, description="The greatest number of files and folders in it.")
    min_bytes_per_second: int = Field(
        default=10_000,
        ge=0,
        description="A download slower than this on average over a minute is stopped; the next run continues it. "
        "0 allows any speed.",
    )

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: Address) -> Address:
        from lance_pipeline.sources.archive_address import require_address

        # A template such as {{ env.MIRROR }} is checked after it is filled in.
        if not url.is_template:
            require_address(url)
        return url

    # Declared last and thus run first: errors quote the value, and an Address shows no secrets.
    @field_validator("url", mode="before")
    @classmethod
    def _address(cls, url: object) -> object:
        return Address(url) if isinstance(url, str) else url

    @field_validator("checksum")
    @classmethod
    def _known_form(cls, checksum: str | None) -> str | None:
        from lance_pipeline.sources.archive_address import require_checksum_form

        if checksum is not None and "{{" not in checksum:
            require_checksum_form(checksum)
        return checksum


class SourceSettings(StrictModel):
    """Where the images come from: one of these."""

    folder: str | None = Field(
        default=None,
        examples=["/mnt/photos/flowers"],
        description="A folder of <split>/<label>/<file>, a path or an object-store URI such as `s3://bucket/flowers`. "
        "A relative path counts from the project; below `data/` it follows LANCE_PIPELINE_DATA.",
    )
    sample: Literal["digits"] | None = Field(
        default=None, description="A sample that needs no network; it is made at `data/raw/<dataset>`."
    )
    archive: Archive | None = Field(
        default=None,
        description="An archive of <split>/<label>/<file>, below one folder or none; it is unpacked to "
        "`data/raw/<dataset>` unless that is there.",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> "SourceSettings":
        if [self.folder, self.sample, self.archive].count(None) != 2:
            raise ValueError("expected exactly one of `folder`, `sample` and `archive`")
        return self

    def identity(self) -> str:
        """The settings that distinguish sources, as JSON; a new setting at its default changes none."""
        left_out = later_defaults(self, _ALWAYS_IDENTIFYING)
        if self.archive:
            # The required download speed does not change the images.
            left_out["archive"] = left_out.get("archive", {}) | {"min_bytes_per_second": True}
        return self.model_dump_json(exclude=left_out)


class Fractions(StrictModel):
    """Shares of the images, which add up to 1.

    The split of an image is a function of its pixels and the salt alone: copies of an image share a
    split whatever they are called, added images move none of the others, and each class gets the
    shares in expectation.
    """

    train: float = Field(default=0.7, gt=0, lt=1, description="Share to train on.")
    val: float = Field(default=0.15, gt=0, lt=1, description="Share that selects the best epoch.")
    test: float = Field(default=0.15, gt=0, lt=1, description="Share that measures the result.")
    salt: str = Field(default="", examples=["2"], description="Any text; another one draws other splits.")
    pool: list[str] = Field(
        default_factory=list,
        examples=[["train", "val", "test"]],
        description="Folders below the source whose classes are merged before they are split, such as the "
        "`[train, val, test]` of a dataset whose splits have different classes. The source itself when empty.",
    )

    @property
    def shares(self) -> dict[str, float]:
        """Each split's share."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @model_validator(mode="after")
    def _add_up(self) -> "Fractions":
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train, val and test add up to {total:g}, expected 1")
        return self


class Splits(StrictModel):
    """The names of the splits' folders, or the fractions by which one folder of classes is split."""

    train: str = Field(default="train", description="Folder of the training split, below the source's folder.")
    val: str = Field(default="val", description="Folder of the validation split.")
    test: str = Field(default="test", description="Folder of the test split.")
    fractions: Fractions | None = Field(
        default=None,
        examples=[{"train": 0.7, "val": 0.15, "test": 0.15}],
        description="Split <folder>/<label>/<file> by these shares instead, by the pixels of the images.",
    )

    @model_validator(mode="after")
    def _folders_or_fractions(self) -> "Splits":
        named = self.model_fields_set & {"train", "val", "test"}
        if self.fractions is not None and named:
            raise ValueError(f"expected folders or `fractions`, not both; remove {sorted(named)} or `fractions`")
        if self.fractions is None and self.train in (self.val, self.test):
            raise ValueError(f"train and another split are both the folder {self.train!r}; expected two")
        return self

    @property
    def folders(self) -> dict[str, str]:
        """Each split's folder."""
        return {"train": self.train, "val": self.val, "test": self.test}


class Ingest(StrictModel):
    """How strict an ingest is."""

    on_bad_image: Literal["quarantine", "fail"] = Field(
        default="quarantine",
        description="`quarantine` lists bad files in `<dataset>_<split>_rejected.lance` and continues; `fail` fails "
        "after all files have been examined.",
    )
    max_rejected_fraction: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="With more bad files than this share of a folder the materialization fails in either case.",
    )


class Keep(StrictModel):
    """What is kept of old trainings: everything within one of these limits.

    They apply to models with their MLflow runs, records and predictions, and for Dagster's runs with their logs.
    """

    models: int = Field(default=20, ge=1, description="Keep this many of the latest, however old they are.")
    days: float = Field(default=90, ge=0, description="Keep those younger than this, however many they are.")


class Maintenance(StrictModel):
    """What is removed, and when.

    One schedule, `maintenance_schedule`, serves all datasets: Sundays at five, off until it is started. With `cron`,
    `timezone` or `enabled` a dataset also has its own, `<dataset>_maintenance_schedule`.
    """

    cron: str = Field(
        default="0 5 * * 0",
        description="A cron expression for a schedule of this dataset, in addition to the one for all datasets.",
    )
    timezone: str = Field(
        default="UTC", description="The time zone of that schedule's expression, such as `Europe/Berlin`."
    )
    enabled: bool = Field(
        default=False, description="Whether the dataset's own schedule runs without being started by hand."
    )
    keep_days: float = Field(
        default=14,
        ge=0,
        description="Keep versions of the Lance datasets younger than this; versions that a model was trained on are "
        "kept as long as the model.",
    )
    keep: Keep = Field(
        default=Keep(),
        description="Models and runs beyond both limits are removed, at the end of each training and by maintenance. A "
        "champion, a registered or tagged model, the latest one and one in use always stay.",
    )

    _valid_cron = field_validator("cron")(_valid_cron)
    _known_timezone = field_validator("timezone")(_known_timezone)

    @property
    def has_own_schedule(self) -> bool:
        """Whether the dataset has its own schedule besides the one for all datasets."""
        return bool(self.model_fields_set & {"cron", "timezone", "enabled"})


class Retrain(StrictModel):
    """When to run the whole graph again."""

    cron: str = Field(
        examples=["0 3 * * 1"], description="A cron expression, such as `0 3 * * 1` for Mondays at three."
    )
    timezone: str = Field(default="UTC", description="The time zone of the expression, such as `Europe/Berlin`.")
    enabled: bool = Field(default=False, description="Whether the schedule runs without being started by hand.")

    _valid_cron = field_validator("cron")(_valid_cron)
    _known_timezone = field_validator("timezone")(_known_timezone)


class Retries(StrictModel):
    """What a step does while an object store, a server or a database is away: it waits, and is tried again."""

    times: int = Field(default=3, ge=0, description="A step is tried again so many times; with 0 it fails at once.")
    delay: float = Field(
        default=10,
        ge=0,
        description="Seconds before the first of these; 3 and 7 times as many before the second and the third.",
    )


class ImageClassifierAttributes(StrictModel):
    """One dataset."""

    name: str | None = Field(
        default=None,
        pattern=f"^{NAME_PATTERN}$",
        examples=["flowers"],
        description="The dataset's name: key prefix and group of its assets. The folder's name when unset.",
    )
    description: str = Field(
        default="",
        examples=["Flowers of one garden."],
        description="What the images are; shown on the dataset's assets.",
    )
    source: SourceSettings = Field(description="Where the images come from.")
    splits: Splits = Field(default=Splits(), description="How the images are split.")
    ingest: Ingest = Field(default=Ingest(), description="What happens to files that cannot be read as images.")
    checks: CheckSettings = Field(default=CheckSettings(), description="What the checks of the Lance datasets warn of.")
    model: str = Field(
        default=DEFAULT_NETWORK,
        description="The network: any of torchvision's classification networks, such as `resnet18`, `convnext_tiny` or "
        "`vit_b_16`. Its name is the last part of the key of the model's asset.",
    )
    image_size: int = Field(
        default=32,
        ge=8,
        le=1024,
        # A size that every network accepts.
        examples=[224],
        validate_default=True,
        description="Height and width of the images that the model sees, in pixels. Some networks have a minimum; "
        "vit_* and maxvit_t accept 224 only.",
    )
    transparency: Transparency = Field(
        default=TRANSPARENCY,
        description="The background of transparent pixels; `drop` ignores transparency and keeps their colours.",
    )
    recipe: Recipe = Field(default=Recipe(), examples=[{"epochs": 16}], description="How the model is trained.")
    device: str | list[str] | None = Field(
        default=None,
        examples=["cuda:0"],
        description="The device that trains, such as `cuda:1`, or several, of which the first free one is used. The "
        "setting of the resource `gpu` when unset.",
    )
    retrain: Retrain | None = Field(default=None, description="A schedule for retraining; none when unset.")
    retries: Retries = Field(
        default=Retries(), description="How a step waits for an object store, a server or a database that is away."
    )
    maintenance: Maintenance = Field(
        default=Maintenance(), description="When old versions of the Lance datasets are cleaned up."
    )
    plugins: list[str] = Field(
        default_factory=list,
        examples=[["lance_pipeline.defs.flowers.own"]],
        description="Python modules with checks and metrics of your own; see docs/architecture.md.",
    )
    owners: list[str] = Field(
        default_factory=list,
        examples=[["team:vision"]],
        description="Owners of the assets: e-mail addresses or `team:<name>`.",
    )
    tags: dict[str, str] = Field(
        default_factory=dict, examples=[{"camera": "north"}], description="Tags of the assets."
    )

    @model_validator(mode="after")
    def _padding_below_size(self) -> "ImageClassifierAttributes":
        if self.recipe.padding_for(self.image_size) >= self.image_size:
            raise ValueError("`recipe.crop_padding` must be smaller than `image_size`")
        return self

    @field_validator("model")
    @classmethod
    def _known_network(cls, model: str) -> str:
        # A template such as {{ env.MODEL }} is checked after it is filled in.
        if model not in NETWORKS and "{{" not in model:
            # For a name such as `quantized_resnet18`, the known part of it.
            inside = max((name for name in NETWORKS if name in model), key=len, default=None)
            near = nearest(model, NETWORKS) or inside
            expected = f"did you mean `{near}`" if near else f"expected one such as {_SOME_NETWORKS}"
            raise ValueError(f"torchvision has no classification network `{model}`; {expected}")
        return model

    @field_validator("image_size")
    @classmethod
    def _network_takes_size(cls, image_size: int, info: ValidationInfo) -> int:
        if (network := NETWORKS.get(info.data.get("model", ""))) and (wrong := network.wrong_size(image_size)):
            raise ValueError(wrong)
        return image_size

    @field_validator("recipe")
    @classmethod
    def _network_has_stem(cls, recipe: Recipe, info: ValidationInfo) -> Recipe:
        if (network := NETWORKS.get(info.data.get("model", ""))) and (wrong := network.wrong_stem(recipe.stem)):
            raise ValueError(wrong)
        return recipe

    @field_validator("device")
    @classmethod
    def _known_devices(cls, device: str | list[str] | None) -> str | list[str] | None:
        # Templates such as {{ env.DEVICE }} are checked after they are filled in.
        if device is not None and "{{" not in "".join(device):
            device_names(device)
        return device

    @field_validator("owners")
    @classmethod
    def _owner_or_team(cls, owners: list[str]) -> list[str]:
        for owner in owners:
            if "@" not in owner and not owner.startswith("team:"):
                raise ValueError(f"{owner!r} is not an owner; expected an e-mail address or `team:<name>`")
        return owners


def render_attributes(attributes: ImageClassifierAttributes, render: Any) -> ImageClassifierAttributes:
    """The attributes with ``{{ env.NAME }}`` and the like filled in by Dagster's ``render``."""
    archive = attributes.source.archive
    if archive is not None:
        remember_variables(archive.url)
    filled = ImageClassifierAttributes.model_validate(
        render(attributes.model_dump(exclude_unset=True, context=IN_FULL))
    )
    require_no_user(filled.source.folder or "")
    return filled
