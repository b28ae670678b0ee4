"""The attributes of a dataset's ``defs.yaml``, checked strictly when the code location loads."""

from typing import Any, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from lance_pipeline.training.recipe import Recipe, StrictModel

# What Dagster takes as a group and as part of a key, an op's name and a job's name.
NAME_PATTERN = "[A-Za-z][A-Za-z0-9_]*"


class Source(StrictModel):
    """Where the images come from: one of these."""

    folder: str | None = Field(
        default=None,
        description="A folder of <split>/<label>/<file>. A relative path counts from the project; "
        "below `data/` it follows LANCE_PIPELINE_DATA.",
    )
    sample: Literal["digits"] | None = Field(
        default=None, description="A sample that needs no network; it is made at `data/raw/<dataset>`."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> "Source":
        if (self.folder is None) == (self.sample is None):
            raise ValueError("expected exactly one of `folder` and `sample`")
        return self


class Fractions(StrictModel):
    """Shares of the images, which add up to 1; each class gets them in expectation."""

    train: float = Field(default=0.7, gt=0, lt=1, description="Share to train on.")
    val: float = Field(default=0.15, gt=0, lt=1, description="Share to choose the best epoch by.")
    test: float = Field(default=0.15, gt=0, lt=1, description="Share to measure the result on.")

    @model_validator(mode="after")
    def _add_up(self) -> "Fractions":
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train, val and test add up to {total:g}, expected 1")
        return self


class Splits(StrictModel):
    """The names of the splits' folders, or the fractions by which one folder of classes is cut."""

    train: str = Field(default="train", description="Folder of the training split, below the source's folder.")
    val: str = Field(default="val", description="Folder of the validation split.")
    test: str = Field(default="test", description="Folder of the test split.")
    fractions: Fractions | None = Field(
        default=None,
        description="Cut <folder>/<label>/<file> by these shares instead; added images move none of the others.",
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


class Retrain(StrictModel):
    """When to run the whole graph again."""

    cron: str = Field(description="A cron expression, such as `0 3 * * 1` for Mondays at three.")
    timezone: str = Field(default="UTC", description="The time zone of the expression, such as `Europe/Berlin`.")
    enabled: bool = Field(default=False, description="Whether the schedule runs without being started by hand.")

    @field_validator("cron")
    @classmethod
    def _valid_cron(cls, cron: str) -> str:
        from dagster._utils.schedules import is_valid_cron_schedule

        if not is_valid_cron_schedule(cron):
            raise ValueError(f"{cron!r} is not a cron expression; expected five fields such as `0 3 * * 1`")
        return cron

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"{timezone!r} is not a time zone; expected a name such as `Europe/Berlin`") from error
        return timezone


class ImageClassifierAttributes(StrictModel):
    """One dataset."""

    name: str | None = Field(
        default=None,
        pattern=f"^{NAME_PATTERN}$",
        description="The dataset's name: key prefix and group of its assets. The folder's name when unset.",
    )
    description: str = Field(default="", description="What the images are; shown on the dataset's assets.")
    source: Source = Field(description="Where the images come from.")
    splits: Splits = Field(default=Splits(), description="How the images are split.")
    image_size: int = Field(
        default=32, ge=8, le=1024, description="Height and width at which the model sees them, in pixels."
    )
    recipe: Recipe = Field(default=Recipe(), description="How the model is trained.")
    retrain: Retrain | None = Field(default=None, description="A schedule for retraining; none when unset.")
    owners: list[str] = Field(
        default_factory=list, description="Owners of the assets: e-mail addresses or `team:<name>`."
    )
    tags: dict[str, str] = Field(default_factory=dict, description="Tags of the assets.")

    @model_validator(mode="after")
    def _padding_below_size(self) -> "ImageClassifierAttributes":
        if self.recipe.padding_for(self.image_size) >= self.image_size:
            raise ValueError("`recipe.crop_padding` must be smaller than `image_size`")
        return self

    @field_validator("owners")
    @classmethod
    def _owner_or_team(cls, owners: list[str]) -> list[str]:
        for owner in owners:
            if "@" not in owner and not owner.startswith("team:"):
                raise ValueError(f"{owner!r} is no owner; expected an e-mail address or `team:<name>`")
        return owners


def rendered(attributes: ImageClassifierAttributes, render: Any) -> ImageClassifierAttributes:
    """The attributes with ``{{ env.NAME }}`` and the like filled in by Dagster's ``render``."""
    values = attributes.model_dump(exclude_unset=True)
    return ImageClassifierAttributes.model_validate(render(values))
