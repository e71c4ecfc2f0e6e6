"""The page, as a person uses it in a real browser: joins, keyboard, filter, both schemes, a phone, hostile names."""

import base64
import hashlib
import html
import json
import re
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch
from jinja2 import UndefinedError

import archport
from archport.parity import Report
from archport.view.page import to_html
from archport.view.rendering import render
from archport.view.subjects import subject

from .browser import chromium, requests, screen
from .commands import run
from .cpu import swapping
from .references import reference

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
# What transformers calls the parts of the two, from its own classes; the question of the person who guessed.
SAME = {
    "c_attn": "query_key_value",
    "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm",
    "c_fc": "dense_h_to_4h",
    "wte": "embed_in",
    "lm_head": "lm_head",
}
CONTRAST = """
const light = (text) => {
  const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (one) => {
  const colour = getComputedStyle(one).backgroundColor;
  return colour === "rgba(0, 0, 0, 0)" && one.parentElement ? behind(one.parentElement) : colour;
};
return [...document.querySelectorAll("body *")].filter((one) => one.checkVisibility() && one.textContent.trim())
  .map((one) => [light(getComputedStyle(one).color), light(behind(one))])
  .map(([a, b]) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)).reduce((a, b) => Math.min(a, b));
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture(scope="module")
def served():
    """Serve whatever text a test puts in under a path; and keep every path that is asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200 if self.path in pages else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(pages.get(self.path, "").encode())

        def log_message(self, *_):
            pass

    pages, asked = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield pages, asked, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def two():
    return to_html([subject("gpt2"), subject("gpt-neox")])


@pytest.fixture
def opened(driver, served, two):
    """The page of two architectures, fresh."""
    pages, _, url = served
    pages["/two.html"] = two
    screen(driver)
    driver.get(f"{url}/two.html")
    return driver


def css(driver, selector):
    return driver.find_elements("css selector", selector)


def lit(driver):
    """The names of the tree lines that are lit."""
    return [item.text.split()[0] for item in css(driver, "[role=treeitem].lit")]


def line(driver, name):
    [item] = [item for item in css(driver, "[role=treeitem]") if item.text.split()[0] == name]
    return item


def press(driver, *keys):
    from selenium.webdriver import ActionChains

    ActionChains(driver).send_keys(*keys).perform()


def point_at(driver, element):
    from selenium.webdriver import ActionChains

    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    ActionChains(driver).move_to_element(element).perform()


def focused(driver):
    return driver.switch_to.active_element


# --- in the browser ---


def seen_at(driver, element):
    """Whether nothing hides the place where an element begins."""
    code = """
      const box = arguments[0].getBoundingClientRect();
      const at = document.elementFromPoint(box.left + 6, box.top + box.height / 2);
      return at !== null && arguments[0].contains(at);
    """
    return driver.execute_script(code, element)


def test_the_page_says_what_was_compared(two):
    assert "gpt2: compared on a tiny model" in two
    assert "gpt_neox: compared on a tiny model" in two


def box(driver, selector):
    """Left, top, right and bottom of an element on the screen."""
    code = "const box = document.querySelector(arguments[0]).getBoundingClientRect(); return box.toJSON()"
    values = driver.execute_script(code, selector)
    return [values[side] for side in ("left", "top", "right", "bottom")]


@pytest.mark.parametrize("names", [("bundled",), ("gpt2", "gpt-neox")], ids=["one", "two"])
def test_the_explanation_is_seen_at_once_and_never_an_empty_panel(driver, served, two, names):
    pages, _, url = served
    pages["/page.html"] = two if names[1:] else to_html([subject(name) for name in names], plots=False)
    screen(driver, width=1400, height=900)
    driver.get(f"{url}/page.html")
    assert lit(driver) == (["wte", "tokens", "tokens", "embed_in"] if names[1:] else ["tokens", "embed_in"])
    assert "One learned vector of" in css(driver, "#about")[0].text
    for item in css(driver, "[role=treeitem]"):
        driver.execute_script("light(arguments[0])", item)
        left, top, right, bottom = box(driver, "#about")
        assert css(driver, "#about")[0].text
        assert 0 < left < right <= 1400
        assert top + 40 < bottom <= 900
    assert driver.execute_script("return scrollY") == 0


@pytest.mark.parametrize("width", [1400, 1920, 2560])
def test_the_width_of_a_desktop_is_used(opened, width):
    screen(opened, width=width, height=1080)
    for selector in (".explorer", "#parts", "#keys .wide"):
        left, _, right, _ = box(opened, selector)
        assert right - left > 0.9 * width
    places = {round(article.rect["x"]) for article in css(opened, "#parts article")}
    assert len(places) == (1 if width == 1400 else 2)  # each with two columns of its own
    trees, explained = box(opened, ".trees"), box(opened, ".explained")
    beside = explained[0] >= trees[2]
    assert beside == (width > 1400)
    assert beside or explained[1] >= trees[3]
    assert max(css(opened, "#parts p"), key=lambda p: p.rect["width"]).rect["width"] < 800


def test_pointing_at_a_line_lights_what_belongs_to_it_and_explains_it(opened):
    for gpt2, neox in SAME.items():
        first = css(opened, "[role=tree]")[0]
        [item] = [one for one in first.find_elements("css selector", "[role=treeitem]") if one.text.split()[0] == gpt2]
        point_at(opened, item)
        values = lit(opened)
        assert len(values) == 4
        assert (values[0], values[3]) == (gpt2, neox)
        assert values[1] == values[2]
        assert css(opened, "#lit")[0].text == " \u2014 ".join(values)
    point_at(opened, line(opened, "query_key_value"))
    assert lit(opened) == ["c_attn", "qkv", "qkv", "query_key_value"]
    selected = css(opened, "[role=treeitem][aria-selected=true]")
    assert selected == css(opened, "[role=treeitem].lit")
    assert all(seen_at(opened, item) for item in selected)  # each tree scrolls to what is lit in it
    assert len(css(opened, "article.lit")) == len(css(opened, "#about article")) == 1
    assert css(opened, "#about .lit, #about [data-part]") == []
    text = css(opened, "#about")[0].text
    assert "768 numbers in, 3 x 12 x 64 = 2,304 out" in text
    assert "transformer.h.{n}.attn.c_attn.weight, stored (in, out): transposed" in text
    assert "6,144 numbers in, 3 x 64 x 96 = 18,432 out" in text
    rows = css(opened, "#keys tr.lit")
    assert len(rows) == 2 * 44
    assert sum("c_attn" in row.text for row in rows) == 2 * 12


def test_a_line_that_only_one_side_has_is_lit_alone(opened):
    point_at(opened, line(opened, "attn_dropout"))
    assert lit(opened) == ["attn_dropout"]
    assert css(opened, "#lit")[0].text == "attn_dropout, no module of its own on the other side"
    assert "Dropout(p=0.1)" in css(opened, "#about")[0].text
    point_at(opened, line(opened, "transformer"))
    assert css(opened, "#lit")[0].text == "transformer, holds other parts"
    point_at(opened, line(opened, "rotary"))
    assert lit(opened) == ["rotary", "rotary_emb"]
    assert "the two conventions look alike and are not interchangeable" in css(opened, "#about")[0].text


def test_each_tree_scrolls_to_what_is_lit(opened):
    from selenium.webdriver import Keys

    screen(opened, width=1400, height=400)
    first = css(opened, "[role=tree]")[0].find_elements("css selector", "[role=treeitem]")
    opened.execute_script("arguments[0].focus()", first[0])
    press(opened, Keys.END)
    assert lit(opened) == ["lm_head", "head", "head", "lm_head"]
    inside = """
      const scrolled = arguments[0].closest("[role=tree]");
      const [line, tree] = [arguments[0], scrolled].map((one) => one.getBoundingClientRect());
      const within = line.top >= tree.top - 1 && line.bottom <= tree.bottom + 1;
      return scrolled.scrollHeight > scrolled.clientHeight && within;
    """
    assert all(opened.execute_script(inside, item) for item in css(opened, "[role=treeitem].lit"))


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (1280, 640), (360, 740)])
def test_what_is_clicked_or_focused_is_seen(opened, width, height):
    from selenium.webdriver import ActionChains, Keys

    screen(opened, width=width, height=height)
    opened.execute_script("document.querySelector('.trees').scrollIntoView()")
    item = line(opened, "wpe")
    ActionChains(opened).move_to_element(item).click().perform()
    assert focused(opened) == item
    for _ in range(16):
        press(opened, Keys.ARROW_DOWN)
        assert seen_at(opened, focused(opened))
        assert focused(opened) in css(opened, ".lit")


def test_a_pointer_at_rest_does_not_take_what_the_keyboard_lit(opened):
    from selenium.webdriver import Keys

    screen(opened, width=1280, height=500)
    point_at(opened, css(opened, "[role=tree]")[2].find_elements("css selector", "[role=treeitem]")[6])
    first = css(opened, "[role=tree]")[0].find_elements("css selector", "[role=treeitem]")
    opened.execute_script("arguments[0].focus()", first[0])
    for _ in range(12):
        press(opened, Keys.ARROW_DOWN)
        assert focused(opened) in css(opened, ".lit")


def test_keys_of_the_browser_stay_the_browser_s(opened):
    from selenium.webdriver import ActionChains, Keys

    first = css(opened, "[role=tree]")[0].find_elements("css selector", "[role=treeitem]")
    opened.execute_script("arguments[0].focus()", first[0])
    ActionChains(opened).key_down(Keys.CONTROL).send_keys(Keys.END).key_up(Keys.CONTROL).perform()
    assert focused(opened) == first[0]


def test_everything_is_reached_by_keyboard(opened):
    from selenium.webdriver import ActionChains, Keys

    stops = []
    for _ in range(40):
        press(opened, Keys.TAB)
        element = focused(opened)
        stops.append(element.get_attribute("role") or element.get_attribute("id") or element.tag_name)
        if element.get_attribute("id") == "filter":
            break
    assert stops.count("treeitem") == 4  # one stop a tree; within it the arrows go
    assert {"a", "differing", "filter", "region"} <= set(stops)
    first = css(opened, "[role=tree]")[0].find_elements("css selector", "[role=treeitem]")
    opened.execute_script("arguments[0].focus()", first[0])
    press(opened, Keys.ARROW_DOWN)
    assert lit(opened) == ["wte", "tokens", "tokens", "embed_in"]
    press(opened, Keys.ENTER)
    assert focused(opened).get_attribute("id") == "about"
    press(opened, Keys.ESCAPE)
    assert focused(opened) == first[1]
    for expected in ("tokens", "tokens", "embed_in", "embed_in"):
        press(opened, Keys.ARROW_RIGHT)
        assert focused(opened).text.split()[0] == expected
    press(opened, Keys.ARROW_LEFT, Keys.END)
    assert focused(opened).text.split()[0] == "head"
    press(opened, Keys.HOME)
    assert focused(opened).text.split()[0] == "embed"
    assert focused(opened).value_of_css_property("outline-style") == "solid"
    press(opened, Keys.TAB)
    assert focused(opened).text.split()[0] == "embed_in"  # where that tree was left
    ActionChains(opened).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
    assert focused(opened).text.split()[0] == "embed"  # where the tree was left


def test_the_filter_leaves_the_rows_that_have_every_word(opened):
    from selenium.webdriver import Keys

    rows = css(opened, "#keys tbody tr")
    count = css(opened, "#count")[0]
    assert count.text == f"{len(rows)} of {len(rows)} rows"
    filter_box = css(opened, "#filter")[0]
    filter_box.send_keys("C_Attn  blocks.3.")
    shown_rows = [row.text for row in rows if row.is_displayed()]
    assert count.text == f"2 of {len(rows)} rows"
    assert [text.split()[0] for text in shown_rows] == ["blocks.3.attn.qkv.weight", "blocks.3.attn.qkv.bias"]
    filter_box.send_keys(" nowhere")
    assert count.text == f"0 of {len(rows)} rows"
    press(opened, Keys.ESCAPE)
    assert count.text == f"{len(rows)} of {len(rows)} rows"


def test_only_what_differs(opened):
    rows = css(opened, "#differences tbody tr")
    box = css(opened, "#differing")[0]
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
    box.click()
    shown = [row.text for row in rows if row.is_displayed()]
    assert 0 < len(shown) < len(rows)
    assert all(text.endswith("differs") for text in shown)
    assert any("wiring" in text for text in shown)
    assert not any("norm eps" in text for text in shown)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1400])
def test_it_is_readable_in_light_and_dark_and_on_a_phone(opened, dark, width):
    screen(opened, width=width, dark=dark)
    point_at(opened, line(opened, "c_attn"))
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    assert opened.execute_script(CONTRAST) >= 4.5
    background = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 200) == dark


def test_no_request_leaves_the_page(driver, served):
    pages, asked, url = served
    pages["/one.html"] = to_html([subject("bundled", headers_only=False)])
    requests(driver)
    asked.clear()
    driver.get(f"{url}/one.html")
    assert asked == ["/one.html"]
    assert "tiny model" not in pages["/one.html"]  # its own weights were compared
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
    pictures = css(driver, "#plots img")
    assert len(pictures) == 3
    assert pictures[0].get_attribute("alt").endswith("def __init__(self, name):\\n self.name = name")
    assert all(driver.execute_script("return arguments[0].naturalWidth", one) > 100 for one in pictures)
    values = set()
    for _ in range(50):  # the browser may write its log a little later
        values |= set(requests(driver))
        if f"{url}/one.html" in values:
            break
        time.sleep(0.1)
    asked_for = {address for address in values if address.partition(":")[0] not in ("data", "chrome")}
    assert asked_for == {f"{url}/one.html"}
    # And it could send none if something got in.
    driver.execute_script(f"new Image().src = '{url}/leak'; fetch('{url}/leak').catch(() => 0);")
    driver.execute_script("document.body.insertAdjacentHTML('beforeend', '<iframe src=\"/leak\"></iframe>')")
    driver.execute_async_script("setTimeout(arguments[0], 300)")
    assert asked == ["/one.html"]


def test_hostile_names_stay_text(driver, served, tmp_path):
    pages, asked, url = served
    folder = tmp_path / HOSTILE
    reference("gpt2").save_pretrained(folder)
    shown_rows = subject(str(folder), headers_only=False)
    steps = [replace(step, keys=(f"{step.keys[0]}</script></style>{HOSTILE}",)) for step in shown_rows.plan.steps]
    tensors = replace(shown_rows.plan.tensors, steps=tuple(steps))
    odd = replace(shown_rows, plan=replace(shown_rows.plan, tensors=tensors), like=HOSTILE)
    setattr(odd.model.blocks[0], HOSTILE.replace(".", ""), torch.nn.Dropout())
    odd.model.blocks[1].mlp.activation.extra_repr = lambda: HOSTILE
    verdict = Report(HOSTILE, HOSTILE, HOSTILE, (), problems=(HOSTILE,))
    text = to_html([odd], verdicts=[verdict], plots=False)
    pages["/hostile.html"] = text.replace("</main>", f"{_pictures(to_html([shown_rows]))}</main>")
    asked.clear()
    driver.get(f"{url}/hostile.html")
    assert asked == ["/hostile.html"]
    assert driver.title == f"archport: {folder}"
    assert HOSTILE in css(driver, "h1")[0].text
    assert all(f"</script></style>{HOSTILE}" in row.text for row in css(driver, "#keys tbody tr"))
    assert HOSTILE.replace(".", "") in css(driver, "[role=tree]")[0].text
    assert f"GELU({HOSTILE})" in css(driver, "[role=tree]")[0].text
    assert css(driver, "#verdict")[0].text.count(HOSTILE) >= 4
    images = css(driver, "img")
    assert len(images) == 2
    assert all(HOSTILE in image.get_attribute("alt") for image in images)
    assert css(driver, "[onerror]") == []
    assert len(css(driver, "script")) == 1
    point_at(driver, line(driver, "c_attn"))
    assert lit(driver) == ["qkv", "qkv", "qkv", "c_attn"]  # one of three blocks is not as the others
    assert driver.title != "owned"


def _pictures(text):
    return "".join(re.findall(r"<img .*", text))


# --- without one ---


def test_text_stays_text_and_what_is_not_seen_is_spelt_out():
    def table(*rows, caption=""):
        return render("notebook.html", rows=rows, caption=caption)

    text = table({"<b>": '<a href="x">&\''}, {"<b>": "a\n\u202eb\0"}, {"<b>": "  indented"}, caption="<i>\u202e")
    assert "<b>" not in text
    assert "<i>" not in text
    assert "\u202e" not in text
    [link, odd, indented] = re.findall(r"<td>(.*)</td>", text)
    assert not re.search(r"[<>\"']", link)
    assert html.unescape(link) == '<a href="x">&\''
    assert odd == "a\\n\\u202eb\\x00"
    assert indented == "&nbsp;&nbsp;indented"
    assert table().split() == ["<table><thead><tr></tr></thead><tbody>", "</tbody></table>"]


def test_the_policy_allows_the_style_and_the_script_of_the_page_and_no_other(two):
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', two)
    for directive, tag in (("style-src", "style"), ("script-src", "script")):
        [text] = re.findall(rf"<{tag}>(.*?)</{tag}>", two, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in html.unescape(policy)
    assert "default-src 'none'" in html.unescape(policy)


def test_a_template_that_lacks_a_value_says_so():
    with pytest.raises(UndefinedError):
        render("notebook.html", rows=[])


def test_two_checkpoints_of_one_architecture_are_compared_tensor_by_tensor(tmp_path):
    for seed, name in enumerate(("one", "other")):
        reference("gpt2", seed=seed).save_pretrained(tmp_path / name)
    text = to_html([subject(tmp_path / name, headers_only=False) for name in ("one", "other")], plots=False)
    assert "<caption>40 of 40 tensors differ; relative is the root mean square" in text
    assert "<img" not in text


def test_the_command(tmp_path):
    reference("gpt2").save_pretrained(tmp_path / "gpt2")
    done = run("page", "gpt2", "gpt-neox", "-o", "page.html", "--no-plots", cwd=tmp_path)
    page = (tmp_path / "page.html").read_text()
    assert done.stdout == f"page.html  {len(page.encode()):,} bytes\n"
    assert "gpt2 in archport" in page
    assert "https://" not in page
    assert (
        "is there already: choose another name, or --force"
        in run("page", "gpt2", "-o", "page.html", cwd=tmp_path, code=1).stderr
    )
    assert (tmp_path / "page.html").read_text() == page
    run("page", "gpt2", "-o", "page.html", "--force", "--verify", cwd=tmp_path)
    page = (tmp_path / "page.html").read_text()
    assert "gpt2: the same model as transformers (eager) in float32, by all" in page
    assert 'alt="gpt2: embed.positions.weight, 37 x 60"' in page
    with torch.no_grad():
        model = reference("gpt2")
        model.transformer.h[1].mlp.c_fc.weight[0, 0] = torch.nan
    model.save_pretrained(tmp_path / "nan")
    done = run("page", "nan", "-o", "nan.html", "--verify", cwd=tmp_path, code=1)
    assert "nan: NOT the same model as transformers" in done.stdout
    page = (tmp_path / "nan.html").read_text()
    assert "NOT the same in both" not in page  # the same NaN, in the same place
    assert "blocks.1.mlp.up.weight" in page.partition('id="plots"')[2]
    assert (
        "nowhere.html: cannot be written: there is no folder"
        in run("page", "gpt2", "-o", "not/nowhere.html", cwd=tmp_path, code=1).stderr
    )
    assert "expected a name ending in .html or .htm" in run("page", "gpt2", "-o", "p.pdf", cwd=tmp_path, code=1).stderr


def test_the_same_page_twice():
    pages = [to_html([subject("bundled", headers_only=False)]) for _ in range(2)]
    assert pages[0] == pages[1]


def test_an_architecture_of_ones_own_has_no_reference_and_a_page_all_the_same():
    arch = replace(archport.registry.architecture("gpt2"), name="nobody")
    text = to_html([replace(subject("gpt2"), architecture=arch)])
    assert "no tree to compare with" in text
    assert "transformers cannot build the reference" in text


def test_a_join_that_does_not_hold_is_marked_in_both_trees(driver, served):
    pages, _, url = served
    shown_rows = subject("gpt2")
    modules = dict(shown_rows.architecture.table.modules)
    modules["blocks.{n}.mlp.activation"] = modules.pop("blocks.{n}.mlp.dropout")
    wrong = replace(shown_rows.architecture, table=replace(shown_rows.architecture.table, modules=modules))
    pages["/wrong.html"] = to_html([replace(shown_rows, architecture=wrong)])
    for dark in (False, True):
        screen(driver, dark=dark)
        driver.get(f"{url}/wrong.html")
        point_at(driver, line(driver, "activation"))
        marks = css(driver, "[role=treeitem].lit abbr")
        assert [mark.text for mark in marks] == ["!", "!"]
        assert {mark.get_attribute("title") for mark in marks} == {"NOT the same in both"}
        assert all("wrong" in mark.get_attribute("class") for mark in marks)
        assert driver.execute_script(CONTRAST) >= 4.5


def test_ignored_tensors_have_rows_of_their_own(tmp_path):
    model = reference("gpt2")
    weights = model.state_dict() | {f"transformer.h.{n}.attn.masked_bias": torch.zeros(()) for n in range(3)}
    model.save_pretrained(tmp_path, state_dict={key: value.clone() for key, value in weights.items()})
    text = to_html([subject(tmp_path)])
    assert len(re.findall(r"<td>transformer.h.\d.attn.masked_bias</td>", text)) == 3
    assert "stored (in, out): transposed; columns are all queries" in text


# --- notebooks ---


def test_models_plans_and_reports_show_themselves_in_notebooks():
    model, plan = archport.load(), archport.plan()
    assert "<td>blocks.0-5</td><td>6 x ParallelBlock</td>" in model._repr_html_()
    assert "3,456,000 parameters" in model._repr_html_()
    assert "<td>gpt_neox.embed_in.weight</td><td>in place</td>" in plan._repr_html_()
    assert plan._repr_html_().count("<tr>") == 1 + len(plan.steps)
    report = archport.verify(quick=True)
    assert report.verdict in report._repr_html_()
    with swapping("int8") as can:
        packed = archport.load(linears="int8")._repr_html_()
    assert ("int8" in packed.lower()) == can
    assert ("not counting its linear maps, which are packed" in packed) == can
    assert can or packed == model._repr_html_()
    bare = archport.Decoder(embed=model.embed, blocks=model.blocks, norm=model.norm, head=model.head)
    assert "Decoder: " in bare._repr_html_()
    assert torch.is_tensor(model.head.weight)
    assert json.dumps(plan.key_table)
