"""How long a board works, what that takes a day, and how long a cell lasts.

The share of time comes from counted instructions (kws.deploy.pace), the power from the
figures with a source in board.toml. What has no such figure is not said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kws.deploy.pace import Pace

DAY_S = 86_400


@dataclass(frozen=True)
class Budget:
    """A day of listening.

    Args:
        pace: How much of its time the board works.
        battery_mah: The user's cell; None: not asked.

    Example:
        >>> from kws.deploy import boards
        >>> pace = Pace(boards.load("nrf52840dk"), 16, 98, 3_400_000, 178_600, 1_400)
        >>> budget = Budget(pace, 220)
        >>> round(budget.core_j), budget.total_j, round(budget.most_days or 0, 1)
        (750, None, 3.2)
    """

    pace: Pace
    battery_mah: float | None = None

    @property
    def core_j(self) -> float | None:
        """Joules a day of the core while it works; None without a sourced figure."""
        power = self.pace.board.power
        if power is None or self.pace.busy > 1:
            return None
        return power.active_mw / 1000 * self.pace.busy * DAY_S

    @property
    def total_j(self) -> float | None:
        """The same, of the whole board, asleep too."""
        power, core = self.pace.board.power, self.core_j
        if power is None or core is None or power.asleep_mw is None:
            return None
        # What stays on between two runs stays on during them.
        return core + power.asleep_mw / 1000 * DAY_S

    @property
    def days(self) -> float | None:
        """How long the cell lasts, its own losses left out."""
        return self._days(self.total_j)

    @property
    def most_days(self) -> float | None:
        """What it can't last longer than: the core's work alone."""
        return self._days(self.core_j)

    def _days(self, joules: float | None) -> float | None:
        power = self.pace.board.power
        if power is None or power.supply_v is None or self.battery_mah is None:
            return None
        return self.battery_mah * 3.6 * power.supply_v / joules if joules else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "duty_cycle": self.pace.busy,
            "energy_core_j_per_day": self.core_j,
            "energy_j_per_day": self.total_j,
            "battery_mah": self.battery_mah,
            "battery_days": self.days,
            "battery_days_at_most": self.most_days,
        }

    def text(self) -> str:
        """For people: what is known, and what is not and why."""
        board, power = self.pace.board, self.pace.board.power
        lines = [
            f"duty      {100 * self.pace.busy:.1f} % of the time awake: "
            f"{self.pace.instructions_per_second / 1e6:.1f} M instructions a second, "
            f"the loop's {self.pace.loop_per_second / 1e6:.2f} M among them"
        ]
        if power is None:
            lines.append(
                f"a day     not said: {board.name}'s board.toml has no sourced [power]"
            )
            return "\n".join(lines)
        if self.core_j is None:
            lines.append("a day     not said: the board can't keep up")
            return "\n".join(lines)
        lines.append(
            f"a day     {self.core_j:,.0f} J by the core's work, from {power.source}"
        )
        if self.total_j is None:
            lines.append(
                "          asleep: no sourced figure of what stays on (crystal, "
                "microphone, serial port), so no sum"
            )
        else:
            lines.append(
                f"          {self.total_j:,.0f} J with what stays on, "
                f"from {power.asleep_source}"
            )
        if self.battery_mah is not None:
            lines.append(self._battery())
        return "\n".join(lines)

    def _battery(self) -> str:
        cell = f"battery   {self.battery_mah:g} mAh: "
        if self.days is not None:
            return f"{cell}{self.days:,.1f} days, the cell's own losses left out"
        if self.most_days is not None:
            return (
                f"{cell}not said; at most {self.most_days:,.1f} days, by the core alone"
            )
        return f"{cell}not said: board.toml has no supply_v"
