"""Whatever a picture comes in, the same picture gives the same prediction."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from convatlas.data import Data
from convatlas.errors import BadImage, DataError, UsageError
from convatlas.infer import Prediction, Run


@pytest.fixture(scope="module")
def digit(digits: Data) -> NDArray[np.uint8]:
    return digits.test.image(0)


@pytest.fixture
def folder(tmp_path: Path, digits: Data) -> Path:
    """Six digits in three folders, and files that are none."""
    for number in range(6):
        place = tmp_path / "scans" / f"page {number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.test.image(number)[..., 0]).save(
            place / f"{number}.{'PNG' if number else 'bmp'}"
        )
    (tmp_path / "scans" / "notes.txt").write_text("no picture")
    (tmp_path / "scans" / ".hidden").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "scans" / ".hidden" / "x.png")
    return tmp_path / "scans"


def png(digit: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(digit[..., 0]).save(buffer, "PNG")
    return buffer.getvalue()


def values(prediction: Prediction) -> tuple[object, ...]:
    return prediction.label, prediction.probability, prediction.top


def test_every_form_of_one_picture_agrees(run: Run, digit: NDArray[np.uint8], tmp_path: Path) -> None:
    path = tmp_path / "digit.png"
    path.write_bytes(png(digit))
    grey = Image.fromarray(digit[..., 0])
    forms = [
        path, str(path), tmp_path, str(tmp_path / "*.png"), grey, grey.convert("RGB"), grey.convert("RGBA"),
        grey.convert("CMYK").convert("RGB"), grey.convert("F"), digit, digit[..., 0], np.repeat(digit, 3, axis=2),
        np.dstack([np.repeat(digit, 3, axis=2), np.full(digit.shape[:2], 255, np.uint8)]),
    ]  # fmt: skip
    first, *rest = [values(run.predict(form)[0]) for form in forms]
    assert all(other == first for other in rest)
    thrice = run.predict(forms[:1] * 3)
    assert thrice[0].label == first[0]
    assert len({values(each) for each in thrice}) == 1


def test_prediction_is_the_softmax_of_the_network(run: Run, digits: Data) -> None:
    arrays = [digits.test.image(i) for i in range(40)]
    found = run.predict(arrays, topk=10, batch_size=16)
    with torch.inference_mode():
        logits = run.model(
            run.preprocessing.normalise(torch.stack([run.preprocessing.fit(a) for a in arrays]))
        )
    shares = logits.softmax(1)
    for row, prediction in zip(shares, found, strict=True):
        assert prediction.label == run.classes[int(row.argmax())]
        assert prediction.probability == pytest.approx(float(row.max()), abs=1e-6)
        assert [label for label, _ in prediction.top] == [
            run.classes[i] for i in row.argsort(descending=True)
        ]
        assert sum(share for _, share in prediction.top) == pytest.approx(1, abs=1e-5)
    evaluated = run.evaluate(digits.test)
    assert [prediction.label for prediction in found] == [run.classes[i] for i in evaluated.predicted[:40]]


def test_folders_are_searched_below_in_order(run: Run, folder: Path) -> None:
    found = run.predict(folder)
    names = [Path(each.name).relative_to(folder).as_posix() for each in found]
    assert names == [
        "page 0/0.bmp",
        "page 0/3.PNG",
        "page 1/1.PNG",
        "page 1/4.PNG",
        "page 2/2.PNG",
        "page 2/5.PNG",
    ]
    assert [each.name for each in run.predict(str(folder / "**" / "*.PNG"))] == [
        each.name for each in found[1:]
    ]
    assert (
        len(run.predict(str(folder / "**"))) == 6 + 1 - 1
    )  # the pattern names folders too; each picture once


def test_workers_and_batches_change_nothing(run: Run, folder: Path) -> None:
    expected = run.predict(folder)
    assert run.predict(folder, workers=3) == expected
    assert [values(each)[0] for each in run.predict(folder, batch_size=1)] == [
        each.label for each in expected
    ]


def test_names_tell_pictures_apart(run: Run, digit: NDArray[np.uint8], tmp_path: Path) -> None:
    (tmp_path / "[1].png").write_bytes(png(digit))  # a file's name that would be a pattern
    assert run.predict(str(tmp_path / "[1].png"))[0].name == str(tmp_path / "[1].png")
    assert len({each.name for each in run.predict([digit, digit, Image.fromarray(digit[..., 0])])}) == 3


def test_bad_files_are_an_error_or_a_list(run: Run, folder: Path) -> None:
    (folder / "empty.png").touch()
    (folder / "page 0" / "text.jpg").write_text("no picture")
    (folder / "broken.png").write_bytes((folder / "page 1" / "1.PNG").read_bytes()[:40])
    with pytest.raises(BadImage, match=r"broken\.png"):
        run.predict(folder)
    for workers in (0, 2):
        found = run.predict(folder, on_bad="skip", workers=workers)
        assert len(found) == 6
        assert {(Path(bad.key).name, bad.reason) for bad in found.bad} == {
            ("broken.png", "truncated"), ("empty.png", "empty"), ("text.jpg", "not an image"),
        }  # fmt: skip
    with pytest.raises(BadImage, match=r"notes\.txt"):  # named itself, it is tried
        run.predict(folder / "notes.txt")


def test_what_cannot_be_a_picture(run: Run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        run.predict(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match="no picture matches"):
        run.predict(str(tmp_path / "*.png"))
    with pytest.raises(DataError, match="holds no pictures"):
        run.predict(tmp_path)
    with pytest.raises(DataError, match="no pictures were given"):
        run.predict([])
    with pytest.raises(DataError, match="int is not a picture"):
        run.predict([5])
    for array in (
        np.zeros((8, 8), np.float32),
        np.zeros((8, 8, 2), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros(8, np.uint8),
    ):
        with pytest.raises(BadImage, match="shape"):
            run.predict(array)
    for wrong in ({"topk": 0}, {"batch_size": 0}, {"workers": -1}, {"on_bad": "hide"}):
        with pytest.raises(UsageError):
            run.predict(np.zeros((8, 8), np.uint8), **wrong)


def test_a_link_that_leads_out_of_the_folder_is_not_followed(
    run: Run, digit: NDArray[np.uint8], folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret.txt").write_text("password")
    (tmp_path / "outside.png").write_bytes(png(digit))
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "inner.png").write_bytes(png(digit))
    (folder / "a.png").symlink_to(tmp_path / "secret.txt")
    (folder / "b.png").symlink_to(tmp_path / "outside.png")
    (folder / "c.png").symlink_to(folder / "page 1" / "1.PNG")
    (folder / "d").symlink_to(tmp_path / "more")
    for pattern in (
        folder,
        str(folder / "*.png"),
        str(folder / "**"),
        str(folder / "d*" / "*.png"),
        str(folder / "?"),
    ):
        found = run.predict(pattern, on_bad="skip")
        out = {Path(bad.key).name for bad in found.bad}
        assert {bad.reason for bad in found.bad} == {"link"}
        assert out <= {"a.png", "b.png", "inner.png"}
        assert not {Path(each.name).name for each in found} & {"a.png", "b.png", "inner.png"}
    assert "c.png" in {Path(each.name).name for each in run.predict(folder, on_bad="skip")}
    with pytest.raises(BadImage) as caught:
        run.predict(folder)
    assert "passw" not in str(caught.value)
    assert (
        len(run.predict([folder / "b.png", str(folder / "c.png")])) == 2
    )  # named itself, a link is followed
    (tmp_path / "linked").symlink_to(folder / "page 1")
    assert len(run.predict(tmp_path / "linked")) == len(run.predict(str(tmp_path / "linked" / "*"))) == 2


def test_a_pipe_is_refused_at_once(run: Run, tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BadImage, match="a pipe"):
        run.predict(tmp_path / "pipe.png")


def test_the_network_stays_in_evaluation_mode(run: Run, digit: NDArray[np.uint8]) -> None:
    assert not any(module.training for module in run.model.modules())
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    run.predict(digit)
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.model.state_dict().items())
