"""The page: whole without its surroundings, true to the run's files, and never obeying a name."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from crafted import craft, made_up
from PIL import Image

from convatlas.data import Data, open_data
from convatlas.errors import BadCheckpoint
from convatlas.infer import Run
from convatlas.report import write_report
from convatlas.report.run_report import render
from convatlas.train import Recipe, RunFolder, begin

ALLOWED = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "header",
        "footer",
        "nav",
        "section",
        "script",
    ),
    *("p", "h1", "h2", "h3", "a", "div", "span", "b", "i", "dl", "dt", "dd", "ul", "li", "code", "pre"),
    *(
        "table",
        "thead",
        "tbody",
        "tfoot",
        "tr",
        "th",
        "td",
        "details",
        "summary",
        "figure",
        "figcaption",
        "img",
    ),
    *("svg", "g", "path", "defs", "use", "text", "clippath", "rect"),
}
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Tags with attributes, text, and proof that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def digits() -> Data:
    return open_data("digits")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, digits: Data) -> RunFolder:
    """LeNet-5 on the digits, 2 epochs with mixup, evaluated on val and test."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    folder = begin(
        digits,
        model="lenet5",
        settings={"epochs": 2, "mixup": 0.5},
        out=out,
    )
    run = Run.load(folder.path)
    for split in (digits.val, digits.test):
        folder.write_evaluation(split.name, run.evaluate(split, fingerprint=digits.fingerprint).to_json())
    return folder


@pytest.fixture(scope="module")
def html(trained: RunFolder, digits: Data) -> str:
    return render(trained, digits)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def harmless(html: str) -> None:
    """Nothing but our elements, no handler, nothing from elsewhere, one script with the allowed hash."""
    page = Page(html)
    assert {tag for tag, _ in page.tags} <= ALLOWED
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")], (tag, attrs)
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            target = attrs.get(name)
            assert target is None or target.startswith(
                ("#", "data:image/png;base64,", "data:image/jpeg;base64,")
            )
    assert len(page.all("script")) == 1
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = next(attrs["content"] for attrs in page.all("meta") if attrs.get("http-equiv"))
    assert policy
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not re.search(r"@import|url\((?!#)", html)


def test_sections_in_order_and_all_offline(html: str, page: Page) -> None:
    harmless(html)
    ids = [attrs["id"] for attrs in page.all("section")]
    assert ids == [
        "headline",
        "data",
        "curves",
        "confusion",
        "mistakes",
        "saw",
        "classes",
        "cost",
        "settings",
        "again",
    ]
    assert {str(attrs["href"])[1:] for attrs in page.all("a")} <= set(ids)
    assert any(attrs.get("name") == "viewport" for attrs in page.all("meta"))
    assert "prefers-color-scheme: dark" in html


def test_figures_are_those_of_the_files(trained: RunFolder, page: Page, digits: Data) -> None:
    test, val = trained.evaluation("test"), trained.evaluation("val")
    assert test
    assert val
    for split, evaluation in (("Test", test), ("Validation", val)):
        hits = sum(evaluation["confusion"][k][k] for k in range(10))
        low, high = (100 * bound for bound in evaluation["top1_interval"])
        shown = f"{split} accuracy {100 * evaluation['top1']:.1f} % 95 % interval {low:.1f} % to {high:.1f} %: {hits}"
        assert shown in page.text
        assert f"{hits} of {evaluation['count']} {split.lower()} images right" in page.text
    for score in test["per_class"]:
        shares = [_pct(score[figure]) for figure in ("precision", "recall", "f1")]
        assert f" {score['name']} {' '.join(shares)} {score['count']} " in page.text
    assert "nothing was chosen by them" in page.text
    assert "61,706" in page.text
    assert "416,520" in page.text
    assert "convatlas train digits" in page.text
    assert digits.fingerprint in page.text
    for note in digits.notes:
        assert note in page.text
    for name, value in trained.read_run()["versions"].items():
        assert f"{name} {value}" in page.text
    for split in digits.splits:
        per_class = [int((split.labels == k).sum()) for k in range(10)]
        assert f"{split.name} {' '.join(map(str, per_class))} {len(split):,}" in page.text
    assert "mixup" in page.text


def _pct(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.{0 if share in (0, 1) else 1}f} %"


def test_confusion_table_is_the_confusion_matrix(trained: RunFolder, html: str) -> None:
    confusion = trained.evaluation("test")["confusion"]  # type: ignore[index]
    matrix = re.search(r'<table class="matrix">.*?<tbody>(.*?)</tbody>', html, re.DOTALL)
    assert matrix
    rows = [re.findall(r"<td[^>]*>(\d*)</td>", row) for row in matrix[1].split("</tr>")[:-1]]
    assert [[int(cell or 0) for cell in row] for row in rows] == confusion


def test_pictures_are_those_that_were_misjudged(trained: RunFolder, html: str, digits: Data) -> None:
    """Small pictures are embedded bit for bit, so they can be compared with the data."""
    gallery = re.search(r'<section id="mistakes">(.*?)</section>', html, re.DOTALL)
    assert gallery
    found = re.findall(r'src="data:image/png;base64,([^"]+)".*?title="([^"]+)"', gallery[1], re.DOTALL)
    assert len(found) >= 16
    place = {key: i for i, key in enumerate(digits.test.keys)}
    for content, key in found:
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            assert image.tobytes() == digits.test.image(place[key])[..., 0].tobytes()


def test_the_same_folder_gives_the_same_page(trained: RunFolder, digits: Data, html: str) -> None:
    assert render(trained, digits) == html
    assert write_report(trained, digits) == trained.report_path
    assert trained.report_path.read_text(encoding="utf-8") == html


def test_without_the_images_it_says_so(trained: RunFolder, digits: Data) -> None:
    page = Page(render(trained))
    assert "The images were not at hand" in page.text
    assert "augmented pictures need the images" in page.text
    assert "Most frequent mistakes" in page.text
    other = Page(render(trained, replace(digits, fingerprint="another")))
    assert "not those of the run" in other.text
    assert not [attrs for attrs in other.all("img") if "kernels" in str(attrs)]


def test_without_a_test_split_it_promises_nothing(trained: RunFolder, digits: Data, tmp_path: Path) -> None:
    copy = RunFolder(Path(shutil.copytree(trained.path, tmp_path / "copy")))
    (copy.path / "evaluation" / "test.json").unlink()
    page = Page(render(copy, digits))
    assert "There is no test accuracy." in page.text
    assert "Test accuracy" not in page.text
    shutil.rmtree(copy.path / "evaluation")
    page = Page(render(copy, digits))
    assert "has not been evaluated yet" in page.text
    (copy.path / "metrics.jsonl").unlink()
    (copy.path / "timing.jsonl").unlink()
    assert "no metrics yet" in Page(render(copy)).text


def test_a_damaged_evaluation_is_named(trained: RunFolder, tmp_path: Path) -> None:
    copy = RunFolder(Path(shutil.copytree(trained.path, tmp_path / "copy")))
    path = copy.path / "evaluation" / "test.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "count": 3}))
    with pytest.raises(BadCheckpoint, match=r"test\.json: .*count"):
        render(copy)


HOSTILE = [
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "'onmouseover='alert(1)", "</title><b>", "</style>",
    "{{ 7 * 7 }}", "{% raw %}", "&lt;b&gt;", "javascript:alert(1)", "]]>", "<!--", "$\\frac{1}{2}$", "a\u202eb",
    "a\x00b\x1b[31m", "caf\udce9", "😀 ß", "x" * 300, "\n", "--></script><svg/onload=alert(1)>",
]  # fmt: skip


def test_names_are_shown_and_never_obeyed(tmp_path: Path) -> None:
    keys = [f"{name}/{i}.png" for i in range(3) for name in HOSTILE]
    everywhere = " ".join(HOSTILE)
    folder = craft(
        tmp_path / "run", HOSTILE, keys=keys, command=["convatlas", *HOSTILE], choice=everywhere, notes=HOSTILE,
        where=f"/data/{HOSTILE[1]}",
        created=HOSTILE[0], machine={"processor": everywhere}, versions={name: name for name in HOSTILE[:5]},
        recipe_name=HOSTILE[0],
        data={"kind": HOSTILE[0], "notes": HOSTILE, "per_class": {"train": dict.fromkeys(HOSTILE, 3)}},
    )  # fmt: skip
    html = write_report(folder).read_text(encoding="utf-8")
    harmless(html)
    assert "<script>alert(1)" not in html
    assert "{{ 7 * 7 }}" in html
    for character in ("\u202e", "\x00", "\x1b"):
        assert character not in html
    assert "caf\\udce9" in html
    assert "😀 ß" in html


def test_hostile_names_on_the_disk(tmp_path: Path, trained: RunFolder) -> None:
    """Folders and files named by an attacker, with the pictures embedded."""
    for label, colour in (("<img src=x onerror=alert(1)>", "red"), ('b" onload="alert(1)', "blue")):
        for number in range(14):
            path = tmp_path / "data" / label / f"{number}'\"><script>alert(2)<.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((24, 24), 90 + number).convert("RGB").save(path)
            with Image.open(path) as image:
                Image.blend(image.convert("RGB"), Image.new("RGB", (24, 24), colour), 0.3).save(path)
    data = open_data(tmp_path / "data")
    folder = begin(data, model="lenet5", settings={"epochs": 1, "batch_size": 8}, out=tmp_path / "run")
    folder.write_evaluation(
        "val", Run.load(folder.path).evaluate(data.val, fingerprint=data.fingerprint).to_json()
    )
    html = write_report(folder, data).read_text(encoding="utf-8")
    harmless(html)
    assert len(Page(html).all("img")) > 10


@pytest.mark.parametrize("count", [2, 13, 24, 25, 100, 120, 121])
def test_any_number_of_classes(tmp_path: Path, count: int) -> None:
    classes = [f"kind {i}" for i in range(count)]
    html = write_report(craft(tmp_path / "run", classes)).read_text(encoding="utf-8")
    harmless(html)
    assert ('class="matrix dense"' in html) == (24 < count <= 120)
    assert ("too many to draw" in html) == (count > 120)
    cells = (
        re.search(r"<tbody>(.*?)</tbody>", html.split('class="matrix')[1], re.DOTALL)
        if count <= 120
        else None
    )
    assert cells is None or cells[1].count("<td") == count**2
    assert len(html) < 1_500_000
    times = made_up(classes).confused_pairs()[:1]
    assert not times or f"{times[0][0]} {times[0][1]} {times[0][2]} " in Page(html).text


def test_the_augmented_batch_is_the_one_that_was_trained_on(trained: RunFolder, digits: Data) -> None:
    """The pictures shown are the first of step 0, made by the loop's own settings."""
    from convatlas.data import Batches, Preprocessing
    from convatlas.plots import thumbnail
    from convatlas.report.pictures import augmented
    from convatlas.train import Recipe

    decided = trained.read_run()
    recipe, plain = Recipe.from_json(decided["recipe"]), Preprocessing.from_json(decided["preprocessing"])
    shown = augmented(digits, recipe, plain, decided["seed"])
    batches = Batches(
        digits.train, plain, batch_size=recipe.batch_size, augment=recipe.augment(digits.train), seed=decided["seed"],
        shuffle=True, drop_last=True,
    )  # fmt: skip
    batch = next(iter(batches.epoch(0)))
    images = plain.restore(batch.images)
    for i, picture in enumerate(shown):
        assert picture["src"] == thumbnail(images[i].permute(1, 2, 0).contiguous().numpy(), 192)[0]
        assert abs(sum(weight for _, weight in picture["names"]) - 1) < 1e-6
    assert any(len(picture["names"]) == 2 for picture in shown)


# --- what it started from -----------------------------------------------------------------------------------


def test_the_top_says_what_the_run_started_from(trained: RunFolder, tmp_path: Path) -> None:
    scratch = Page(render(trained)).text
    assert scratch.index("Started from scratch: random weights.") < scratch.index("accuracy")

    official = {
        "kind": "official", "title": "official weights: torchvision resnet18 V1", "reason": "--weights <torchvision>",
        "sha256": "ab" * 32, "head": "new", "left_out": ["fc.weight", "fc.bias"], "drawn": [], "confirmed": False,
        "held": ["features.conv1", "features.<b>"], "names": "torchvision", "file": "x", "url": "y", "source": "z",
    }  # fmt: skip
    recipe = Recipe(body_lr=0.1).to_json()
    run = craft(tmp_path / "official", ["ant", "bee"], start=official, recipe=recipe)
    text = Page(render(run)).text
    assert text.index("Started from official weights: torchvision resnet18 V1.") < text.index("accuracy")
    for said in (
        "Why: --weights <torchvision>.", "abababab", "no published hash confirms", "left out: fc.weight, fc.bias.",
        "learns at 0.1 of the rate", "Held as they were, not trained: features.conv1 , features.<b> .",
    ):  # fmt: skip
        assert said in text, said
    kept = {**official, "head": "kept", "left_out": [], "held": ["features.conv1"]}
    text = Page(render(craft(tmp_path / "kept", ["ant", "bee"], start=kept))).text
    assert "Its classifier is kept." in text
    assert "Held as it was" in text


@pytest.mark.parametrize(
    ("weights", "says"), [(None, "from scratch: random weights"), ("w.pt", "from w.pt.")]
)
def test_a_run_of_the_first_version_says_it_too(tmp_path: Path, weights: str | None, says: str) -> None:
    assert says in Page(render(craft(tmp_path / "run", ["ant", "bee"], weights=weights))).text
