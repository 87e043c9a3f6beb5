"""Bytes that a network moves: weights by its schedule, and what a cache leaves."""

from __future__ import annotations

import functools
import json
import tomllib

import pytest
from click.testing import CliRunner

from kws import bundle as bundles
from kws.cli.profile import command
from kws.deploy import boards, traffic
from kws.deploy.boards import External
from kws.emit import native
from kws.emit.common import Network
from kws.errors import KwsError
from kws.graph import cost
from kws.graph.cost import READ, STATE_WRITE, WEIGHTS, Count, Reading


@functools.cache
def network(name: str, core: str) -> Network:
    return native.sources(bundles.load(name), core).network


@pytest.mark.parametrize("core", ["portable", "mve"])
def test_kernels_of_one_row_load_a_weight_for_each_product(core: str) -> None:
    """So the schedule's readings add up to what is counted operator by operator."""
    found = network("kwt-tiny", core)
    read = cost.readings(found.steps, core)
    weights = [reading for reading in read if reading.weights]
    assert cost.loaded(weights) == found.dense.bytes[WEIGHTS]
    # With each, bias, multiplier and shift of every output.
    rest = [reading for reading in read if not reading.weights]
    assert len(rest) == len(weights)
    assert sum({r.constant: r.bytes for r in read}.values()) < found.weights_bytes


def test_three_rows_share_a_pass() -> None:
    read = cost.readings(network("kwt-tiny", "dsp").steps, "dsp")
    by_row = cost.readings(network("kwt-tiny", "dsp").steps, "portable")
    # 12 rows of a block take 4 passes, one row takes one; 25 rows are 12 + 12 + 1.
    assert {(a.times, b.times) for a, b in zip(by_row, read, strict=True)} >= {
        (12, 4),
        (1, 1),
    }
    assert cost.loaded(read) < 0.4 * cost.loaded(by_row)


def test_blocks_that_share_weights_read_one_array() -> None:
    """kwt-tiny has two blocks that take turns as four layers."""
    read = cost.readings(network("kwt-tiny", "portable").steps, "portable")
    read = [reading for reading in read if reading.weights]
    sizes = {reading.constant: reading.bytes for reading in read}
    readers: dict[int, set[str]] = {}
    for reading in read:
        readers.setdefault(reading.constant, set()).add(reading.node.name)
    twice = [number for number, names in readers.items() if len(names) == 2]
    # Q, K, V, O and both of the MLP, of either block.
    assert len(twice) == 12
    assert sum(sizes[number] for number in twice) == 2 * (4 * 40 * 32 + 2 * 40 * 80)


def test_a_larger_cache_leaves_less() -> None:
    read = cost.readings(network("kwt-tiny", "portable").steps, "portable")
    whole = sum({reading.constant: reading.bytes for reading in read}.values())
    sizes = (0, 1024, 4096, 16384, 32768, whole - 1, whole)
    assert sizes == tuple(sorted(sizes))
    left = [cost.fetched(read, size) for size in sizes]
    assert left == sorted(left, reverse=True)
    assert left[0] == cost.loaded(read)
    assert left[-1] == 0 < left[-2]
    # What doesn't fit is fetched once at least.
    assert left[3] >= whole


def test_what_lies_between_two_readings_pushes_out() -> None:
    def read(*pairs: tuple[int, int, int]) -> list[Reading]:
        node = network("kwt-tiny", "portable").nodes[0]
        return [Reading(number, size, times, node) for number, size, times in pairs]

    again = read((0, 100, 1), (1, 50, 1), (0, 100, 1))
    assert cost.fetched(again, 150) == 0
    assert cost.fetched(again, 149) == 100 + 50
    assert cost.fetched(again, 100) == 100 + 50
    assert cost.fetched(again, 99) == 2 * 100 + 50
    assert cost.fetched(read((0, 100, 7)), 99) == 700


def test_energies_are_said_side_by_side() -> None:
    count = Count(macs=1000, bytes={READ: 400, STATE_WRITE: 100, WEIGHTS: 7})
    node = network("kwt-tiny", "portable").nodes[0]
    read = [Reading(0, 100, 3, node)]
    board = External(50, "a datasheet")
    found = traffic.of(count, read, 20, 25.0, board, measured_uj=3.0)
    assert (found.loaded, found.fetched, found.weights_bytes) == (320, 300, 100)
    parts = {
        "macs": 1000 * 0.3e-6,
        "ram": 500 * 1.25e-6,
        "flash": 320 * 1.25e-6,
        "external": 300 * 160e-6,
    }
    assert found.parts_uj == pytest.approx(parts)
    assert found.modelled_uj == pytest.approx(sum(parts.values()))
    table = found.as_dict()
    assert table["bytes_per_decision"]["flash"]["weights"] == {"read": 320}
    assert table["bytes_per_second"]["ram"]["state"] == {"read": 0, "write": 2500}
    assert table["energy_uj"]["power_and_time"] == 3.0
    assert all(c["source"] for c in table["constants"].values())
    text = found.text()
    times = 3.0 / sum(parts.values())
    assert f"{times:,.0f} times as much" in text and "disagree" in text
    assert "a datasheet" in text
    alone = traffic.of(count, read, 0, 25.0).text()
    assert "no sourced figure" in alone and "external" not in alone


def test_profile_shows_it() -> None:
    pytest.importorskip("cffi")
    done = CliRunner().invoke(command, ["kwt-tiny", "--bytes", "--json"])
    assert done.exit_code == 0, done.output
    table = json.loads(done.stdout)["traffic"]
    steps = network("kwt-tiny", "portable").steps
    loaded = cost.loaded(cost.readings(steps, "portable"))
    assert table["weights_loaded"] == loaded
    assert table["decisions_per_second"] == 6.25
    second = table["bytes_per_second"]["flash"]["weights"]["read"]
    assert second == round(6.25 * loaded)
    assert table["weights_fetched_external"] is None


def test_what_thresholds_skip_is_not_loaded() -> None:
    """A stream's products load what a transmitted element is multiplied with."""
    bundle = bundles.load("kwt-stream-tiny")
    assert bundle.thresholds
    found = native.sources(bundle, "portable").network
    read = cost.readings(found.steps, "portable")
    skipping = {id(r.node) for r in read if cost.skips(r.node)}
    assert 0 < len(skipping) < len({id(r.node) for r in read})
    # The second convolution skips single elements.
    kinds = {r.node.kind for r in read if cost.skips(r.node)}
    assert kinds == {"FULLY_CONNECTED", "CONV_2D"}
    dense = traffic.of(found.dense, read, 0, 25.0)
    rest = [r for r in read if not cost.skips(r.node)]
    assert dense.loaded == cost.loaded(rest) < cost.loaded(read)


def test_the_pico_s_flash_is_another_chip() -> None:
    board = boards.load("pico")
    assert board.external is not None and board.external.cache_bytes == 16384
    assert boards.load("nano33ble").external is None


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"cache_bytes": 1}, "'source' is missing"),
        ({"cache_bytes": -1, "source": "s"}, "0 <= cache_bytes"),
        ({"cache_bytes": 1, "source": "s", "ways": 2}, "unknown key 'ways'"),
    ],
)
def test_a_bad_table_of_it_is_refused(table: dict[str, object], words: str) -> None:
    path = boards.BOARDS / "pico" / "board.toml"
    whole = tomllib.loads(path.read_text("utf-8")) | {"external": table}
    with pytest.raises(KwsError, match=words):
        boards.from_table(whole, path)
