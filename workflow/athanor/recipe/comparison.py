"""Two recipes beside each other: the keys that differ, and the stages that are not shared."""

from athanor.recipe.fingerprint import flatten
from athanor.recipe.lifecycle import Lifecycle
from athanor.recipe.loading import load_recipe, project_folder
from athanor.recipe.schema.recipe import Recipe


def print_difference(name: str, other: str, overrides: list[str]) -> None:
    """Print what differs between recipe `name` and recipe `other` with `overrides`. Raises RecipeError."""
    before, after = load_recipe(name), load_recipe(other, overrides)
    for key, one, two in changed_keys(before, after):
        print(f"{key}: {one} → {two}")
    shared, made = compare_stages(before, after)
    print(f"{len(shared)} stages are shared; {len(made)} would be made: {', '.join(made) or 'none'}")


def changed_keys(before: Recipe, after: Recipe) -> list[tuple[str, object, object]]:
    """Dotted key, value before, value after; None where a recipe lacks the key."""
    one, two = flatten(before, "recipe"), flatten(after, "recipe")
    keys = [*two, *(key for key in one if key not in two)]
    return [(k.removeprefix("recipe."), one.get(k), two.get(k)) for k in keys if one.get(k) != two.get(k) and k != "recipe.name"]


def compare_stages(before: Recipe, after: Recipe) -> tuple[list[str], list[str]]:
    """Names of the artifacts of `after` that `before` has as well, and of those it has not."""
    have = {artifact.path for artifact in Lifecycle(before, project_folder())}
    artifacts = list(Lifecycle(after, project_folder()))
    return [a.name for a in artifacts if a.path in have], [a.name for a in artifacts if a.path not in have]
