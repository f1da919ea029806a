"""State -> the text that Prometheus reads (exposition format 0.0.4). Seconds, bytes and parts of one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_USABLE = ("up", "suspect")

Sample = tuple[Mapping[str, str], float | int | None]


def metrics_text(
    status: Mapping[str, Any], tunnels: Iterable[Mapping[str, Any]], handovers: Mapping[tuple[str, str], int]
) -> str:
    """`status` and `tunnels` as the commands answer; `handovers`: how many, by application and outcome."""
    networks, applications = status["networks"], status["applications"]
    tunnels = [tunnel for tunnel in tunnels if tunnel["network"]]
    lines: list[str] = []

    def add(name: str, kind: str, meaning: str, samples: Iterable[Sample]) -> None:
        known = [(labels, value) for labels, value in samples if value is not None]
        if known:
            lines.extend((f"# HELP upmt_{name} {meaning}", f"# TYPE upmt_{name} {kind}"))
            lines.extend(f"upmt_{name}{_labels(labels)} {value}" for labels, value in known)

    is_associated = int(status["association"]["state"] in ("associated", "refreshing"))
    add("associated", "gauge", "Whether there is an association with an anchor.", [({}, is_associated)])
    add(
        "network_up",
        "gauge",
        "Whether the network's tunnel carries packets.",
        (({"network": row["name"]}, int(row["state"] in _USABLE)) for row in networks),
    )
    add(
        "network_rtt_seconds",
        "gauge",
        "Round trip to the anchor.",
        (({"network": row["name"]}, _scaled(row["rtt_ms"])) for row in networks),
    )
    ways = ("up", "down")
    add(
        "network_loss",
        "gauge",
        "Part of the probes lost on the way up and down.",
        (({"network": row["name"], "way": way}, row.get(f"loss_{way}")) for row in networks for way in ways),
    )
    add(
        "network_delay_variation_seconds",
        "gauge",
        "How unsteady the delay is.",
        (
            ({"network": row["name"], "way": way}, _scaled((row.get("delay_variation_ms") or {}).get(way)))
            for row in networks
            for way in ways
        ),
    )
    for name, kind, meaning, key in (
        ("throughput_bits_per_second", "gauge", "Throughput in use, smoothed.", "throughput"),
        ("bytes_total", "counter", "Bytes on the wire since the start, outer headers included.", "carried"),
    ):
        add(
            f"network_{name}",
            kind,
            meaning,
            (
                ({"network": row["name"], "way": way}, (row.get(key) or {}).get(way))
                for row in networks
                for way in ways
            ),
        )
    add(
        "network_signal_dbm",
        "gauge",
        "How strong a radio hears its access point.",
        (({"network": row["name"]}, (row.get("signal") or {}).get("dbm")) for row in networks),
    )
    add(
        "network_metered",
        "gauge",
        "Whether somebody pays by the byte.",
        (({"network": row["name"]}, int(row["metered"])) for row in networks if "metered" in row),
    )
    add(
        "network_offered_bits_per_second",
        "gauge",
        "The most that passed lately.",
        (
            ({"network": row["name"], "way": way}, (row.get("throughput") or {}).get(f"offered_{way}"))
            for row in networks
            for way in ways
        ),
    )
    used = [
        (row["name"], period, usage) for row in networks for period, usage in (row.get("usage") or {}).items()
    ]
    add(
        "network_used_bytes",
        "gauge",
        "Bytes on the wire of the running day and month.",
        (
            ({"network": name, "period": period, "way": way}, usage[f"bytes_{way}"])
            for name, period, usage in used
            for way in ways
        ),
    )
    add(
        "network_cost",
        "gauge",
        "Cost of the running day and month, in the administrator's unit.",
        (({"network": name, "period": period}, usage["cost"]) for name, period, usage in used),
    )
    add(
        "tunnel_bytes_total",
        "counter",
        "Bytes by the network's present tunnels.",
        (
            (
                {"network": network, "way": way},
                sum(row[key] for row in tunnels if row["network"] == network),
            )
            for network in dict.fromkeys(row["network"] for row in tunnels)
            for way, key in (("up", "bytes_out"), ("down", "bytes_in"))
        ),
    )
    add(
        "application_network",
        "gauge",
        "1 for the network that an application is on.",
        (
            ({"application": row["name"], "network": row["network"]}, 1)
            for row in applications
            if row["network"]
        ),
    )
    add(
        "application_flows",
        "gauge",
        "Flows of an application.",
        (({"application": row["name"]}, row["flows"]) for row in applications),
    )
    add(
        "handovers_total",
        "counter",
        "Handovers since the start.",
        (
            ({"application": application, "outcome": outcome}, count)
            for (application, outcome), count in sorted(handovers.items())
        ),
    )
    add(
        "events_total",
        "counter",
        "What was dropped, refused or ignored, by reason.",
        (({"reason": reason}, count) for reason, count in sorted(status["counters"].items())),
    )
    return "\n".join((*lines, ""))


def _scaled(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds / 1000, 6)


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
