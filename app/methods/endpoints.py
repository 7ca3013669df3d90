"""`/methods` and `/presets`: what recipes may hold."""

from fastapi import APIRouter

from app.methods.schemas import MethodOut, PresetOut
from squeezer.methods import METHODS
from squeezer.recipe import presets

router = APIRouter(tags=["recipes"])


@router.get("/methods")
def list_methods() -> list[MethodOut]:
    """List every method, and the JSON Schema of its settings."""
    return [
        MethodOut(
            name=name,
            summary=method.summary,
            needs_data=method.needs_data,
            needs_graph=method.needs_graph,
            json_schema=method.model_json_schema(),
        )
        for name, method in METHODS.items()
    ]


@router.get("/presets")
def list_presets() -> list[PresetOut]:
    """List the recipes that have a name."""
    return [PresetOut(name=name, **preset) for name, preset in presets().items()]
