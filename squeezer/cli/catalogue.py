"""`presets` and `methods`: what recipes may hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from squeezer.cli.arguments import JsonOption  # noqa: TC001 - Typer evaluates annotations
from squeezer.cli.errors import print_json
from squeezer.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_EVERY_STEP = ("include", "exclude", "overrides")


def list_presets(as_json: JsonOption = False) -> None:
    """List the presets: recipes that have a name."""
    from squeezer import console
    from squeezer.recipe import presets

    if as_json:
        print_json([{"name": name, **preset} for name, preset in presets().items()])
        return
    rows = []
    for name, preset in presets().items():
        steps = ", ".join(step["method"] for step in preset["recipe"]["steps"])
        rows.append((name, preset["description"], steps or "none"))
    console.show_rows(("preset", "what it does", "steps"), rows)


def list_methods(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show this method's settings.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the methods that a recipe's steps may use, or the settings of one."""
    from squeezer import console
    from squeezer.methods import METHODS

    if name is not None and name not in METHODS:
        raise RecipeError(f"unknown method {name!r}; the methods are {', '.join(METHODS)}")
    documents: list[dict[str, Any]] = [
        {
            "name": each,
            "summary": method.summary,
            "needs_data": method.needs_data,
            "needs_graph": method.needs_graph,
            "json_schema": method.model_json_schema(),
        }
        for each, method in METHODS.items()
        if name in (None, each)
    ]
    if as_json:
        print_json(documents if name is None else documents[0])
    elif name is None:
        rows = [(doc["name"], doc["summary"], _needs(doc)) for doc in documents]
        console.show_rows(("method", "what it does", "needs"), rows)
        console.out().print("\nsqueezer methods NAME shows the settings of one", style="dim")
    else:
        console.out().print(f"{name}: {documents[0]['summary']}", style="bold", soft_wrap=True)
        console.out().print()
        console.show_rows(("setting", "takes", "default", "meaning"), _settings(documents[0]["json_schema"]))


def _needs(document: Mapping[str, Any]) -> str:
    needs = [word for key, word in (("needs_graph", "the network"), ("needs_data", "data")) if document[key]]
    return " and ".join(needs) or "weights alone"


def _settings(schema: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    required = schema.get("required", ())
    # A step's own settings come first, and then those that every step has.
    for name, field in sorted(schema["properties"].items(), key=lambda item: item[0] in _EVERY_STEP):
        if name != "method":
            default = "required" if name in required else json.dumps(field.get("default"))
            yield name, _takes(field), "none" if default == "null" else default, field.get("description", "")


def _takes(field: Mapping[str, Any]) -> str:
    """The values that a field of a JSON Schema may have, in words."""
    if "anyOf" in field:
        return " or ".join(_takes(choice) for choice in field["anyOf"] if choice.get("type") != "null")
    if "enum" in field:
        return " | ".join(str(value) for value in field["enum"])
    kind = {"array": "list", "object": "object"}.get(field.get("type", ""), field.get("type", "any"))
    if "items" in field:
        kind = f"list of {_takes(field['items'])}s"
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {field[key]:g}" for key, sign in signs.items() if key in field]
    return " ".join([kind, " and ".join(bounds)]).strip()
