"""Official weights, from a server on this machine: whole or not at all, checked, converted once, then offline."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor

from convatlas.errors import BadCheckpoint, ResourceError, UsageError
from convatlas.models import create_model, specs
from convatlas.models.classifier import Classifier
from convatlas.weights import download as downloads
from convatlas.weights import official, save_weights
from convatlas.weights.download import NotFetched, download
from convatlas.weights.official import Official, cache_folder, fetch, find_official, has_official
from convatlas.weights.timm_weights import TIMM


@dataclass
class Server:
    """Answers by path: (status, headers, body, what goes wrong)."""

    answers: dict[str, tuple[int, dict[str, str], bytes, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def give(self, path: str, body: bytes = b"", status: int = 200, wrong: str = "", **headers: str) -> str:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers[path] = (status, named, body, wrong)
        return self.url + path


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            state.agents.append(self.headers.get("User-Agent", ""))
            path = self.path.partition("127.0.0.1")[2].partition("/")[2] if "://" in self.path else self.path
            status, headers, body, wrong = state.answers.get(path, (404, {}, b"", ""))
            if wrong == "silent":
                state.release.wait(30)
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if wrong != "no length":
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if wrong == "cut" else body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = False  # `server_close` waits for them
    state.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield state
    state.release.set()
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("CONVATLAS_CACHE", str(folder))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    return folder


def pickled(state: dict[str, Tensor]) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def resnet18_state(classes: int = 1000) -> dict[str, Tensor]:
    torch.manual_seed(3)
    return torchvision.models.resnet18(num_classes=classes).state_dict()


TINY = pickled({"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)})


def tiny(server: Server, body: bytes = TINY, digest: str | None = None, **answer: Any) -> Official:
    digest = hashlib.sha256(TINY).hexdigest()[:8] if digest is None else digest
    file = f"tiny-{digest}.pth"
    url = server.give(f"/models/{file}", body, **answer)
    return Official(
        "torchvision", "tiny", "V1", url, file, digest, 224, 0.875, "bilinear", (0.5,) * 3, (0.5,) * 3
    )


def files(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != ".lock"
    )


# --- fetching -----------------------------------------------------------------------------------------------


def test_fetched_once_checked_and_converted(server: Server, cache: Path) -> None:
    weights = tiny(server)
    first = fetch(weights)
    assert first.sha256 == hashlib.sha256(TINY).hexdigest()
    assert first.confirmed
    folder = f"torchvision/tiny-{weights.hash}/weights-1"
    assert files(cache) == [
        f"{folder}/{name}" for name in ("manifest.json", "model.safetensors", "origin.json")
    ]
    state, again = official.read_official(weights)
    assert again == first
    assert torch.equal(state["weight"], torch.arange(6.0).view(2, 3))
    assert server.asked == [f"/models/{weights.file}"], "asked once"
    assert "convatlas" in server.agents[0]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"wrong": "cut"}, "cut short"),
        ({"body": TINY + b"x"}, "another file"),
        ({"body": b"<html>sign in</html>"}, "another file"),
        ({"status": 404}, "404"),
        ({"status": 503}, "503"),
        ({"wrong": "silent"}, "silent for 0.3 s"),
        ({"status": 302, "Location": "ftp://127.0.0.1/x"}, "neither http nor https"),
    ],
)
def test_what_does_not_arrive_whole_leaves_nothing(
    server: Server, cache: Path, answer: dict[str, Any], says: str
) -> None:
    weights = tiny(server, **answer)
    with pytest.raises(ResourceError, match=says) as refusal:
        fetch(weights, silence=0.3)
    for help_ in (weights.url, str(cache / "torchvision" / weights.file), "--weights FILE"):
        assert help_ in str(refusal.value)
    assert files(cache) == []


def test_after_a_failure_it_is_fetched_as_if_nothing_had_been(server: Server, cache: Path) -> None:
    weights = tiny(server, wrong="cut")
    with pytest.raises(ResourceError):
        fetch(weights)
    (cache / "torchvision" / f"tiny-{weights.hash}" / "download.pth").write_bytes(b"left by a killed process")
    tiny(server)  # the server is well again
    assert fetch(weights).confirmed
    assert "download.pth" not in str(files(cache))


def test_no_server_at_all(server: Server, cache: Path) -> None:
    weights = tiny(server)
    gone = Official(**{**vars(weights), "url": "http://127.0.0.1:9/tiny.pth"})
    with pytest.raises(ResourceError, match="no connection"):
        fetch(gone)
    assert files(cache) == []


def test_beyond_this_machine_it_is_a_clear_error_too() -> None:
    """The tests close the network; that a refusal by the system is no traceback is what is looked at."""
    with pytest.raises(NotFetched, match="only http"):
        download("file:///etc/passwd", Path("x"))


def test_https_never_leads_to_http() -> None:
    redirects = downloads._Redirects()
    request, answer = downloads.Request("https://127.0.0.1/a"), io.BytesIO()
    with pytest.raises(NotFetched, match="not encrypted"):
        redirects.redirect_request(request, answer, 302, "Found", {}, "http://127.0.0.1/a")
    assert answer.closed


def test_a_proxy_is_respected(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    server.give("weights", b"by proxy")
    received = download("http://127.0.0.1/weights", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"by proxy"
    assert received.size == 8
    assert server.asked == ["http://127.0.0.1/weights"], "the proxy is asked for the whole address"


def test_a_damaged_cache_is_fetched_anew(server: Server) -> None:
    weights = tiny(server)
    path = fetch(weights).path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    state, _ = official.read_official(weights)
    assert torch.equal(state["bias"], torch.ones(2))
    assert len(server.asked) == 2


@pytest.mark.parametrize("where", ["cache", "torch.hub"])
def test_a_file_put_there_by_hand_is_taken(server: Server, cache: Path, tmp_path: Path, where: str) -> None:
    weights = tiny(server)
    folder = cache / "torchvision" if where == "cache" else tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / weights.file).write_bytes(TINY)
    assert fetch(weights).confirmed
    assert server.asked == []
    assert (folder / weights.file).exists(), "it stays"


def test_another_file_put_there_is_refused(server: Server, cache: Path) -> None:
    weights = tiny(server)
    (cache / "torchvision").mkdir(parents=True)
    (cache / "torchvision" / weights.file).write_bytes(TINY + b"x")
    with pytest.raises(ResourceError, match="another file"):
        fetch(weights)


def test_a_checkpoint_that_would_run_code_is_not_unpickled(
    server: Server, tmp_path: Path, cache: Path
) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    body = io.BytesIO()
    torch.save({"weight": Evil()}, body)
    weights = tiny(server, body.getvalue(), hashlib.sha256(body.getvalue()).hexdigest()[:8])
    with pytest.raises(BadCheckpoint, match="only plain tensors"):
        fetch(weights)
    assert not (tmp_path / "ran").exists()
    assert files(cache) == []


def test_two_at_once_fetch_once(server: Server) -> None:
    weights = tiny(server)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(fetch(weights))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({str(fetched.path) for fetched in found}) == 1
    assert len(found) == 4
    assert len(server.asked) == 1


def test_a_folder_that_cannot_be_written(server: Server, cache: Path) -> None:
    cache.write_bytes(b"a file is in the way")
    with pytest.raises(ResourceError, match="in the way"):
        fetch(tiny(server))


# --- the hub's headers --------------------------------------------------------------------------------------


def hub(server: Server, monkeypatch: pytest.MonkeyPatch, body: bytes, **linked: str) -> Official:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.give("/cdn/file", body)
    server.give(
        "/timm/resnet18.a1_in1k/resolve/main/model.safetensors",
        status=302, Location="/cdn/file", **{name.replace("-", "_"): value for name, value in linked.items()},
    )  # fmt: skip
    return find_official("timm", {"timm": "resnet18"}, "resnet18")


def test_the_hubs_hash_and_size_are_held(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    body = save_weights({"weight": torch.ones(3)})
    digest = hashlib.sha256(body).hexdigest()
    weights = hub(
        server, monkeypatch, body, **{"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(body))}
    )
    fetched = fetch(weights)
    assert fetched.confirmed
    assert fetched.sha256 == digest
    assert json.loads((fetched.path.parent / "origin.json").read_text())["title"] == "timm resnet18 a1_in1k"


@pytest.mark.parametrize(
    ("linked", "says"),
    [
        ({"X-Linked-ETag": f'"{"0" * 64}"'}, "another file"),
        ({"X-Linked-Size": "1000000"}, "cut short"),
        ({"X-Linked-Size": "3"}, "more bytes"),
        ({"X-Linked-Size": str(2**50)}, "at most"),
    ],
)
def test_what_differs_from_the_hubs_word_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch, cache: Path, linked: dict[str, str], says: str
) -> None:
    with pytest.raises(ResourceError, match=says):
        fetch(hub(server, monkeypatch, save_weights({"weight": torch.ones(3)}), **linked))
    assert files(cache) == []


def test_without_the_hubs_word_it_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not fetch(hub(server, monkeypatch, save_weights({"weight": torch.ones(3)}))).confirmed


# --- which file ---------------------------------------------------------------------------------------------

PAIRS = [(spec, library) for spec in specs() for library in spec.peers]


@pytest.mark.parametrize(
    "spec", [s for s, library in PAIRS if library == "torchvision"], ids=lambda s: s.name
)
def test_torchvisions_weights_are_known_by_url_hash_and_preprocessing(spec: Any) -> None:
    entries = list(torchvision.models.get_model_weights(spec.peers["torchvision"]))
    if not entries:
        assert not has_official("torchvision", spec.peers["torchvision"])
        return
    found = find_official("torchvision", dict(spec.peers), spec.name)
    default = torchvision.models.get_model_weights(spec.peers["torchvision"]).DEFAULT
    assert found.url == default.url
    assert found.file.endswith(f"-{found.hash}.pth")
    picture = torch.rand(3, 400, 500)
    theirs = default.transforms()(picture)
    assert theirs.shape[1:] == (found.side, found.side)
    assert round(found.side / found.crop_ratio) == default.transforms().resize_size[0]
    assert len(found.classes) == 1000


def test_networks_that_take_their_images_back_are_given_them_so() -> None:
    """torchvision's GoogLeNet with official weights: (x - mean) / std of ImageNet, then `transform_input`."""
    network = torchvision.models.googlenet(weights=None, init_weights=False, transform_input=True)
    pixels = torch.rand(2, 3, 8, 8)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    found = find_official("torchvision", {"torchvision": "googlenet"}, "googlenet")
    ours = (pixels - torch.tensor(found.mean).view(1, 3, 1, 1)) / torch.tensor(found.std).view(1, 3, 1, 1)
    assert torch.allclose(network._transform_input((pixels - mean) / std), ours, atol=1e-5)


@pytest.mark.parametrize("name", TIMM)
def test_timms_rows_are_timms(name: str) -> None:
    config = timm.models.get_pretrained_cfg(name)
    row = TIMM[name]
    assert config is not None
    assert config.hf_hub_id == f"timm/{name}.{row.tag}"
    assert (config.input_size[1:], config.crop_pct, config.interpolation) == (
        (row.side, row.side), row.crop_ratio, row.interpolation,
    )  # fmt: skip
    assert (tuple(config.mean), tuple(config.std)) == row.normalisation
    assert config.crop_mode == {"crop": "center", "squash": "squash"}[row.resize]
    assert config.num_classes == 1000


def test_every_peer_in_timm_with_weights_has_a_row() -> None:
    missing = []
    for spec, library in PAIRS:
        if library == "timm" and spec.peers["timm"] not in TIMM:
            config = timm.models.get_pretrained_cfg(spec.peers["timm"])
            if config is not None and config.has_weights and config.hf_hub_id:
                missing.append(f"{spec.peers['timm']}: {config.tag}")
    assert not missing, "add rows to weights/timm_weights.py"


def test_no_row_is_without_a_network() -> None:
    """Nobody could ask for such weights, or nobody's network would compute what they were learnt for."""
    assert set(TIMM) <= {spec.peers.get("timm") for spec in specs()}


def test_words_that_mean_nothing() -> None:
    for wish, peers, says in (
        ("timm", {"torchvision": "vgg16"}, "does not exist in timm.*--weights torchvision"),
        ("timm", {}, "--weights FILE"),
        ("torchvision:V7", {"torchvision": "resnet50"}, "IMAGENET1K_V1, IMAGENET1K_V2"),
        ("timm:x_in1k", {"timm": "resnet50"}, "a1_in1k"),
        ("timm", {"timm": "no_such"}, "--weights FILE"),
    ):
        with pytest.raises(UsageError, match=says):
            find_official(wish, peers, "net")
    assert find_official("torchvision:IMAGENET1K_V1", {"torchvision": "resnet50"}, "net").hash == "0676ba61"


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("CONVATLAS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/convatlas")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "convatlas"


# --- create_model -------------------------------------------------------------------------------------------


@pytest.fixture
def published(server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """torchvision's resnet18 of 1000 classes, "published" on this machine."""
    state = resnet18_state()
    body = pickled(state)
    digest = hashlib.sha256(body).hexdigest()[:8]
    url = server.give(f"/resnet18-{digest}.pth", body)
    original = official._torchvision

    def moved(name: str, tag: str) -> Official:
        return Official(
            **{**vars(original(name, tag)), "url": url, "file": f"resnet18-{digest}.pth", "hash": digest}
        )

    monkeypatch.setattr(official, "_torchvision", moved)
    return state


def same_body(network: Any, state: dict[str, Tensor]) -> bool:
    own = dict(network.named_parameters())
    return torch.equal(own["features.conv5_x.1.residual.conv2.weight"], state["layer4.1.conv2.weight"])


def test_a_network_with_official_weights(published: dict[str, Tensor]) -> None:
    network = create_model("resnet18", weights="torchvision")
    assert torch.equal(network.head.fc.weight, published["fc.weight"])
    assert same_body(network, published)
    theirs = torchvision.models.resnet18()
    theirs.load_state_dict(published)
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(network.eval()(images), theirs.eval()(images), atol=1e-4)


def test_other_classes_get_a_new_head(published: dict[str, Tensor]) -> None:
    torch.manual_seed(5)
    network = create_model("resnet18", num_classes=7, weights="torchvision")
    torch.manual_seed(5)
    drawn = create_model("resnet18", num_classes=7)
    assert torch.equal(network.head.fc.weight, drawn.head.fc.weight)
    assert same_body(network, published)
    kept = create_model("resnet18", num_classes=1000, weights="torchvision")
    assert torch.equal(kept.head.fc.weight, published["fc.weight"]), "asked for as many: it is kept"
    headless = create_model("resnet18", num_classes=0, weights="torchvision")
    assert same_body(headless, published)
    assert headless(torch.randn(2, 3, 64, 64)).shape == (2, 512)


def test_one_channel_is_the_sum_of_three_as_in_timm(published: dict[str, Tensor]) -> None:
    network = create_model("resnet18", in_channels=1, weights="torchvision").eval()
    colour = create_model("resnet18", weights="torchvision").eval()
    grey = torch.randn(2, 1, 64, 64)
    assert torch.allclose(network(grey), colour(grey.expand(-1, 3, -1, -1)), atol=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 7])
def test_folding_is_timms(channels: int) -> None:
    from timm.models._manipulate import adapt_input_conv

    from convatlas.weights.transfer import folded

    kernel = torch.randn(8, 3, 5, 5)
    assert torch.allclose(folded(kernel, channels), adapt_input_conv(channels, kernel), atol=1e-6)


def test_channels_that_cannot_be_adapted(tmp_path: Path) -> None:
    file = tmp_path / "grey.safetensors"
    file.write_bytes(save_weights(create_model("lenet5").state_dict()))
    with pytest.raises(BadCheckpoint, match="images of 1 channels; only weights for 3"):
        create_model("lenet5", in_channels=3, weights=file)
    colour = tmp_path / "colour.safetensors"
    colour.write_bytes(save_weights(create_model("resnet20_cifar").state_dict()))
    with pytest.raises(BadCheckpoint, match=r"features\.\S+ of shape \(16, 3, 3, 3\)|no place|has no"):
        create_model("lenet5", weights=colour)


def test_a_checkpoint_of_another_network_is_refused_with_the_first_pair(tmp_path: Path) -> None:
    file = tmp_path / "resnet34.pth"
    file.write_bytes(pickled(torchvision.models.resnet34(num_classes=3).state_dict()))
    with pytest.raises(BadCheckpoint, match=r"'layer1\.2\.\S+' of shape .*no place"):
        create_model("resnet18", num_classes=5, weights=file)
    with pytest.raises(
        BadCheckpoint, match=r"'layer1\.0\.conv1\.weight' of shape \(64, 64, 3, 3\), but 'features"
    ):
        create_model("resnet50", num_classes=5, weights=file)


def test_words_that_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'torchvision'"):
        create_model("resnet18", weights="torchvison")
    with pytest.raises(BadCheckpoint, match="does not exist"):
        create_model("resnet18", weights=tmp_path / "none.pth")
    with pytest.raises(UsageError, match="does not exist in torchvision"):
        create_model("lenet5", weights="torchvision")


# --- auxiliary heads, and names of another age --------------------------------------------------------------


class TwoHeads(Classifier):
    """The smallest network with an auxiliary head."""

    def __init__(self, classes: int) -> None:
        features = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))

        def head() -> torch.nn.Sequential:
            layers = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
            layers.add_module("hidden", torch.nn.Linear(4, 4))
            layers.add_module("fc", torch.nn.Linear(4, classes))
            return layers

        from convatlas.models.classifier import Stage

        super().__init__(features, head(), [Stage("1", 4, 1)], num_classes=classes, in_channels=3,
                         head_hidden_size=4, auxiliary={"0": head()}, auxiliary_weight=0.3)  # fmt: skip


def test_auxiliary_heads_may_be_absent_all_of_them_or_none() -> None:
    from convatlas.weights import load_weights, transfer

    source, target = TwoHeads(5), TwoHeads(5)
    state = source.state_dict()
    bare = {name: tensor for name, tensor in state.items() if not name.startswith("auxiliary.")}
    before = {name: t.clone() for name, t in target.state_dict().items() if name.startswith("auxiliary.")}
    load_weights(target, bare)
    assert all(torch.equal(target.state_dict()[name], tensor) for name, tensor in before.items())
    assert torch.equal(target.head.fc.weight, source.head.fc.weight)
    done = transfer(target, bare, head="keep")
    assert set(done.drawn) == set(before)

    partly = {**bare, "auxiliary.0.fc.bias": state["auxiliary.0.fc.bias"]}
    with pytest.raises(BadCheckpoint, match=r"no 'auxiliary\.0\.hidden\.weight'"):
        load_weights(target, partly)


def test_auxiliary_classifiers_are_drawn_anew_with_the_classifier() -> None:
    from convatlas.weights import transfer

    source, target = TwoHeads(5), TwoHeads(3)
    fresh = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    done = transfer(target, source.state_dict())
    names = {f"{head}.fc.{part}" for head in ("head", "auxiliary.0") for part in ("weight", "bias")}
    assert set(done.left_out) == set(done.drawn) == names
    for name, tensor in target.state_dict().items():
        expected = fresh if name in names else source.state_dict()
        assert torch.equal(tensor, expected[name]), name


def test_the_old_names_of_torchvisions_densenet_are_read() -> None:
    from convatlas.weights import load_weights

    network = create_model("densenet121")
    theirs = torchvision.models.densenet121().state_dict()
    old = {}
    for name, tensor in theirs.items():
        for part in ("norm1", "norm2", "conv1", "conv2"):
            name = name.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.") if "denselayer" in name else name
        old[name] = tensor
    assert set(old) != set(theirs)
    load_weights(network, old, origin="torchvision")
    assert torch.equal(network.head[-1].weight, theirs["classifier.weight"])


def test_the_reader_does_not_need_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    assert find_official("timm", {"timm": "resnet50"}, "resnet50").file == "resnet50.a1_in1k.safetensors"


@pytest.mark.parametrize(
    ("name", "library", "settings"),
    [
        ("inception_v3_without_aux", "timm", {}),
        ("inception_v3", "torchvision", {"aux": False}),
        ("googlenet", "torchvision", {"aux": False}),
    ],
)
def test_a_network_without_auxiliary_heads_leaves_out_those_of_the_checkpoint(
    name: str, library: str, settings: dict[str, Any]
) -> None:
    from convatlas.weights import load_weights, transfer

    theirs = torchvision.models.get_model(
        "googlenet" if name == "googlenet" else "inception_v3", weights=None, init_weights=False
    )
    state = theirs.state_dict()
    heads = {n for n in state if n.startswith(("aux1.", "aux2.", "AuxLogits."))}
    assert heads
    network = create_model(name, **settings)
    load_weights(network, state, origin=library)
    assert torch.equal(network.head.fc.weight, state["fc.weight"])
    assert heads == set(transfer(network, state, origin=library, head="keep").left_out)
    whole = create_model(name.removesuffix("_without_aux"))
    load_weights(whole, state)
    stripped = {n: tensor for n, tensor in state.items() if n not in heads}
    done = transfer(whole, stripped, head="keep")
    assert done.drawn
    assert all(n.startswith("auxiliary.") for n in done.drawn)
