"""The JSON Schema of a run's file, by which an editor completes, describes and checks settings."""

from typing import Any

from advdmd_ray.config.whole import Config


def json_schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12: every section and setting with description, type, bounds and default."""
    schema = Config.model_json_schema()
    base = {
        "type": "string",
        "minLength": 1,
        "description": "The file that this one is put over, or a name that ships.",
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "properties": {"base": base, **schema["properties"]},
    }
