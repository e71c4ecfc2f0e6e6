"""Take the picture of a page in docs/pictures: `python tools/picture_page.py PAGE.html PICTURE.png LINE`.

Opens the page in a Chromium without a window, points at the line of a tree that begins with LINE, and takes the screen.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from selenium import webdriver

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--window-size=1400,1000",
)


def main() -> None:
    """Take one picture."""
    page, picture, begin = sys.argv[1:]
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        driver.get(Path(page).resolve().as_uri())
        items = driver.find_elements("css selector", "[role=treeitem]")
        item = next(item for item in items if item.text.startswith(begin))
        driver.execute_script("document.querySelector('.trees').scrollIntoView()")
        webdriver.ActionChains(driver).move_to_element(item).perform()
        driver.save_screenshot(picture)
        driver.quit()


if __name__ == "__main__":
    main()
