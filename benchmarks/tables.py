"""The tables of results.json in Markdown. A ratio says how many times as long as pyrnn somebody took."""

import statistics

WORKS = {"forward": "forward", "both": "forward and gradients", "state_gradients": "state_gradients"}


def select(cells, **wanted):
    """The records with these values."""
    return [cell for cell in cells if all(cell.get(name) == value for name, value in wanted.items())]


def values(cells, name):
    """The different values of a field, in the order of the records."""
    return list(dict.fromkeys(cell[name] for cell in cells if name in cell))


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def peers(cells):
    return list(dict.fromkeys(name for cell in cells for name in cell["ratio"]))


def geometric_mean(cells, name):
    """(mean, least, the record with the least) over the records that have this contender, or None."""
    have = [cell for cell in cells if name in cell["ratio"]]
    if not have:
        return None
    least = min(have, key=lambda cell: cell["ratio"][name])
    return statistics.geometric_mean(cell["ratio"][name] for cell in have), least["ratio"][name], least


def summary(cells):
    """Geometric mean and least over all sizes, by type, work and threads."""
    names, rows = peers(cells), []
    for threads in values(cells, "threads"):
        for dtype in values(cells, "dtype"):
            for work in values(cells, "work"):
                chosen = select(cells, threads=threads, dtype=dtype, work=work)
                found = [geometric_mean(chosen, name) for name in names]
                if any(found):
                    text = (f"{f[0]:.2f} ({f[1]:.2f} at {place(f[2])})" if f else "" for f in found)
                    rows.append([threads, dtype, WORKS[work], len(chosen), *text])
    return table(["threads", "type", "work", "networks", *names], rows)


def place(cell):
    return f"H={cell['H']} B={cell['B']} I={cell['I']}"


def peak_table(cells):
    """Percent of the peak, forward and both."""
    batches, rows = values(cells, "B"), []
    for dtype in values(cells, "dtype"):
        for H in values(cells, "H"):
            row = [dtype, H]
            for B in batches:
                chosen = select(cells, dtype=dtype, H=H, B=B)
                row.append(" / ".join(f"{100 * c['fraction']:.0f}" for c in chosen))
            rows.append(row)
    peaks = {d: statistics.median(c["peak"] for c in select(cells, dtype=d)) / 1e9 for d in values(cells, "dtype")}
    text = ", ".join(f"{peak:.0f} GF/s in {dtype}" for dtype, peak in peaks.items())
    return f"Peak: {text}.\n\n" + table(["type", "H", *(f"B = {B}" for B in batches)], rows)


def weights_table(cells):
    rows = [
        [
            c["dtype"],
            c["H"],
            f"{c['H'] ** 2 * (4 if c['dtype'] == 'float32' else 8) // 1024:,}",
            WORKS[c["work"]],
            f"{c['rate'] / 1e9:.0f}",
            f"{c['limit'] / 1e9:.0f}",
            f"{100 * c['fraction']:.0f} %",
        ]
        for c in cells
    ]
    return table(["type", "H", "W, KB", "work", "GB/s", "limit, GB/s", "part"], rows)


def bandwidth_table(cells):
    dtypes = values(cells, "dtype")
    rows = [
        [f"{n // 1024:,}", *(f"{select(cells, nbytes=n, dtype=d)[0]['bandwidth'] / 1e9:.0f}" for d in dtypes)]
        for n in values(cells, "nbytes")
    ]
    return table(["KB", *(f"{d}, GB/s" for d in dtypes)], rows)


def threads_table(cells):
    """Over all cells, and those that threads made slower."""
    rows, slower = [], []
    for n in dict.fromkeys(n for cell in cells for n in cell["speedup"]):
        for dtype in values(cells, "dtype"):
            for work in values(cells, "work"):
                speedups = [(c["speedup"][n], c) for c in select(cells, dtype=dtype, work=work)]
                if speedups:
                    least, cell = min(speedups, key=lambda pair: pair[0])
                    mean = statistics.geometric_mean(s for s, _ in speedups)
                    most = max(s for s, _ in speedups)
                    rows.append([n, dtype, WORKS[work], f"{mean:.2f}", f"{least:.2f} at {place(cell)}", f"{most:.2f}"])
                    slower += [(n, s, c) for s, c in speedups if s < 0.97]
    lines = [f"- {n} threads, {c['dtype']}, {WORKS[c['work']]}, {place(c)}: {s:.2f}" for n, s, c in slower]
    text = "Slower than on one thread by more than 3 %:\n" + "\n".join(lines) if lines else "None slower by 3 %."
    header = ["threads", "type", "work", "geometric mean", "least", "most"]
    return table(header, rows) + f"\n{text}\n"


def ratio_table(cells, *sizes, to="pyrnn"):
    """One row a cell: its sizes, the microseconds of `to`, and everybody's ratio."""
    names = peers(cells)
    rows = [
        [
            *(c[size] for size in sizes),
            f"{c['seconds'][to] * 1e6:,.{0 if c['seconds'][to] > 1e-5 else 2}f}",
            *(f"{c['ratio'][name]:.2f}" if name in c["ratio"] else "" for name in names),
        ]
        for c in cells
    ]
    return table([*sizes, f"{to}, µs", *names], rows)


def engines_table(cells):
    """The faster engine of each cell, and how many times as long the other took."""
    batches, rows = values(cells, "B"), []
    for instructions in values(cells, "instructions"):
        for dtype in values(cells, "dtype"):
            for work in values(cells, "work"):
                for H in values(cells, "H"):
                    row = [instructions, dtype, WORKS[work], H]
                    for B in batches:
                        found = select(cells, instructions=instructions, dtype=dtype, work=work, H=H, B=B)
                        ratio = found[0]["ratio"]["blas"] if found else None
                        row.append("" if not found else f"fused {ratio:.2f}" if ratio >= 1 else f"blas {1 / ratio:.2f}")
                    rows.append(row)
    return table(["instructions", "type", "work", "H", *(f"B = {B}" for B in batches)], rows)


def each_network(cells):
    """Every cell of the sections that compare with peers."""
    parts = []
    for section, sizes in (("grid", "HB"), ("odd", "HBI"), ("growth", "HBTI")):
        chosen = select(cells, section=section)
        for threads in values(chosen, "threads"):
            for dtype in values(chosen, "dtype"):
                for work in values(chosen, "work"):
                    if found := select(chosen, threads=threads, dtype=dtype, work=work):
                        title = f"### {section}: {WORKS[work]}, {dtype}, threads: {threads}"
                        parts.append(f"{title}\n\n{ratio_table(found, *sizes)}")
    return "\n".join(parts)


def make(results):
    """All tables as one text; what was not measured is left out."""
    about, cells = results["about"], results["cells"]
    of = lambda section: select(cells, section=section)
    versions = ", ".join(f"{name} {version}" for name, version in about.get("versions", {}).items())
    text = [
        f"# Measured on {about['date']}\n\n{about.get('processor', '')}, {about.get('instructions', '')}; {versions}. "
        f"Plan: {about['plan']}. Ratios: how many times as long as pyrnn, geometric mean (least)."
    ]
    if (about.get("load") or 0) > 0.5:
        load = f"The load was {about['load']:.1f} when this began, by other work or a run before"
        text.append(f"**{load}: do not quote it.**")
    peaks = [cell for cell in of("peak") if "fraction" in cell]
    for title, chosen, make_table in (
        ("Against the peers", of("grid"), summary),
        ("Against the peers at odd sizes", of("odd"), summary),
        ("Percent of the multiply-add peak, forward / forward and gradients", peaks, peak_table),
        ("One sequence: bytes of W a second, and the bandwidth of what holds them", of("weights"), weights_table),
        ("Bandwidth of reading", of("bandwidth"), bandwidth_table),
        ("Speedup by threads", of("threads"), threads_table),
        ("One step", of("step"), lambda cells: ratio_table(cells, "dtype", "H")),
        ("tanh", of("tanh"), lambda cells: ratio_table(cells, "dtype", "n")),
        ("The faster engine, and how many times as long the other takes", of("engines"), engines_table),
        ("Each network", cells, each_network),
    ):
        if chosen:
            text.append(f"## {title}\n\n{make_table(chosen)}")
    return "\n\n".join(part.strip() for part in text) + "\n"
