"""noisy-kd store list|clean: the store of trained teachers and their logits.

`list` prints what is there, how large, made by what. `clean` removes all entries that no running
command uses, without asking: they are computed again when they are needed.
"""

import argparse
import textwrap
from pathlib import Path

from noisy_kd.data.store import clean, differing_keys, entries, in_words
from noisy_kd.errors import InputError


def main() -> None:
    """The command line: ``list`` or ``clean``."""
    parser = argparse.ArgumentParser(prog="noisy-kd store", description=__doc__)
    parser.add_argument("action", choices=["list", "clean"])
    parser.add_argument("--store", type=Path, default=Path(".cache/store"), help="its folder")
    options = parser.parse_args()
    if not options.store.is_dir() and options.store != parser.get_default("store"):
        raise InputError(f"--store {options.store}: no such folder; name that of the store.")
    if options.action == "clean":
        removed, kept = clean(options.store)
        in_use = f"; {kept} are in use, and stay" if kept else ""
        print(f"removed {removed} entries from {options.store}{in_use}")
        return
    listed = entries(options.store)
    settings = differing_keys(
        [{"kind": about.get("kind")} | about["made_by"] for _, about, _ in listed]
    )
    for (path, about, size), own in zip(listed, settings, strict=True):
        first = f"{path.name:24}  {size / 1e6:8.1f} MB  {about['made']}  {about['made_by']['data']}"
        more = [" ".join(str(about["made_by"]["layers"]).split()), own, in_words(about["facts"])]
        print("\n    ".join([first, *(textwrap.shorten(text, 96) for text in more if text)]))
    total = f"{len(listed)} entries, {sum(size for _, _, size in listed) / 1e6:.1f} MB"
    print(f"{options.store}: {total}" if listed else f"{options.store} is empty")
