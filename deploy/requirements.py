"""Print the dependencies in pyproject.toml with the named extras, for an image layer independent of the code."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = project.get("optional-dependencies", {})
print(*project["dependencies"], *(line for name in sys.argv[1:] for line in extras.get(name, ())), sep="\n")
