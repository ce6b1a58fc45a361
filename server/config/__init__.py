"""Settings: what they are (settings), where they come from (environment), and what names of hosts and devices mean."""

from server.config.environment import PREFIX, ConfigError
from server.config.settings import (
    Settings,
    budget_of_window,
    check_data_dir,
    find_temporary_folder,
    load_settings,
    place_of,
)

__all__ = [
    "PREFIX",
    "ConfigError",
    "Settings",
    "budget_of_window",
    "check_data_dir",
    "find_temporary_folder",
    "load_settings",
    "place_of",
]
