"""What the API says about methods and presets."""

from typing import Any

from pydantic import BaseModel, Field


class MethodOut(BaseModel):
    """A step that a recipe may hold."""

    name: str
    summary: str
    needs_data: bool = Field(description="whether the step needs a data set")
    needs_graph: bool = Field(description="whether the step needs the network itself, which weights alone do not bring")
    json_schema: dict[str, Any] = Field(description="JSON Schema of the step's settings")


class PresetOut(BaseModel):
    """A recipe with a name."""

    name: str
    description: str
    recipe: dict[str, Any]
