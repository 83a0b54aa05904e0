"""A campaign: one recipe, one site, one owner, and the folder of the store where its artifacts stand by name."""

import getpass
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from athanor.artifacts.store import Store, store_root
from athanor.recipe.graph import Artifact
from athanor.recipe.lifecycle import Lifecycle
from athanor.recipe.loading import load_recipe, load_site, project_folder
from athanor.recipe.schema.recipe import Recipe
from athanor.recipe.site import Site, chosen_site


@dataclass(frozen=True)
class Campaign:
    """`name` is the recipe's unless the user gave another."""

    name: str
    owner: str
    recipe: Recipe
    site: Site
    overrides: tuple[str, ...] = ()
    recipe_given: str = ""  # as the user named it: a name or a path

    @classmethod
    def open(cls, recipe: str, site: str = "", overrides: Sequence[str] = (), name: str = "") -> "Campaign":
        """The campaign of a recipe file. Raises RecipeError with everything that is wrong."""
        loaded = load_recipe(recipe, overrides)
        return cls(name or loaded.name, getpass.getuser(), loaded, load_site(chosen_site(site)), tuple(overrides), recipe)

    @cached_property
    def store(self) -> Store:
        """The site's store."""
        return Store(store_root(self.site))

    @cached_property
    def lifecycle(self) -> Lifecycle:
        """The campaign's artifacts."""
        return Lifecycle(self.recipe, project_folder())

    @property
    def folder(self) -> Path:
        """`STORE/campaigns/OWNER/NAME`."""
        return self.store.root / "campaigns" / self.owner / self.name

    def missing(self) -> list[Artifact]:
        """The artifacts that have no manifest yet, in the order they can be made."""
        return [artifact for artifact in self.lifecycle if not self.store.is_done(artifact)]
