"""From a folder of images and a torchvision ResNet to a checked ONNX file, in five commands.

    python examples/own_images.py ROOT

ROOT holds a folder of images for each class; see docs/your-own-images.md.
"""

import subprocess
import sys
from pathlib import Path

root = sys.argv[1]
data = ["data=folder", f"data.root={root}", "data.size=64"]
nets = ["model@teacher=torchvision", "teacher.name=resnet18", "model@student=folder_student"]
run, image = "runs/own-images", next(Path(root).rglob("*.jpg"))

for command in (
    ["describe", *data, *nets],  # both networks and their cost
    ["train", *data, *nets, "recipe=best", f"hydra.run.dir={run}"],  # teacher, then student
    ["evaluate", run, "--on", "clean,calibration"],
    ["export", run, "--format", "onnx", "--with-preprocessing"],  # ONNX file, checked; model card
    ["predict", f"{run}/student.onnx", str(image), "--top", "3"],
):
    print("$ noisy-kd", *command, flush=True)
    subprocess.run([sys.executable, "-m", "noisy_kd", *command], check=True)
