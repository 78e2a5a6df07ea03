"""The measured processors side by side, in README.md, README.zh.md and benchmarks/README.md.

python benchmarks/compare.py            writes their tables, from what lies in benchmarks/results

A processor is a folder there, named by processor.py, and a column of these tables. The two READMEs
have the ratios to PyTorch beside the wanted ones, for each folder with a lenet.json;
benchmarks/README.md tells when each file was measured.
"""

import json
from collections.abc import Callable
from pathlib import Path

import bench_accuracy
import bench_convolutions
import bench_lenet
import processor
from harness import Spread, find, markdown, ratio

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "benchmarks/results"
START, END = "<!-- benchmarks/compare.py writes this -->", "<!-- up to here -->"
CHANNELS = (16, 32, 64)
CHINESE = {  # what a translation of the ratios replaces, in this order
    "LeNet training, batch 256, all cores, ": "LeNet训练，批量256，全部核，",
    "LeNet inference, batch 256, ": "LeNet推断，批量256，",
    "the same, one core": "同上，一个核",
    "the same, batch 32": "同上，批量32",
    "the same, growth from batch 256 to 8192": "同上，批量从256到8192的增长",
    "against torch.compile, all cores": "对比torch.compile，全部核",
    "wide convolutions, forward and backward, geometric mean": "宽的卷积，前向和反向，几何平均",
    "second core: two against one": "第二个核：两个对一个",
    "peak memory of training LeNet, batch 256, ": "训练LeNet的内存峰值，批量256，",
    "training with 16, 32 and 64 channels, ": "通道数为16、32和64的训练，",
    "to 90 % on Fashion-MNIST, recipe fast90, ": "在Fashion-MNIST上达到90 %，配方fast90，",
    "the same, recipe of examples/09_better_lenet.py": "同上，配方为examples/09_better_lenet.py",
    "one small image, forward and backward, against im2col": "一幅小图像，前向和反向，对比im2col",
    "against PyTorch eager": "对比PyTorch eager",
    "at most the batch, ": "最多为批量本身，",
    "wanted": "目标",
    "): ": ")：",
    " cores": "个核",
    ", held to ": "，限于",
    ", kernels ": "，内核",
    "; measured on ": "；测量于",
    ", ": "，",
    "; ": "；",
    " and ": "和",
    " of ": " / ",
    " to ": "到",
}

Processors = dict[str, dict[str, dict]]


def measured() -> Processors:
    """The results in each folder, by the names of the files."""
    found: Processors = {}
    for path in sorted(RESULTS.glob("*/*.json")):
        found.setdefault(path.parent.name, {})[path.stem] = json.loads(path.read_text())
    return found


def channels(results: dict) -> str | None:
    """The median ratio at each of CHANNELS."""
    ratios = []
    for number in CHANNELS:
        same = {"sweep": "channels", "channels": number}
        ours, eager = (find(results["records"], framework=f, **same) for f in ("minicnn", "torch"))
        ratios.append(ratio(ours, eager))
    return ", ".join(f"{r.median:.2f}" for r in ratios) if all(ratios) else None


def seconds_to_90(results: dict) -> str | None:
    """The ratio, and the seconds of both."""
    seconds = {
        record["framework"]: bench_accuracy.seconds_to(bench_accuracy.curve(record), 0.9)
        for record in results["records"]
    }
    ours, eager = seconds.get("minicnn"), seconds.get("torch")
    return f"{eager / ours:.2f} ({ours:.1f} and {eager:.1f} s)" if ours and eager else None


def small_image(results: dict) -> Spread | None:
    layer, shape = bench_convolutions.CELLS[0]
    cell = {"layer": layer, "shape": list(shape), "backward": True}
    return ratio(*(find(results["records"], framework=f, **cell) for f in ("Conv2D", "im2col")))


OTHERS: tuple[tuple[str, float | None, str, Callable], ...] = (  # row, wanted, file, ratio
    ("training with 16, 32 and 64 channels, against PyTorch eager", 1.1, "scaling", channels),
    ("to 90 % on Fashion-MNIST, recipe fast90, against PyTorch eager", 2, "fast90", seconds_to_90),
    ("the same, recipe of examples/09_better_lenet.py", None, "accuracy", seconds_to_90),
    ("one small image, forward and backward, against im2col", 1, "convolutions", small_image),
)
FILES = ("lenet", *(file for _, _, file, _ in OTHERS))


def ratios(processors: Processors) -> str:
    """The table of README.md, and what its columns are."""
    columns = {name: files for name, files in processors.items() if "lenet" in files}
    required = [bench_lenet.required(files["lenet"]) for files in columns.values()]
    rows = []
    for row in zip(*required):
        name, _, least, aim, _ = row[0]
        rows.append((name, aim or least, *(found for _, found, *_ in row)))
    for name, wanted, file, cell in OTHERS:
        cells = (cell(files[file]) if file in files else None for files in columns.values())
        rows.append((name, wanted, *cells))
    notes = "".join(f"- {note(name, files)}\n" for name, files in columns.items())
    return f"{markdown(('', 'wanted', *columns), rows)}\n{notes}"


def note(name: str, files: dict[str, dict]) -> str:
    """Processor, libraries, dates and commits of a column."""
    environments = [files[file]["environment"] for file in FILES if file in files]
    env = environments[0]
    versions = "; ".join(dict.fromkeys(map(processor.versions, environments)))
    held = f", held to {processor.instructions(env['kernels'])}" if env.get("held") else ""
    days = sorted({e["date"][:10] for e in environments})
    commits = ", ".join(dict.fromkeys(str(e["commit"]) for e in environments))
    return (
        f"[{name}](benchmarks/results/{name}/lenet.md): {env['CPU']}, {env['cores']} cores{held}; "
        f"{versions}; measured on {' to '.join(days[:: len(days) - 1 or 1])}, "
        f"minicnn {commits}"
    )


def chinese(text: str) -> str:
    for english, translated in CHINESE.items():
        text = text.replace(english, translated)
    return text


def dates(processors: Processors) -> str:
    """The table of benchmarks/README.md: date and commit of each file."""

    def cell(name: str, file: str) -> str | None:
        if file not in processors[name]:
            return None
        env = processors[name][file]["environment"]
        return f"[{env['date'][:10]}](results/{name}/{file}.md), {env['commit']}"

    files = sorted({file for own in processors.values() for file in own})
    rows = [(file, *(cell(name, file) for name in processors)) for file in files]
    return markdown(("", *processors), rows)


def pages() -> dict[Path, str]:
    """The text of each page, with the tables as they should be."""
    processors, found = measured(), {}
    for name, table in {
        "README.md": ratios(processors),
        "README.zh.md": chinese(ratios(processors)),
        "benchmarks/README.md": dates(processors),
    }.items():
        path = REPOSITORY / name
        before, rest = path.read_text("utf-8").split(START)
        _, after = rest.split(END)
        found[path] = f"{before}{START}\n\n{table}\n{END}{after}"
    return found


def main() -> None:
    for path, text in pages().items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
