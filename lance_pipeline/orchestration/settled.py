"""Resources whose values are settled when the code location loads."""

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import dagster as dg
from dagster._core.definitions.definition_config_schema import (
    DefinitionConfigSchema,
    convert_user_facing_definition_config_schema,
)


class Settled:
    """Mixin for a ``ConfigurableResource`` of which a run may set a few harmless values, and nothing else.

    Whoever may launch a run could otherwise have it write elsewhere, or send credentials to another address. A launch
    that tries is refused, and Dagster's pages show the harmless values only.
    """

    at_launch: ClassVar[Mapping[str, Any]] = {}
    """The fields that a run's configuration may set, with their types; no path, address or credential."""

    @property
    def _config_schema(self) -> DefinitionConfigSchema:
        # Dagster would offer every field, and take its text from any environment variable.
        fields = {
            name: dg.Field(
                kind,
                default_value=getattr(self, name),
                is_required=False,
                description=type(self).model_fields[name].description,  # pyright: ignore[reportAttributeAccessIssue]
            )
            for name, kind in self.at_launch.items()
        }
        return cast("DefinitionConfigSchema", convert_user_facing_definition_config_schema(fields))
