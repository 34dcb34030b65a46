"""The settings as other files need them: tables, the action's inputs, the JSON Schema for editors.

`nox -s generate` writes what these functions return into README.md, action/README.md, action/action.yml and
autoresearch.schema.json; a test fails when a file says something else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from autoresearch_ci.settings import CONFIG_NAME, Settings, variable

SCHEMA_NAME = "autoresearch.schema.json"


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    description: str
    default: str
    required: bool


def settings_table() -> str:
    """A Markdown table of every setting, in the order of the contract: name, default, meaning."""
    lines = ["| setting | default | |", "|---|---|---|"]
    for row in _rows():
        default = "required" if row.required else f"`{row.default}`" if row.default else ""
        lines.append(f"| `{row.name}` | {_cell(default)} | {_cell(row.description)} |")
    return "\n".join(lines) + "\n"


def action_inputs() -> str:
    """The settings as inputs of the action, in YAML. None has a default: one left out must not win over the file."""
    lines = []
    for row in _rows():
        default = f". Default: {row.default}" if row.default else ""
        note = f". Required, here or in {CONFIG_NAME}" if row.required else default
        # A JSON string is a YAML string too, whatever is in it.
        lines += [f"{row.name}:", f"  description: {json.dumps(row.description + note, ensure_ascii=False)}"]
        lines += ["  required: false"]
    return "\n".join(lines) + "\n"


def action_environment(after: str = "") -> str:
    """The lines of a step's `env:` that hand every input to the program: `AUTORESEARCH_TAG: ${{ inputs.tag }}`.

    `after`: the id of a step that wrote the tag it works on as its output `tag`, which is then the one: a `{date}` in the input must
    not become another day's when a night is reported after midnight.
    """
    values = {row.name: f"inputs.{row.name}" for row in _rows()}
    if after:
        values["tag"] = f"steps.{after}.outputs.tag"
    return "".join(f"{variable(name)}: ${{{{ {value} }}}}\n" for name, value in values.items())


def json_schema() -> str:
    """The JSON Schema of autoresearch.toml, for editors."""
    schema = {"$schema": GenerateJsonSchema.schema_dialect} | Settings.model_json_schema(schema_generator=_TextToo)
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


class _TextToo(GenerateJsonSchema):
    """What a validator first reads from text may be text in the file: `5m`, `8g`, `a,b`, `unlimited`."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        return self.get_flattened_anyof([super().function_before_schema(schema), {"type": "string"}])

    def get_title_from_name(self, name: str) -> str:
        return name


def _rows() -> Iterator[_Row]:
    # The values of what is required are never shown; they only let the defaults be seen as text.
    defaults = Settings.model_validate({"time-budget": "5m", "metric": "metric", "direction": "minimize"}).texts()
    for field_name, field in Settings.model_fields.items():
        name = field.alias or field_name
        yield _Row(name, field.description or "", defaults[name], field.is_required())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    Path(__file__).with_name(SCHEMA_NAME).write_text(json_schema(), encoding="utf-8")
