"""Base class of all settings models."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class StrictModel(BaseModel):
    """Immutable settings that reject unknown fields and never convert between booleans and other types."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _booleans_only_where_expected(cls, value: Any, field: ValidationInfo) -> Any:
        expected = cls.model_fields[field.field_name or ""].annotation is bool
        if isinstance(value, bool) != expected:
            raise ValueError(f"{value!r} is not {'true or false' if expected else 'of the expected kind'}")
        return value
