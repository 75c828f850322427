"The Chromium that reads the book: in its tests, and to print it"

import shutil
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium(playwright) -> str | None:
    "The system's own, or the one of `playwright install chromium`"
    found = next(filter(None, map(shutil.which, NAMES)), playwright.chromium.executable_path)
    return found if Path(found).exists() else None
