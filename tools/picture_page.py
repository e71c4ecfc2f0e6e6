"""Take the picture of a page in docs/pictures: `python -m tools.picture_page PAGE.html PICTURE.png LINE`.

Opens the page in a Chromium without a window, points at the line of a tree that begins with LINE, and takes the screen.
"""

import sys
import tempfile
from pathlib import Path

from selenium.webdriver import ActionChains
from tests.browser import chromium, screen


def main() -> None:
    """Take one picture."""
    page, picture, begin = sys.argv[1:]
    with tempfile.TemporaryDirectory() as profile, chromium(profile) as driver:
        screen(driver, width=1400, height=900)
        driver.get(Path(page).resolve().as_uri())
        item = next(
            item for item in driver.find_elements("css selector", "[role=treeitem]") if item.text.startswith(begin)
        )
        ActionChains(driver).move_to_element(item).perform()
        driver.save_screenshot(picture)


if __name__ == "__main__":
    main()
