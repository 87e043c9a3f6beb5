"""Delta thresholds, by layer and tensor kind, and how they are written down.

Which tensors a network has thresholds for is its `Slots`: each attention variant brings
kinds of its own (`kws.attention.slots`), so layers may have different ones. What the
kinds mean: X inputs, Q queries, K keys, P softmax outputs, O outputs of what mixes
tokens; M the MLP's inputs, H its hidden layer. Networks for streams: F features, C
inputs of the stem's second convolution, E of its dense layer (all of layer 0), R pooled
tokens of the read-out (of the last layer).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from kws.errors import KwsError

Slot = tuple[int, str]
"""(layer, kind): one tensor of one layer that may be delta-encoded."""

MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Slots:
    """All slots of a network, in order: layer by layer, each in its kinds' order.

    Args:
        by_layer: The kinds of every layer.

    Example:
        >>> slots = Slots((("X", "Q"), ("X", "M")))
        >>> list(slots)
        [(0, 'X'), (0, 'Q'), (1, 'X'), (1, 'M')]
        >>> slots.index((1, "X"))
        2
        >>> slots.kinds
        ('X', 'Q', 'M')
    """

    by_layer: tuple[tuple[str, ...], ...]

    @property
    def layers(self) -> int:
        return len(self.by_layer)

    @cached_property
    def pairs(self) -> tuple[Slot, ...]:
        """Every slot, in order."""
        return tuple(
            (layer, kind) for layer, kinds in enumerate(self.by_layer) for kind in kinds
        )

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """Every kind once, in the order in which layers name them."""
        return tuple(dict.fromkeys(kind for _, kind in self.pairs))

    @cached_property
    def layer(self) -> np.ndarray:
        """int [slots]: each slot's layer."""
        return np.array([layer for layer, _ in self.pairs], int)

    @cached_property
    def kind(self) -> np.ndarray:
        """str [slots]: each slot's kind."""
        return np.array([kind for _, kind in self.pairs], object)

    @cached_property
    def _places(self) -> dict[Slot, int]:
        return {slot: place for place, slot in enumerate(self.pairs)}

    def index(self, slot: Slot) -> int:
        """A slot's place in vectors over slots; KeyError where there is none."""
        return self._places[slot]

    def of(self, kinds: Iterable[str]) -> np.ndarray:
        """bool [slots]: True for slots of these kinds."""
        return np.isin(self.kind.astype(str), list(kinds))

    def __contains__(self, slot: object) -> bool:
        return slot in self._places

    def __iter__(self) -> Iterator[Slot]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)


class Thresholds:
    """A threshold for each slot; negative: dense, not encoded.

    In units of the tensor itself, or in whole int8 steps: whoever makes them says
    which. Q is meant before the 1 / sqrt(head_dim) that is folded into its
    projection, as in the papers.

    Args:
        slots: The network's.
        values: float [slots].

    Example:
        >>> slots = Slots((("X", "P"),) * 12)
        >>> Thresholds.parse("X=0.3,P=0.005,3.X=0.25", slots)[3, "X"]
        0.25
    """

    def __init__(self, slots: Slots, values: np.ndarray | Sequence[float]) -> None:
        self.slots = slots
        self.values = np.asarray(values, dtype=np.float64)
        if self.values.shape != (len(slots),):
            raise ValueError(
                f"Expected [{len(slots)}], one for each slot. "
                f"Received: {list(self.values.shape)}"
            )

    @classmethod
    def dense(cls, slots: Slots) -> Thresholds:
        """No tensor encoded."""
        return cls(slots, np.full(len(slots), -1.0))

    @classmethod
    def read(cls, text: str, slots: Slots) -> Thresholds:
        """`parse`, or with `@FILE` a JSON table such as {"X": 0.3, "3.X": 0.25}.

        Raises:
            KwsError: see `parse`; no such file, not such a table.
        """
        if not text.startswith("@"):
            return cls.parse(text, slots)
        path = Path(text[1:])
        if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            raise KwsError(
                f"No such file of thresholds. Received: {str(path)!r}",
                'kws sweep RUN --pick "loss<=0.005"   (writes picked.json)',
            )
        try:
            table = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise KwsError(
                f"Not a JSON file: {error}. Received: {path}",
                'kws sweep RUN --pick "loss<=0.005"   (writes picked.json)',
            ) from None
        if not isinstance(table, dict):
            raise _bad(str(table)[:80], slots)
        return cls.from_dict(table, slots)

    @classmethod
    def parse(cls, text: str, slots: Slots) -> Thresholds:
        """Read `X=0.3,P=0.005,3.X=0.25`: kinds for all layers, then single layers.

        Raises:
            KwsError: not of that form, no such kind or layer, not a number from 0.
        """
        pairs: dict[str, float] = {}
        for item in filter(None, text.replace(" ", "").split(",")):
            match = re.fullmatch(r"((?:\d+\.)?[A-Za-z]+)=([0-9.eE+-]+)", item)
            try:
                if match is None:
                    raise ValueError
                pairs[match[1]] = float(match[2])
            except ValueError:
                raise _bad(item, slots) from None
        return cls.from_dict(pairs, slots)

    @classmethod
    def from_dict(cls, table: Mapping[str, float], slots: Slots) -> Thresholds:
        """Read {"X": 0.3, "3.X": 0.25}; a single layer's overrides the kind's.

        Raises:
            KwsError: no such kind or layer, not a number from 0.
        """
        out = cls.dense(slots)
        single = {f"{layer}.{kind}": (layer, kind) for layer, kind in slots}
        for key, value in sorted(table.items(), key=lambda item: "." in item[0]):
            # JSON's whole numbers may be larger than any float.
            real = isinstance(value, (int, float)) and 0 <= value <= sys.float_info.max
            if not real or not (key in single or key in slots.kinds):
                raise _bad(f"{key}={value}"[:80], slots)
            if key in single:
                out.values[slots.index(single[key])] = value
            else:
                out.values[slots.of([key])] = value
        return out

    def to_dict(self) -> dict[str, float]:
        """The shortest table that `from_dict` reads back."""
        table: dict[str, float] = {}
        for kind in self.slots.kinds:
            mine = self.slots.of([kind])
            values, layers = self.values[mine], self.slots.layer[mine]
            if (values == values[0]).all():
                if values[0] >= 0:
                    table[kind] = float(values[0])
                continue
            for layer, value in zip(layers, values, strict=True):
                if value >= 0:
                    table[f"{layer}.{kind}"] = float(value)
        return table

    def to_steps(self) -> dict[str, int]:
        """`to_dict` in whole numbers: int8 steps, as a bundle keeps them."""
        return {key: int(value) for key, value in self.to_dict().items()}

    def __getitem__(self, slot: Slot) -> float:
        return float(self.values[self.slots.index(slot)])

    @property
    def encoded(self) -> frozenset[Slot]:
        """The slots that are encoded."""
        return frozenset(
            s for s, v in zip(self.slots, self.values, strict=True) if v >= 0
        )


def _bad(item: str, slots: Slots) -> KwsError:
    own = "" if len(set(slots.by_layer)) < 2 else " that the layer has"
    return KwsError(
        f"Bad threshold. Expected KIND=NUMBER or LAYER.KIND=NUMBER with KIND one of "
        f"{', '.join(slots.kinds)}{own}, LAYER 0 to {slots.layers - 1} and NUMBER at "
        f"least 0. Received: {item!r}",
        f"--theta {slots.kinds[0] if slots.kinds else 'X'}=0.3",
    )
