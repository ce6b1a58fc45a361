"""Settings: definition (settings), sources (loading, environment), folders, and syntax of hosts and devices."""

from server.config.environment import PREFIX, ConfigError
from server.config.folders import check_data_dir, find_temporary_folder, make_data_dir
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
    "make_data_dir",
    "place_of",
    "wants_json",
]
