"""Loaded by Hydra wherever it composes these configs, also inside DVC (`hydra.plugins_path = src`)."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from miipher2.config.load import register
from miipher2.config.paths import ROOT

register()


class RepositorySearchPath(SearchPathPlugin):  # type: ignore[misc]  # Hydra is untyped
    """Lets configs/<stage>/*.yaml use the shared groups in configs/ when a stage is run on its own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add configs/ behind the folder that the script names."""
        search_path.append("miipher2", f"file://{ROOT / 'configs'}")
