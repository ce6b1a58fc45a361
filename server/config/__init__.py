"""Settings: what they are (settings), where they come from (loading, environment), the folders that they name
(folders), and what names of hosts and devices mean."""

from server.config.environment import PREFIX, ConfigError
from server.config.folders import check_data_dir, find_temporary_folder
from server.config.loading import load_settings, wants_json
from server.config.settings import Settings, about, budget_of_window, place_of

__all__ = [
    "PREFIX",
    "ConfigError",
    "Settings",
    "about",
    "budget_of_window",
    "check_data_dir",
    "find_temporary_folder",
    "load_settings",
    "place_of",
    "wants_json",
]
