"""The published KWT-1 becomes a run of ours; anything else is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import small_corpus
from click.testing import CliRunner

from kws import bundle as bundles
from kws.cli import cli
from kws.errors import CheckFailed, KwsError

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
FILE = SHARED / "pretrained" / "kwt1_float.tflite"


@pytest.fixture(scope="module")
def data() -> bytes:
    """The published file."""
    if not FILE.is_file():
        pytest.skip(f"no published weights in {FILE.parent}")
    return FILE.read_bytes()


@pytest.fixture(scope="module")
def imported(data, tmp_path_factory):
    """The bundle made of it."""
    pytest.importorskip("tf_keras")
    from kws.model.import_kwt import import_kwt

    out = tmp_path_factory.mktemp("import") / "run"
    import_kwt(FILE, out, data)
    return bundles.load(out)


def test_structure_and_sizes(data):
    from kws.model import import_kwt

    weights = import_kwt.read_weights(data)
    assert len(weights.blocks) == 12
    count = sum(
        array.size
        for block in weights.blocks
        for item in vars(block).values()
        for array in (item if isinstance(item, tuple) else (item,))
    )
    rest = ("embed", "embed_bias", "token", "positions", "logits", "logits_bias")
    count += sum(getattr(weights, name).size for name in rest)
    assert count == 607_308  # as published
    model = import_kwt.recipe_of(weights).model
    assert (model.dim, model.mlp_dim, model.layers, model.cepstra) == (64, 256, 12, 40)


def test_the_run_is_whole(imported):
    assert imported.labels[:3] == ("_silence_", "_unknown_", "yes")
    assert len(imported.labels) == 12
    assert imported.recipe.task.name == "gsc12"
    assert imported.recipe.model.activation == "gelu_tanh"
    assert imported.metrics["import"]["logit_difference"] < 1e-3
    assert sorted(path.name for path in imported.path.iterdir()) == [
        "bundle.json",
        "metrics.json",
        "recipe.toml",
        "weights.h5",
    ]


def test_logits_are_the_files_on_official_clips(imported, data):
    audio = Path(os.environ.get("KWS_DATA", SHARED / "data" / "speech_commands"))
    if not (audio / "test_v0.02" / "index.tsv").is_file():
        pytest.skip(f"no official test clips in {audio}")
    from kws.data import archives, open_corpus
    from kws.features.log_mel import log_mel
    from kws.model import restore
    from kws.model.import_kwt import file_logits

    recordings = open_corpus(audio).recordings("test")[::120]
    pcm = archives.read_clips(recordings, 16000).pcm
    ours = restore(imported)(log_mel(pcm, imported.recipe.features), training=False)
    difference = np.abs(ours.numpy() - file_logits(data, pcm)).max()
    print(f"largest difference on {len(pcm)} clips: {difference:.2g}")
    assert difference < 1e-3


def test_a_swap_of_weights_is_noticed(data, monkeypatch, tmp_path):
    """Q and K have one shape: only the logits tell them apart."""
    pytest.importorskip("tf_keras")
    import dataclasses

    from kws.model import import_kwt

    read = import_kwt.read_weights

    def swapped(*args):
        weights = read(*args)
        first = weights.blocks[0]
        first = dataclasses.replace(first, query=first.key, key=first.query)
        return dataclasses.replace(weights, blocks=(first, *weights.blocks[1:]))

    monkeypatch.setattr(import_kwt, "read_weights", swapped)
    with pytest.raises(CheckFailed, match="not the file's"):
        import_kwt.import_kwt(FILE, tmp_path / "run", data)
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_left_alone(data, tmp_path):
    from kws.model.import_kwt import import_kwt

    (tmp_path / "bundle.json").write_text("{}")
    with pytest.raises(KwsError, match="a bundle already"):
        import_kwt(FILE, tmp_path, data)


def test_files_that_no_import_wrote_are_left_alone(tmp_path):
    """weights.h5 and recipe.toml of the user's own were replaced."""
    mine = tmp_path / "my k36" / "weights.h5"
    mine.parent.mkdir()
    mine.write_text("mine")
    for out in (mine.parent, mine):
        done = CliRunner().invoke(cli, ["import-kwt", "kwt1.tflite", "--out", str(out)])
        assert isinstance(done.exception, KwsError)
        assert "new or empty folder" in done.exception.message
        assert shlex.split(done.exception.hint)[-1] == f"{out}-new"
    assert [path.read_text() for path in mine.parent.iterdir()] == ["mine"]


def test_an_import_that_fails_leaves_nothing_in_the_way(tmp_path):
    pytest.importorskip("tf_keras")
    from kws import model, recipe
    from kws.model import import_kwt

    small = recipe.load("kwt-nano")
    labels = ("_silence_", "_unknown_", "yes")
    broken = bundles.Bundle(tmp_path, small, labels, metrics={"no JSON": object()})
    with pytest.raises(TypeError):
        import_kwt.save(broken, model.build(small, len(labels), mode="float"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Not a TensorFlow Lite model"),
        (b"RIFF" + bytes(60), "Not a TensorFlow Lite model"),
        (b"\x08\0\0\0TFL3" + bytes(40), "broken|Not a published"),
        (b"\xff\xff\xff\x7fTFL3" + bytes(40), "broken"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    from kws.cli.import_kwt import command

    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    with pytest.raises(KwsError, match=message):
        CliRunner().invoke(
            command,
            [str(path), "--out", str(tmp_path / "run")],
            catch_exceptions=False,
            standalone_mode=False,
        )
    assert not (tmp_path / "run").exists()


def test_a_missing_file_is_refused(tmp_path):
    from kws.model.import_kwt import import_kwt

    with pytest.raises(KwsError, match="No such file"):
        import_kwt(tmp_path / "none.tflite", tmp_path / "run")


def test_truncated_files_are_refused(data):
    from kws.model.import_kwt import read_weights

    for size in (16, 100, 5_000, len(data) // 2, len(data) - 60_000):
        with pytest.raises(KwsError):
            read_weights(data[:size])


def test_mangled_structure_gives_one_message_and_no_trace(data):
    """Bits flipped where the structure is: read as before, or refused."""
    from kws.model.import_kwt import read_weights

    rng = np.random.default_rng(1)
    # Weights are in front; operators, tensors and offsets behind, in the last part.
    refused = 0
    for _ in range(40):
        mangled = bytearray(data)
        start = 0 if rng.random() < 0.2 else len(data) - 150_000
        end = 200 if start == 0 else len(data)
        for place in rng.integers(start, end, 3):
            mangled[place] ^= int(rng.integers(1, 256))
        try:
            read_weights(bytes(mangled))
        except KwsError as error:
            refused += 1
            assert error.hint
    assert refused > 5


def changed(data: bytes, old: np.ndarray, new: np.ndarray) -> bytes:
    """The file with one constant replaced."""
    before, after = old.astype("<f4").tobytes(), new.astype("<f4").tobytes()
    assert data.count(before) == 1
    return data.replace(before, after)


def test_another_front_end_is_refused(data):
    from kws import recipe
    from kws.model.import_kwt import read_operators, read_weights

    mel = recipe.load("kwt-1").features.mel_bins
    (matrix,) = [
        constant
        for operator in read_operators(data, "file")
        for constant in operator.constants
        if constant is not None and constant.shape == (mel, 244)
    ]
    with pytest.raises(KwsError, match="front end"):
        read_weights(changed(data, matrix, matrix * 2))


def test_weights_that_are_no_numbers_are_refused(data):
    from kws.model.import_kwt import read_weights

    weights = read_weights(data)
    kernel = weights.blocks[3].expand.T.copy()
    bad = kernel.copy()
    bad[0, 0] = np.nan
    with pytest.raises(KwsError, match="finite"):
        read_weights(changed(data, kernel, bad))


def test_what_comes_next_works(monkeypatch, tmp_path):
    """On a run that has no .tflite either; the published file's is the same line."""
    pytest.importorskip("tf_keras")
    from kws.model import import_kwt

    def imported(file: Path, out: Path) -> bundles.Bundle:
        source = bundles.load("kwt-tiny")
        out.mkdir()
        shutil.copy(source.weights_path, out)
        facts = {"logit_difference": 1e-6, "clips": 8, "sha256": "0" * 64}
        made = dataclasses.replace(source, path=out, metrics={"import": facts})
        bundles.save(made)
        return made

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(import_kwt, "import_kwt", imported)
    words = ("yes", "no", "up", "down", "left", "right", "stop", "go", "cat")
    monkeypatch.setenv("KWS_DATA", str(small_corpus.make(tmp_path / "tones", words)))
    done = CliRunner().invoke(cli, ["import-kwt", "x.tflite", "--out", "my run"])
    assert done.exit_code == 0, done.output
    following = shlex.split(done.stdout.rpartition("Next: kws ")[2])
    simulated = CliRunner().invoke(cli, following, catch_exceptions=False)
    assert simulated.exit_code == 0, simulated.output
    assert "clips right" in simulated.stdout


def test_command_prints_json(monkeypatch, tmp_path):
    from kws.bundle import Bundle
    from kws.cli.import_kwt import command
    from kws.model import import_kwt
    from kws.recipe import Recipe

    facts = {"logit_difference": 1e-6, "clips": 8, "sha256": "0" * 64}
    bundle = Bundle(tmp_path, Recipe(), ("a", "b"), metrics={"import": facts})
    monkeypatch.setattr(import_kwt, "import_kwt", lambda file, out: bundle)
    result = CliRunner().invoke(command, ["x.tflite", "--out", "run", "--json"])
    table = json.loads(result.stdout)
    assert table["logit_difference"] == 1e-6
    assert table["labels"] == ["a", "b"]
