"""Packages of npm for tests, each of one version, kept between sessions."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.helpers.programs import in_ci, require_program

INSTALL_SECONDS = 90


def require_npm_package(folder: Path, name: str, version: str) -> Path:
    """Where a package is, installed if it is not there; skips where npm or its registry is missing.

    Args:
      folder: is kept between sessions (``pytestconfig.cache.mkdir``).
    """
    npm = require_program("npm", "apt-get install npm")
    home = folder / f"{name}-{version}"
    package = home / "node_modules" / name
    if not (package / "package.json").is_file():
        home.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--no-save", "--no-audit", "--no-fund", "--prefix", str(home)]
        done = subprocess.run(
            [*command, f"{name}@{version}"],
            env={**os.environ, "npm_config_update_notifier": "false"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            reason = f"npm could not install {name}@{version}: {done.stderr.decode()[-300:]}"
            if in_ci():
                pytest.fail(reason)
            pytest.skip(reason)
    return package
