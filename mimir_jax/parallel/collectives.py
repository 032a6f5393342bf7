"""What a compiled program exchanges between devices, read from its HLO text."""

import re
from collections.abc import Iterator
from math import prod
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][a-z\-]*)\(")
_CALLS = re.compile(
    r"(?:calls|to_apply|condition|body|called_computations|branch_computations)=\{?((?:%[\w.\-]+(?:, )?)+)"
)
_BODY = re.compile(r"body=%?([\w.\-]+)")
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_LIMIT = re.compile(r"^\s+%?([\w.\-]+) = s32\[\](?:\{.*?\})? constant\((\d+)\)")
_LESS = re.compile(r"^\s+ROOT .* compare\(.*?, (?:s32\[\](?:\{.*?\})? )?%?([\w.\-]+)\), direction=LT")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SHAPE = re.compile(r"\b([a-z]+[0-9]*(?:e[0-9]m[0-9][a-z]*)?)\[([0-9,]*)\]")
_LISTED = re.compile(r"replica_groups=\{\{([0-9,]*)\}")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_NAMED = re.compile(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=")


class Collective(NamedTuple):
    """One exchange.

    Attributes:
        kind: of `KINDS`.
        group: devices that take part together.
        size: bytes of its result on a device (of its operand, for a reduce-scatter).
        times: how often it runs: the trips of the loops around it.
    """

    kind: str
    group: int
    size: int
    times: int

    @property
    def traffic(self) -> float:
        """Bytes that a device takes from others in all its runs, by the ring's arithmetic."""
        others = (self.group - 1) / self.group
        factor = {"all-reduce": 2 * others, "collective-permute": 1.0}.get(self.kind, others)
        return self.times * self.size * factor


def collectives(hlo: str, devices: int) -> list[Collective]:
    """The collectives of a compiled module's text, each with the trips of its loops.

    Args:
        hlo: `compiled.as_text()`.
        devices: of the module: the group of a collective that names none.
    """
    bodies, entry = _computations(hlo)
    found: list[Collective] = []
    seen: set[str] = set()
    for name, times in _runs(bodies, entry):
        for line in bodies[name]:
            operation = _OPERATION.match(line)
            kind = operation[2].removesuffix("-start") if operation else ""
            if operation is None or kind not in KINDS:
                continue
            # One that is hidden behind computing is written down at each of its steps, under one channel.
            channel = _CHANNEL.search(line)
            if channel is None or channel[1] not in seen:
                found.append(Collective(kind, _group(line, devices), _size(operation[1], kind, line), times))
            seen |= {channel[1]} if channel else set()
    return [one for one in found if one.group > 1]


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    bodies: dict[str, list[str]] = {}
    lines: list[str] = []
    entry = ""
    for line in hlo.splitlines():
        if start := _COMPUTATION.match(line):
            bodies[start[2]] = lines = []
            entry = start[2] if start[1] else entry
        else:
            lines.append(line)
    return bodies, entry


def _runs(bodies: dict[str, list[str]], name: str, times: int = 1) -> Iterator[tuple[str, int]]:
    """Each computation that is run from `name`, and how often: once for each call of it."""
    yield name, times
    for line in bodies[name]:
        loop = _BODY.search(line)
        for called in _CALLS.findall(line):
            for one in re.findall(r"[\w.\-]+", called):
                if one in bodies:
                    yield from _runs(bodies, one, times * (_trips(line, bodies) if loop and loop[1] == one else 1))


def _trips(line: str, bodies: dict[str, list[str]]) -> int:
    """Of a loop: what the compiler says or, of one that counts from 0 as a scan does, the limit of its condition."""
    if known := _TRIPS.search(line):
        return int(known[1])
    condition = bodies.get((_CONDITION.search(line) or ["", ""])[1], [])
    limits = {found[1]: int(found[2]) for one in condition if (found := _LIMIT.match(one))}
    compared = [found[1] for one in condition if (found := _LESS.match(one))]
    return limits.get(compared[0], 1) if compared else 1


def _group(line: str, devices: int) -> int:
    if iota := _IOTA.search(line):
        return int(iota[2])
    if named := _NAMED.search(line):
        lengths = {axis: int(length) for axis, length in re.findall(r"'(\w+)'=(\d+)", named[1])}
        return prod(lengths[axis] for axis in re.findall(r"'(\w+)'", named[2]))
    if listed := _LISTED.search(line):
        return listed[1].count(",") + 1
    return 2 if "source_target_pairs" in line else devices


def _size(result: str, kind: str, line: str) -> int:
    """Bytes; an asynchronous start has operands and results in a tuple, of which the results are no smaller."""
    sizes = [_bytes(dtype, shape) for dtype, shape in _SHAPE.findall(result)]
    if kind == "reduce-scatter":
        operands = line.partition(f"{kind}(")[2].partition(")")[0] or line.partition(f"{kind}-start(")[2]
        sizes += [_bytes(dtype, shape) for dtype, shape in _SHAPE.findall(operands)]
    # A combined collective has a tuple of results; a start has (operands, results).
    if "-start(" in line and kind != "all-reduce":
        return max(sizes, default=0)
    return max(sizes, default=0) if kind == "reduce-scatter" else sum(sizes)


def _bytes(dtype: str, shape: str) -> int:
    bits = {"pred": 8}.get(dtype) or int((re.search(r"[0-9]+", dtype) or ["32"])[0])
    return prod(int(length) for length in shape.split(",") if length) * max(bits, 8) // 8
