"""noisy-kd store list|clean: the store of trained teachers and their logits.

noisy-kd store list    what is there, how large, made by what
noisy-kd store clean   remove it all
"""

import argparse
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
        raise InputError(f"there is no folder {options.store}: --store names the store's.")
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
        more = (about["made_by"]["layers"], own, in_words(about["facts"]))
        print("\n    ".join([first, *filter(None, more)]))
    if not listed:
        print(f"{options.store} is empty")
