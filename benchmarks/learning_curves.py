"""How often the verdict and the alarm are right: on a file of labelled learning curves.

    python benchmarks/learning_curves.py short_histories.json overfitguard_histories.json.gz

A file is JSON, plain or gzipped: under "histories" a list of
{"train": [...], "val": [...], "label": 1, "source": "real"}, with the label 1 for overfitting,
0 for none and −1 for a run that is left out.
"""

import argparse
import gzip
import json
import statistics
from pathlib import Path
from typing import Any

from sklearn.metrics import f1_score

from lightning_weightwatch import diagnose
from lightning_weightwatch.losses.stopping import StoppingRules


def main() -> None:
    """Read the files, and print a line for each source of curves in them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    for file in parser.parse_args().files:
        histories = [history for history in read(file) if history["label"] >= 0]
        for source in dict.fromkeys(history["source"] for history in histories):
            of_source = [history for history in histories if history["source"] == source]
            print(f"{file.name}, {source}: {verdicts(of_source)}; {alarms(of_source)}")


def read(file: Path) -> list[dict[str, Any]]:
    """The histories in a file."""
    content = file.read_bytes()
    text = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    histories: list[dict[str, Any]] = json.loads(text)["histories"]
    return histories


def verdicts(histories: list[dict[str, Any]]) -> str:
    """How well `overfitting` agrees with the labels."""
    labels = [history["label"] for history in histories]
    found = [diagnose(history["train"], history["val"]).overfitting for history in histories]
    errors = sum(label != verdict for label, verdict in zip(labels, found, strict=True))
    f1, macro = f1_score(labels, found), f1_score(labels, found, average="macro")
    return f"F1 {f1:.3f}, macro-F1 {macro:.3f}, {errors} of {len(labels)} wrong"


def alarms(histories: list[dict[str, Any]]) -> str:
    """What a run that stops at the first alarm keeps, and how long it goes on after its best."""
    kept, delays = 0, []
    for history in histories:
        rules, val = StoppingRules(), history["val"]
        points = enumerate(zip(history["train"], val, strict=True), start=1)
        rang = (end for end, (train, value) in points if rules.add(train, value).alarm)
        seen = val[: next(rang, len(val))]
        kept += min(seen) == min(val)
        delays.append(len(seen) - 1 - seen.index(min(seen)))
    share, delay = kept / len(histories), statistics.median(delays)
    return f"stopped by the alarm {share:.1%} keep their best, {delay:g} epochs after it (median)"


if __name__ == "__main__":
    main()
