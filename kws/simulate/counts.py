"""What a run with thresholds costs: kws/graph/cost.py's counts, over a set of clips.

The graph that is counted is the one that the native engine runs, but with every row of
every layer: as papers count, who don't use that only row 0 of the last layer is read
where there is a class token. For MHSA alone (what papers report) and the whole model.

Q.K^T is counted both ways: by pairs, |both transmitted| (the papers' rule), and by
rows, a transmitted element of Q times K's column (what a Cortex-M runs, and what all
bytes follow).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kws import attention
from kws.graph import cost, passes, reader
from kws.graph.cost import PURPOSES, Count
from kws.graph.nodes import Node
from kws.graph.products import MLP_ROLES, STREAM_ROLES, Product
from kws.recipe import Recipe
from kws.thresholds import Slot, Slots

BESIDE = (*MLP_ROLES, *STREAM_ROLES)  # roles of products that are not MHSA's


@dataclass(frozen=True)
class Counts:
    """What was transmitted, per clip; filled by a simulator.

    Args:
        sent: int64 [N, slots], elements, of all heads together.
        pairs: int64 [N, layers], products of Q.K^T with both elements transmitted.
        encoded: Slots that are delta-encoded; the others run dense.
    """

    sent: np.ndarray
    pairs: np.ndarray
    encoded: frozenset[Slot]


class Network:
    """A network's graph, ready to be counted.

    Args:
        model: Its .tflite.
        recipe: Its recipe.
        labels: Number of logits.

    Raises:
        KwsError: not such a file, or a network that can't be told from its graph.
    """

    def __init__(self, model: bytes, recipe: Recipe, labels: int) -> None:
        graph = reader.read(model)
        passes.prepare(graph)
        self.products = attention.find_products(graph, recipe, labels)
        passes.finish(graph, attention.fusions(), narrow=False)
        self.nodes = graph.nodes
        self.dense = cost.total(self.nodes)

    @property
    def slots(self) -> Slots:
        return self.products.slots

    def elements(self) -> np.ndarray:
        """int64 [slots]: elements of each slot's tensors in one run."""
        out = np.zeros(len(self.slots), np.int64)
        seen: set[tuple[int, Slot]] = set()  # layers may read the same tensor
        for product in self.products.every:
            key = (id(product.tensor), product.slot)
            if product.slot in self.slots and key not in seen:
                seen.add(key)
                out[self.slots.index(product.slot)] += product.elements
        return out

    def sent(self, counts: Counts) -> cost.Sent:
        """What each product transmitted; heads of a block share alike."""
        shares = {slot: len(self.products.tensors(slot)) for slot in self.slots}

        def of(product: Product) -> np.ndarray | None:
            if product.slot not in counts.encoded:
                return None
            sent = counts.sent[:, self.slots.index(product.slot)]
            return sent / shares[product.slot]

        return of

    def count(self, counts: Counts, mhsa: bool = False) -> Count:
        """The cost of a run, one for each clip.

        Args:
            counts: What was transmitted.
            mhsa: Of MHSA alone.
        """
        nodes = [n for n in self.nodes if _is_mhsa(n)] if mhsa else self.nodes
        return cost.total(nodes, self.sent(counts))

    def macs(self, counts: Counts) -> dict[str, np.ndarray]:
        """MACs by role, [N, layers]; scores by pairs and, as scores_rows, by rows."""
        sent, spent = self.sent(counts), dict[str, np.ndarray]()
        shape = counts.pairs.shape
        for product in self.products.every:
            elements = sent(product)
            macs = product.macs * (product.elements if elements is None else elements)
            role = "scores_rows" if product.role == "scores" else product.role
            spent.setdefault(role, np.zeros(shape))[:, product.layer] += macs
        if "scores_rows" in spent:
            spent["scores"] = counts.pairs.astype(np.float64)
        return spent

    def dense_macs(self, layer: int | None = None, mlp: bool = False) -> dict[str, int]:
        """Dense MACs by role, of MHSA, or of all beside it; of one layer or of all.

        Args:
            layer: The layer; None: all.
            mlp: What is beside MHSA: the MLP, and a stream's stem and read-out.
        """
        found: dict[str, int] = {}
        for product in self.products.every:
            beside = product.role in BESIDE
            if beside == mlp and layer in (None, product.layer):
                macs = product.elements * product.macs
                found[product.role] = found.get(product.role, 0) + macs
        return {role: macs for role, macs in found.items() if macs}


def _is_mhsa(node: Node) -> bool:
    products = node.options.get("products", ())
    return any(product.role not in BESIDE for product in products)


def summary(network: Network, counts: Counts) -> dict[str, object]:
    """Everything counted, for JSON: means over clips and 95th percentiles.

    Returns:
        mhsa_mac_cut and mac_cut (0..1, mean, Q.K^T by pairs; 0 where there is no
        MHSA), the same by rows,
        cut by role, macs of MHSA and of the whole model with percentile, comparisons
        and what is beside them, bytes of both by purpose, and the whole model's by
        memory, purpose and direction.
    """
    clips, spent = len(counts.pairs), network.macs(counts)
    dense = network.dense_macs() | network.dense_macs(mlp=True)
    mhsa_dense = sum(network.dense_macs().values())
    counted = network.count(counts)
    attention_roles = [role for role in network.dense_macs() if role != "scores"]
    beside = sum(dense.values()) - mhsa_dense
    rest = (
        network.dense.macs
        - mhsa_dense
        - beside
        + sum(spent[role].sum(axis=1) for role in BESIDE if role in spent)
    )
    table: dict[str, object] = {}
    for suffix, scores in (("", "scores"), ("_rows", "scores_rows")):
        names = [name for name in (*attention_roles, scores) if name in spent]
        mhsa = sum((spent[name].sum(axis=1) for name in names), np.zeros(clips))
        whole = mhsa + rest
        table[f"mhsa_mac_cut{suffix}"] = _cut(mhsa, mhsa_dense)
        table[f"mac_cut{suffix}"] = _cut(whole, network.dense.macs)
        table[f"mhsa_macs{suffix}"] = _spread(mhsa)
        table[f"macs{suffix}"] = _spread(whole)
    table["mhsa_macs_dense"] = mhsa_dense
    table["macs_dense"] = network.dense.macs
    table["cut"] = {
        name: _cut(macs.sum(axis=1), dense["scores" if "scores" in name else name])
        for name, macs in spent.items()
        if ("scores" if "scores" in name else name) in dense
    }
    pairs = [name for name in (*attention_roles, "scores") if name in spent]
    table["layer_cut"] = [
        _cut(
            sum((spent[name][:, layer] for name in pairs), np.zeros(clips)),
            sum(network.dense_macs(layer).values()),
        )
        for layer in range(network.slots.layers)
    ]
    shares = counts.sent / network.elements()
    table["sent"] = {
        kind: float(shares[:, network.slots.of([kind])].mean())
        for kind in network.slots.kinds
    }
    table["subtractions"] = table["comparisons"] = cost.whole(counted.comparisons)
    table["additions"] = _additions(network, counts)
    table["exponentials"] = cost.whole(counted.exponentials)
    for prefix, count in (
        ("mhsa_bytes", network.count(counts, mhsa=True)),
        ("bytes", counted),
    ):
        for purpose in PURPOSES:
            bytes_ = np.broadcast_to(count.total(purpose=purpose), clips)
            table[f"{prefix}_{purpose}"] = _spread(bytes_)
    table["bytes"] = counted.as_dict()["bytes"]
    return table


def _additions(network: Network, counts: Counts) -> int:
    """For Q.K^T from pairs: left and upper neighbour of every score."""
    return sum(
        2 * product.elements
        for product in network.products.every
        if product.kind == "P"
        and {(product.layer, "Q"), (product.layer, "K")} <= counts.encoded
    )


def _cut(spent: np.ndarray, dense: int) -> float:
    return float(1.0 - spent.mean() / dense) if dense else 0.0


def _spread(values: np.ndarray) -> dict[str, float]:
    return {
        "mean": float(values.mean()),
        "p95": float(np.percentile(values, 95)),
    }
