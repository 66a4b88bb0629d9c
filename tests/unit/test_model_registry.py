"""The registry's files: what it takes, what it checks, and what its cache is worth."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import joblib
import msgspec
import numpy as np
import pytest
import skops.io
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeRegressor

from bdlab.contract import review_contract
from bdlab.errors import ContractMismatch, InvalidInput, ModelError, ModelNotFound, ModelTampered
from bdlab.model import load_scorer
from bdlab.model.registry import Registry, Version, pack, parse_title, path_of
from bdlab.model.scorer import sha256_of
from bdlab.model.terms import Field, TermTable, decode, encode
from bdlab.resources import models_dir
from bdlab.serving.running import Promotions
from bdlab.settings import ModelSettings, Settings
from bdlab.wiring.models import former
from tests.fix_registry import TERMS, version_card

CARD = "reviews.card.json"
EXAMPLE = {"text": "This product is terrible!"}


@pytest.fixture(params=["folder", "address"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    address = str(tmp_path / "registry") if request.param == "folder" else f"memory://{uuid4()}/models/"
    return Registry(address, tmp_path / "cache")


def changed(registry: Registry, file: str, content: bytes | None) -> None:
    """Change a file of reviews@1.0.0 behind the registry's back; None removes it."""
    if "://" in registry.address:
        import fsspec

        place = f"{registry.address}reviews/1.0.0/{file}"
        system = fsspec.filesystem("memory")
        system.rm(place) if content is None else system.pipe_file(place, content)
    else:
        path = Path(registry.address, "reviews", "1.0.0", file)
        path.unlink() if content is None else path.write_bytes(content)


def test_a_version_is_written_once_and_read_checked(registry: Registry, tmp_path: Path) -> None:
    packed = pack(str(version_card(tmp_path / "card", "1.0.0")))
    assert registry.put(packed)
    assert not registry.put(packed)
    fresh = Registry(registry.address)
    assert fresh.load(packed.version).name == "reviews@1.0.0"
    other = pack(str(version_card(tmp_path / "other", "1.0.0", created_at="later")))
    with pytest.raises(InvalidInput, match="is another model"):
        registry.put(other)
    for file, original in ((TERMS, packed.model), (CARD, packed.content)):
        changed(registry, file, original + b" ")
        with pytest.raises(ModelTampered, match=f"{file} of reviews@1.0.0 was changed"):
            fresh.load(packed.version)
        changed(registry, file, None)
        with pytest.raises(ModelNotFound, match=f"{file} of reviews@1.0.0 is not in the registry"):
            fresh.load(packed.version)
        assert registry.put(packed, known=True)  # as if an `add` was killed in between
        assert fresh.load(packed.version)


def test_what_the_cache_holds_is_checked_and_belongs_to_its_user_alone(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "registry"), tmp_path / "cache")
    version = pack(str(version_card(tmp_path / "card", "1.0.0"))).version
    registry.put(pack(str(tmp_path / "card")))
    assert registry.load(version)
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    cached = tmp_path / "cache" / "reviews" / "1.0.0" / TERMS
    assert cached.stat().st_mode & 0o777 == 0o600
    cached.write_bytes(b"tampered")
    assert registry.load(version)  # from the registry, which mends it
    assert sha256_of(cached.read_bytes()) == load_scorer(str(tmp_path / "card")).sha256
    shutil.rmtree(tmp_path / "registry")
    assert registry.load(version)
    cached.write_bytes(b"tampered")
    with pytest.raises(ModelNotFound, match="is not in the registry"):
        registry.load(version)


def test_what_is_promoted_is_known_without_the_database(tmp_path: Path) -> None:
    model = ModelSettings(registry=str(tmp_path / "registry"), cache_dir=str(tmp_path / "cache"))
    settings, registry = Settings(model=model), Registry.of(Settings(model=model))
    with pytest.raises(ModelNotFound, match="is not known here"):
        registry.remembered()
    assert path_of(settings) == ""
    registry.remember(None)
    assert registry.remembered() is None
    packed = pack(str(version_card(tmp_path / "card", "1.0.0")))
    registry.put(packed)
    registry.load(packed.version)
    registry.remember(packed.version)
    assert load_scorer(path_of(settings)).name == "reviews@1.0.0"
    assert path_of(Settings(model=msgspec.structs.replace(model, path="shipped"))) == "shipped"
    with pytest.raises(ModelNotFound):  # that is of another registry
        Registry(str(tmp_path / "another"), tmp_path / "cache").remembered()


def skops_card(folder: Path, model: Any, *, trusted: list[str]) -> str:
    content = skops.io.dumps(model)
    folder.mkdir()
    (folder / "house.skops").write_bytes(content)
    file = {"role": "skops", "sha256": sha256_of(content), "bytes": len(content), "trusted": trusted}
    fields = {name: {"type": "number"} for name in ("area", "rooms")}
    contract = {
        "input": {"type": "object", "properties": fields, "required": [*fields]},
        "output": {"type": "object", "properties": {"prediction": {"type": "number"}}},
    }
    card = {"name": "house", "version": "1", "files": {"house.skops": file}, "contract": contract}
    (folder / "house.card.json").write_text(json.dumps(card))
    return str(folder)


def doubled(values: Any) -> Any:
    return 2 * values


def test_no_card_widens_the_types_of_skops(tmp_path: Path) -> None:
    rows, prices = np.array([[1.0, 2.0], [3.0, 4.0]]), [1.0, 2.0]
    tree = DecisionTreeRegressor().fit(rows, prices)
    packed = pack(skops_card(tmp_path / "tree", tree, trusted=[]))
    registry = Registry(str(tmp_path / "registry"))
    registry.put(packed)
    assert registry.load(packed.version).name == "house@1"
    own = make_pipeline(FunctionTransformer(doubled), DecisionTreeRegressor()).fit(rows, prices)
    trusted = skops.io.get_untrusted_types(data=skops.io.dumps(own))
    card = skops_card(tmp_path / "own", own, trusted=trusted)
    assert load_scorer(card).name == "house@1"  # a pinned one may
    with pytest.raises(ModelError, match=r"types that the registry does not take: .*doubled"):
        pack(card)


class Explosive:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('it ran')",)


def test_no_joblib_file_is_loaded_whatever_its_card_says(tmp_path: Path) -> None:
    folder = tmp_path / "card"
    card = json.loads(version_card(folder, "1.0.0").read_bytes())
    joblib.dump(Explosive(), folder / "reviews.joblib")
    content = (folder / "reviews.joblib").read_bytes()
    joblib_file = {"reviews.joblib": {"role": "pipeline", "sha256": sha256_of(content), "bytes": len(content)}}
    (folder / CARD).write_text(json.dumps(card | {"files": joblib_file}))
    with pytest.raises(ModelError, match="has no file for the registry") as refused:
        pack(str(folder))
    assert "model.path" in refused.value.hint
    # Beside a term table it stays where it is.
    (folder / CARD).write_text(json.dumps(card | {"files": joblib_file | card["files"]}))
    packed = pack(str(folder))
    registry = Registry(str(tmp_path / "registry"), tmp_path / "cache")
    registry.put(packed)
    assert registry.load(packed.version)
    assert not [*tmp_path.glob("registry/**/*.joblib"), *tmp_path.glob("cache/**/*.joblib")]


@pytest.mark.parametrize("text", ["../x@1", "reviews@../../x", "a/b@1", "@", "reviews", "reviews@", "@1", "a@b@c/d"])
def test_hostile_names_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is not valid"):
        parse_title(text)
    name, _, version = text.rpartition("@")
    with pytest.raises(InvalidInput):  # also from the database
        Registry(str(tmp_path)).load(Version(name=name, version=version, sha256="0" * 64))


def test_a_version_with_other_fields_does_not_take_the_place(tmp_path: Path) -> None:
    registry, running = Registry(str(tmp_path / "registry"), tmp_path / "cache"), load_scorer().codec
    later, worded = (json.loads(json.dumps(review_contract().document)) for _ in range(2))
    later["input"]["properties"]["stars"] = {"type": ["integer", "null"], "since": 2}
    later["columns"] += ["stars"]
    worded["input"]["properties"]["text"] |= {"description": "Another word", "examples": ["Fine."]}
    packed = {
        version: pack(str(version_card(tmp_path / version, version, contract=contract)))
        for version, contract in (("1.0.0", worded), ("2.0.0", later))
    }
    for each in packed.values():
        registry.put(each)
    assert registry.load(packed["1.0.0"].version, running=running).codec is running
    with pytest.raises(ContractMismatch, match="its contract is number 2, and number 1 is served") as refused:
        registry.load(packed["2.0.0"].version, running=running)
    assert "Restart `serve`" in refused.value.hint


def test_a_refused_version_is_tried_again_and_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(str(tmp_path / "registry"), tmp_path / "cache")
    packed = {each: pack(str(version_card(tmp_path / each, each))) for each in ("1.0.0", "2.0.0", "3.0.0")}
    for each in packed.values():
        registry.put(each)
    now = [packed["1.0.0"].version]
    promotions = Promotions(registry, lambda: now[0])
    model = promotions.start(now[0])
    told: list[str] = []
    model.tell = told.append
    Path(registry.address, "reviews", "2.0.0", TERMS).write_bytes(b"")
    now[0] = packed["2.0.0"].version
    for _ in range(2):
        promotions.look()
    assert (model.scorer.name, told) == ("reviews@1.0.0", [])
    assert "reviews@2.0.0 is promoted, and is refused" in model.problem
    registry.put(packed["2.0.0"], known=True)
    promotions.look()
    assert model.problem  # not yet
    later = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: later)
    promotions.look()
    assert (model.scorer.name, model.problem, told) == ("reviews@2.0.0", "", ["reviews@2.0.0"])
    Path(registry.address, "reviews", "3.0.0", CARD).unlink()
    now[0] = packed["3.0.0"].version
    promotions.look()
    assert model.problem
    now[0] = packed["1.0.0"].version  # another promotion clears it
    promotions.look()
    assert (model.scorer.name, model.problem) == ("reviews@1.0.0", "")
    assert registry.remembered() == now[0]


def test_rollback_goes_back_as_on_a_stack() -> None:
    assert former(["a", "b"]) == "a"
    assert former(["a", "b", "c", "b"]) == "a"
    assert former(["a", "b", "b", "a", "c"]) == "a"


def test_lists_that_are_decoded_in_pieces_are_as_they_were() -> None:
    """Also if a text looks like the end of one, and of any length."""
    shipped = decode((models_dir() / TERMS).read_bytes(), source="")
    odd = Field(['",', '","', 'a\\","b', ""] * 20_000, *([[1.5, -2e-9, 0.0, 3.0] * 20_000] * 3))
    for table in (shipped, TermTable(shipped.format, shipped.intercepts, odd, Field([], [], [], []))):
        assert decode(encode(table), source="") == table
