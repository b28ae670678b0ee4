"""The base of all models of settings."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class StrictModel(BaseModel):
    """Settings: no unknown field, no yes or no where a number is expected, nothing else where yes or no is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _booleans_only_where_expected(cls, value: Any, field: ValidationInfo) -> Any:
        expected = cls.model_fields[field.field_name or ""].annotation is bool
        if isinstance(value, bool) != expected:
            raise ValueError(f"{value!r} is not {'true or false' if expected else 'of the expected kind'}")
        return value
