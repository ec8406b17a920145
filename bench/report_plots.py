# SPDX-License-Identifier: MIT
"""The plots of report.py, drawn as SVG by hand: time against memory, and memory over time."""

import html
import math

from compare import COLOURS
from report_tables import mib_text, seconds_text

FREEHOLD_COLOUR = "#d55e00"
SHAPES = ("circle", "square", "diamond", "triangle")
COLUMNS = 5
PANEL_WIDTH, PANEL_HEIGHT = 212, 176  # of a small multiple, all in all
INSET_LEFT, INSET_RIGHT, INSET_TOP, INSET_BOTTOM = 44, 12, 26, 24
MARGIN = 16
TIMELINE_WIDTH, TIMELINE_HEIGHT = 1080, 330
LEAST_FACTOR = 1.6  # that an axis spans, so that a difference of 1 % looks small
MIB_KIB = 1024


class Drawing:
    """Elements, and the size they are on."""

    def __init__(self, width, height):
        self.width, self.height, self.parts = width, height, []

    def text(self, x, y, text, size=11, anchor="start", weight="normal", fill="#222222"):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
                          f'font-weight="{weight}" fill="{fill}">{html.escape(text)}</text>')

    def line(self, x1, y1, x2, y2, colour="#dddddd", width=1.0):
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
                          f'stroke="{colour}" stroke-width="{width}"/>')

    def path(self, points, colour, width, label):
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="{width}" '
                          f'stroke-linejoin="round"><title>{html.escape(label)}</title></polyline>')

    def mark(self, x, y, style, label):
        """A dot in the allocator's colour and shape; hovering tells its figures."""
        colour, shape, radius = style
        shapes = {"circle": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}"',
                  "square": f'<path d="M{x - radius:.1f},{y - radius:.1f}h{2 * radius}v{2 * radius}h-{2 * radius}z"',
                  "diamond": f'<path d="M{x:.1f},{y - radius * 1.3:.1f}l{radius * 1.3},{radius * 1.3}'
                             f'l-{radius * 1.3},{radius * 1.3}l-{radius * 1.3},-{radius * 1.3}z"',
                  "triangle": f'<path d="M{x:.1f},{y - radius * 1.2:.1f}l{radius * 1.2},{radius * 2.1}'
                              f'h-{radius * 2.4}z"'}
        self.parts.append(f'{shapes[shape]} fill="{colour}" stroke="white" stroke-width="0.8">'
                          f"<title>{html.escape(label)}</title></{shapes[shape][1:].split(' ')[0]}>")

    def svg(self):
        head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:.0f} {self.height:.0f}" '
                f'width="{self.width:.0f}" height="{self.height:.0f}" font-family="sans-serif" stroke="none">')
        return "\n".join([head, f'<rect width="{self.width:.0f}" height="{self.height:.0f}" fill="white"/>',
                          *self.parts, "</svg>", ""])


def styles_of(names):
    """Colour, shape and radius for each allocator; Freehold's is kept for it."""
    others = [name for name in names if name != "freehold"]
    styles = {name: (COLOURS[i % len(COLOURS)], SHAPES[i // len(COLOURS) % len(SHAPES)], 4)
              for i, name in enumerate(others)}
    return {**styles, "freehold": (FREEHOLD_COLOUR, "circle", 6)}


def behind(names):
    """Freehold's dot is larger, so it is drawn first."""
    return sorted(names, key="freehold".__ne__)


def on_top(names):
    """Freehold's line is drawn last."""
    return sorted(names, key="freehold".__eq__)


def draw_legend(drawing, styles, names, x, y):
    for name in names:
        drawing.mark(x, y - 4, styles[name], name)
        drawing.text(x + 10, y, name, size=12, weight="bold" if name == "freehold" else "normal")
        x += 34 + 7 * len(name)


# ---- Axes ----------------------------------------------------------------------------------------


class LogAxis:
    """From the least to the most of the values, and at least LEAST_FACTOR, onto first..last."""

    def __init__(self, values, first, last):
        low, high = min(values), max(values)
        room = max(1.08, math.sqrt(LEAST_FACTOR * low / high) if high < LEAST_FACTOR * low else 1.0)
        self.low, self.high, self.first, self.last = low / room, high * room, first, last

    def at(self, value):
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.first + (self.last - self.first) * share

    def ticks(self):
        """Two to five round values: even steps on a short axis, 1-2-5 or powers of ten on a long one."""
        if self.high < 3 * self.low:
            step = round_step(self.high - self.low, 4)
            return [i * step for i in range(math.ceil(self.low / step), int(self.high / step) + 1)]
        for steps in ((1,), (1, 3), (1, 2, 5)):
            found = [step * 10.0 ** power for power in range(-6, 9) for step in steps
                     if self.low <= step * 10.0 ** power <= self.high]
            if len(found) >= 2:
                break
        return found[::math.ceil(len(found) / 5)]


def round_step(most, wanted):
    """The least round step of which at most `wanted` fit in `most`."""
    step = 10.0 ** math.floor(math.log10(most / wanted))
    return step * next(factor for factor in (1, 2, 5, 10) if most / (step * factor) <= wanted)


def round_steps(most, wanted):
    """0, and round steps up to `most`."""
    step = round_step(most, wanted)
    return [i * step for i in range(int(most / step) + 1)]


# ---- Time against memory -------------------------------------------------------------------------


def panels_of(results):
    """(title, allocator -> (time, MiB)) for each: the means first, then every workload."""
    means, tables = results["summary"]["means"], results["summary"]["tables"]
    panels = []
    for kind in ("synthetic", "program"):
        if kind in means["time"] and kind in means["peak"]:
            time, peak = means["time"][kind]["means"], means["peak"][kind]["means"]
            panels.append((f"mean ratio, {kind}", {name: (time[name]["to_best_each"], peak[name]["to_best_each"])
                                                  for name in time if name in peak}))
    for workload, row in tables["time"].items():
        peaks = tables["peak"].get(workload, {})
        points = {name: (entry["median"], peaks[name]["median"] / MIB_KIB)
                  for name, entry in row.items() if name in peaks}
        if points:
            panels.append((workload, points))
    return panels


def draw_panel(drawing, left, top, title, points, styles):
    x = LogAxis([time for time, _ in points.values()], left + INSET_LEFT, left + PANEL_WIDTH - INSET_RIGHT)
    y = LogAxis([mib for _, mib in points.values()], top + PANEL_HEIGHT - INSET_BOTTOM, top + INSET_TOP)
    drawing.text(left + INSET_LEFT, top + 18, title, size=12, weight="bold")
    for tick in x.ticks():
        drawing.line(x.at(tick), y.first, x.at(tick), y.last)
        drawing.text(x.at(tick), y.first + 13, f"{tick:.3g}", size=9, anchor="middle", fill="#555555")
    for tick in y.ticks():
        drawing.line(x.first, y.at(tick), x.last, y.at(tick))
        drawing.text(x.first - 4, y.at(tick) + 3, f"{tick:.4g}", size=9, anchor="end", fill="#555555")
    drawing.line(x.first, y.first, x.last, y.first, "#888888")
    drawing.line(x.first, y.first, x.first, y.last, "#888888")
    for name in behind(points):
        time, mib = points[name]
        drawing.mark(x.at(time), y.at(mib), styles[name],
                     f"{name}: {seconds_text(time)}, {mib_text(mib * MIB_KIB)}")


def draw_time_and_memory(results):
    panels = panels_of(results)
    names = list(results["allocators"])
    styles = styles_of(names)
    rows = math.ceil(len(panels) / COLUMNS)
    drawing = Drawing(2 * MARGIN + COLUMNS * PANEL_WIDTH, 84 + rows * PANEL_HEIGHT + MARGIN)
    drawing.text(MARGIN, 28, "Time and peak memory of each workload: low and left is better", size=16, weight="bold")
    drawing.text(MARGIN, 48, "Across: seconds. Up: MiB. Logarithmic, each panel with its own range of at least "
                 f"{LEAST_FACTOR}x. The first panels: mean ratio to the best peer.", size=12)
    draw_legend(drawing, styles, names, MARGIN + 6, 72)
    for number, (title, points) in enumerate(panels):
        draw_panel(drawing, MARGIN + number % COLUMNS * PANEL_WIDTH, 84 + number // COLUMNS * PANEL_HEIGHT,
                   title, points, styles)
    return drawing.svg()


# ---- Memory over time ----------------------------------------------------------------------------


def draw_timeline(drawing, top, title, samples, styles):
    """One workload's resident memory, a line for each allocator, from zero."""
    left, right = MARGIN + 44, MARGIN + TIMELINE_WIDTH - 8
    bottom, highest = top + TIMELINE_HEIGHT - 44, top + 30
    most_seconds = max(each[-1][0] for each in samples.values())
    most_mib = max(kib for each in samples.values() for _, kib in each) / MIB_KIB

    def point(seconds, mib):
        return left + (right - left) * seconds / most_seconds, bottom - (bottom - highest) * mib / most_mib

    drawing.text(left, top + 18, title, size=13, weight="bold")
    for mib in round_steps(most_mib, 5):
        drawing.line(left, point(0, mib)[1], right, point(0, mib)[1])
        drawing.text(left - 6, point(0, mib)[1] + 4, f"{mib:g}", anchor="end", fill="#555555")
    for seconds in round_steps(most_seconds, 10):
        drawing.line(point(seconds, 0)[0], bottom, point(seconds, 0)[0], bottom + 4, "#888888")
        drawing.text(point(seconds, 0)[0], bottom + 17, f"{seconds:g}", anchor="middle", fill="#555555")
    for name in on_top(samples):
        drawing.path([point(seconds, kib / MIB_KIB) for seconds, kib in samples[name]], styles[name][0],
                     2.6 if name == "freehold" else 1.5, name)


def draw_memory_over_time(results):
    """None if nothing was sampled."""
    sampled = {workload: {name: each for name, each in by_name.items() if len(each) > 1}
               for workload, by_name in results["memory_over_time"].items()}
    sampled = {workload: by_name for workload, by_name in sampled.items() if by_name}
    if not sampled:
        return None
    names = list(results["allocators"])
    styles = styles_of(names)
    drawing = Drawing(2 * MARGIN + TIMELINE_WIDTH, 84 + len(sampled) * TIMELINE_HEIGHT)
    drawing.text(MARGIN, 28, "Resident memory over time: one run each, a sample every 20 ms", size=16, weight="bold")
    drawing.text(MARGIN, 48, "Across: seconds since the start. Up: MiB.", size=12)
    draw_legend(drawing, styles, names, MARGIN + 6, 72)
    for number, (workload, samples) in enumerate(sampled.items()):
        draw_timeline(drawing, 84 + number * TIMELINE_HEIGHT, workload, samples, styles)
    return drawing.svg()


def draw_all(results):
    """File name -> SVG."""
    plots = {}
    if results["summary"]["tables"]["time"]:
        plots["time-memory.svg"] = draw_time_and_memory(results)
    over_time = draw_memory_over_time(results)
    if over_time:
        plots["memory-over-time.svg"] = over_time
    return plots
