"""Resources that no run can redirect."""

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import dagster as dg
from dagster._config.field_utils import IntEnvVar
from dagster._core.definitions.definition_config_schema import (
    DefinitionConfigSchema,
    convert_user_facing_definition_config_schema,
)
from pydantic import ValidationError

from lance_pipeline.errors import InputError

_VARIABLES = (dg.EnvVar, IntEnvVar)


class Settled:
    """Mixin for a ``ConfigurableResource`` that lets a run set only a few harmless values.

    Otherwise anyone who may launch a run could make it write elsewhere, or send credentials to another address. A
    launch that tries is refused, and Dagster's pages show only the harmless values.

    Every field accepts ``dg.EnvVar``, or ``dg.EnvVar.int`` if it is a number. The variable is read in the process that
    uses the value, at the time of use; pages show the variable's name.
    """

    at_launch: ClassVar[Mapping[str, Any]] = {}
    """The fields that a run's configuration may set, with their types; never a path, address or credential."""
    secret: ClassVar[frozenset[str]] = frozenset()
    """The fields that may be secret, but only if a variable sets them."""

    def __init__(self, **data: Any) -> None:
        variables = {name: value for name, value in data.items() if isinstance(value, _VARIABLES)}
        # Without the variables: validation would check their names instead of their values.
        super().__init__(**{name: value for name, value in data.items() if name not in variables})
        self.__dict__.update(variables)

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        return self._read(name, value) if isinstance(value, _VARIABLES) else value

    def _read(self, name: str, variable: dg.EnvVar | IntEnvVar) -> Any:
        """Read the variable that sets a field, and validate its value like any other.

        Raises:
            InputError: it is not set, or its value is invalid for the field.
        """
        what = f"the environment variable {variable.env_var_name}, which sets `{name}` of {type(self).__name__}"
        try:
            value = variable.get_value()
        except ValueError as error:
            raise InputError(f"{what}, is not a whole number.") from error
        if value in (None, ""):
            raise InputError(f"{what}, is not set. Set it where the run starts, or remove it from the resource.")
        try:
            return value if name in self.secret else getattr(type(self)(**{name: value}), name)
        except ValidationError as error:
            reasons = "; ".join(one["msg"] for one in error.errors())
            raise InputError(f"{what}, has an invalid value: {reasons}.") from error

    def _variables(self) -> dict[str, str]:
        """The names of the variables that set fields, by field."""
        return {name: value.env_var_name for name, value in vars(self).items() if isinstance(value, _VARIABLES)}

    @property
    def _config_schema(self) -> DefinitionConfigSchema:
        # Dagster would offer every field, and let a run fill it from any environment variable.
        variables = self._variables()
        fields = {
            name: dg.Field(
                kind,
                is_required=False,
                description=self._about(name),
                # Dagster would show the value.
                **({} if name in variables else {"default_value": getattr(self, name)}),
            )
            for name, kind in self.at_launch.items()
        }
        return cast("DefinitionConfigSchema", convert_user_facing_definition_config_schema(fields))

    def _about(self, name: str) -> str:
        text = type(self).model_fields[name].description  # pyright: ignore[reportAttributeAccessIssue]
        variable = self._variables().get(name)
        return f"{text} From the environment variable {variable}." if variable else text

    def get_resource_definition(self) -> Any:
        """Dagster's definition, whose description also lists the variables that set fields."""
        definition = super().get_resource_definition()  # pyright: ignore[reportAttributeAccessIssue]
        lines = [f"`{name}`: from the environment variable {one}." for name, one in self._variables().items()]
        definition._description = "\n\n".join([type(self).__doc__ or "", *lines])  # noqa: SLF001
        return definition
