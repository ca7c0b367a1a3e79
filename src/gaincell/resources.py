"""What the repository keeps beside the package and a wheel brings inside: adapters, recipes, data, results.

`adapters/smollm2-135m` and `recipes/tiny.toml` mean the file or folder of that name in the working directory
if there is one, else the one that was installed with gaincell.
"""

import os
from pathlib import Path

FOLDERS = ("adapters", "recipes", "docs/data", "docs/results")
_PACKAGE = Path(__file__).parent
_PLACES = (
    (_PACKAGE / "assets", _PACKAGE.parents[1]) if _PACKAGE.parent.name == "src" else (_PACKAGE / "assets",)
)
"""Of a wheel; of a checkout, where the package lies in src."""


def resolve(path: str | os.PathLike[str]) -> Path:
    """Where to read `path`: itself if it exists or is in none of `FOLDERS`, else what is shipped as that.

    Returns `path` where nothing is shipped under it, so that errors name what was given.
    """
    given = Path(path)
    shipped = any(given.is_relative_to(folder) for folder in FOLDERS)
    if shipped and ".." not in given.parts and not given.exists():
        for place in _PLACES:
            if (place / given).exists():
                return place / given
    return given


def begun(run: Path) -> str | None:
    """What to say of a RUN directory whose first command has not come to its end; None: it is none."""
    if not (run / "stages" / "settings.json").is_file():
        return None
    return "holds a RUN that is not finished; give the command that began it once more, and it goes on"


def available() -> list[str]:
    """Names of the shipped adapters, such as adapters/smollm2-135m."""
    found = (folder for place in _PLACES for folder in place.glob("adapters/*") if folder.is_dir())
    return sorted(f"adapters/{folder.name}" for folder in found)
