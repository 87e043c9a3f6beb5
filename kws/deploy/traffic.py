"""Bytes that a network moves, and what energy they and its operations stand for.

Papers on larger machines count energy by memory accesses: a byte from off-chip memory
takes hundreds of times what a multiply-accumulate takes, so what decides is how often
weights are fetched (Venkatesh et al. 2021, arXiv 2102.11531). On a microcontroller with
its flash on the chip, power hardly depends on the network, and energy follows time
(Banbury et al. 2021, MicroNets: power of all networks within 0.7 %). Both are said
here, side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kws.deploy.boards import External
from kws.graph import cost
from kws.graph.cost import DIRECTIONS, PLACES, PURPOSES, Count, Reading


@dataclass(frozen=True)
class Constant:
    """What something takes, in picojoules, and who says so."""

    picojoules: float
    source: str


HOROWITZ = 'Horowitz 2014 (ISSCC, "Computing\'s energy problem"), 45 nm, 0.9 V'
MAC = Constant(0.3, f"{HOROWITZ}: 8-bit multiplication 0.2 pJ, 32-bit addition 0.1 pJ")
RAM_BYTE = Constant(1.25, f"{HOROWITZ}: 5 pJ for 32 bits of an SRAM of 8 KB")
FLASH_BYTE = Constant(1.25, "as RAM: nobody publishes a byte of on-chip flash")
EXTERNAL_BYTE = Constant(160.0, f"{HOROWITZ}: 640 pJ for 32 bits of off-chip DRAM")
CONSTANTS = {
    "mac": MAC,
    "ram_byte": RAM_BYTE,
    "flash_byte": FLASH_BYTE,
    "external_byte": EXTERNAL_BYTE,
}


@dataclass(frozen=True)
class Traffic:
    """Of the network alone, without features.

    Args:
        count: Of a decision, as it ran (kws.graph.cost).
        loaded: Bytes of weights that the core loads for a decision.
        weights_bytes: Of these constants, each once: weights, and what a product keeps
            of each output.
        decisions_per_second: How often the network decides.
        external: Flash outside the part, where the board has that.
        fetched: Bytes of weights that would come from there, for a decision, where
            nothing is skipped; None without.
        measured_uj: Microjoules of a decision by the part's power and the time that it
            takes; None without a figure.
    """

    count: Count
    loaded: int
    weights_bytes: int
    decisions_per_second: float
    external: External | None = None
    fetched: int | None = None
    measured_uj: float | None = None

    def bytes(self, purpose: str, direction: str) -> int:
        """Of a decision; weights as they are loaded."""
        if (purpose, direction) == ("weights", "read"):
            return self.loaded
        return cost.whole(self.count.total(purpose=purpose, direction=direction))

    @property
    def parts_uj(self) -> dict[str, float]:
        """Microjoules of a decision by the constants, part by part."""
        ram = self.count.total(memory="ram")
        parts = {
            "macs": MAC.picojoules * cost.whole(self.count.macs),
            "ram": RAM_BYTE.picojoules * cost.whole(ram),
            "flash": FLASH_BYTE.picojoules * self.loaded,
        }
        if self.fetched is not None:
            # What the cache holds is read from there, as from RAM.
            parts["external"] = EXTERNAL_BYTE.picojoules * self.fetched
        return {name: picojoules / 1e6 for name, picojoules in parts.items()}

    @property
    def modelled_uj(self) -> float:
        """Microjoules of a decision by the constants."""
        return sum(self.parts_uj.values())

    def as_dict(self) -> dict[str, Any]:
        """For JSON, under `traffic`."""
        return {
            "decisions_per_second": self.decisions_per_second,
            "bytes_per_decision": self._table(1),
            "bytes_per_second": self._table(self.decisions_per_second),
            "weights_bytes": self.weights_bytes,
            "weights_loaded": self.loaded,
            "weights_fetched_external": self.fetched,
            "cache_bytes": self.external.cache_bytes if self.external else None,
            "energy_uj": {
                "bytes_and_operations": self.modelled_uj,
                "parts": self.parts_uj,
                "power_and_time": self.measured_uj,
            },
            "constants": {
                name: {"picojoules": c.picojoules, "source": c.source}
                for name, c in CONSTANTS.items()
            },
        }

    def _table(self, factor: float) -> dict[str, dict[str, dict[str, int]]]:
        table: dict[str, dict[str, dict[str, int]]] = {}
        for memory, purpose, direction in PLACES:
            number = round(factor * self.bytes(purpose, direction))
            table.setdefault(memory, {}).setdefault(purpose, {})[direction] = number
        return table

    def text(self) -> str:
        """For people."""
        rate = self.decisions_per_second
        lines = [
            f"{'bytes of the network':<24}{'read':>11}{'written':>11}"
            f"{'a second: read':>18}{'written':>13}",
        ]
        for purpose in PURPOSES:
            memory = "flash" if purpose == "weights" else "RAM"
            read, written = (self.bytes(purpose, d) for d in DIRECTIONS)
            lines.append(
                f"{f'  {memory}, {purpose}':<24}{read:>11,}{written:>11,}"
                f"{rate * read:>18,.0f}{rate * written:>13,.0f}"
            )
        lines.append(
            f"constants {self.weights_bytes:,} bytes (weights; bias, multiplier and "
            f"shift of outputs), loaded {self.loaded / max(1, self.weights_bytes):.1f} "
            "times for a decision"
        )
        if self.external is not None and self.fetched is not None:
            lines += [
                f"external  {self.fetched:,} bytes a decision, if weights were read in "
                f"place behind a cache of {self.external.cache_bytes:,} bytes",
                f"          {self.external.source}",
            ]
        parts = ", ".join(f"{k} {uj:.2f}" for k, uj in self.parts_uj.items())
        lines.append(
            f"energy    {self.modelled_uj:.2f} uJ by bytes and operations: {parts}"
        )
        lines += [f"          {name}: {c.source}" for name, c in self._used().items()]
        if self.measured_uj is None:
            lines.append(
                "          by power and time: no sourced figure for this board"
            )
            return "\n".join(lines)
        times = self.measured_uj / self.modelled_uj
        lines.append(
            f"          {self.measured_uj:,.0f} uJ by the core's power and its time, "
            f"{times:,.0f} times as much:"
        )
        lines += [
            "          the two disagree. A core's energy goes into instructions and",
            "          clocks, which the former leaves out: go by the latter.",
        ]
        return "\n".join(lines)

    def _used(self) -> dict[str, Constant]:
        return {
            name: constant
            for name, constant in CONSTANTS.items()
            if name != "external_byte" or self.fetched is not None
        }


def of(
    count: Count,
    read: Sequence[Reading],
    skipping: int,
    decisions_per_second: float,
    external: External | None = None,
    measured_uj: float | None = None,
) -> Traffic:
    """The traffic of a network.

    Args:
        count: Of a decision, as it ran.
        read: What the schedule reads of constants.
        skipping: Bytes of weights that products with thresholds load, as they ran:
            they read what a transmitted element is multiplied with.
        decisions_per_second: How often it decides.
        external: See `Traffic`.
        measured_uj: See `Traffic`.
    """
    dense = [reading for reading in read if not cost.skips(reading.node)]
    return Traffic(
        count=count,
        loaded=cost.loaded(dense) + skipping,
        weights_bytes=sum({r.constant: r.bytes for r in read}.values()),
        decisions_per_second=decisions_per_second,
        external=external,
        fetched=cost.fetched(read, external.cache_bytes) if external else None,
        measured_uj=measured_uj,
    )
