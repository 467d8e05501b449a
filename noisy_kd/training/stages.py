"""A run, top to bottom: data, teacher, logits, student, result."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf
from torch import Tensor, nn

from noisy_kd import runs
from noisy_kd.config import Config
from noisy_kd.data import files
from noisy_kd.data.datamodules import ImageDataModule
from noisy_kd.data.preprocessing import kind_of
from noisy_kd.errors import InputError
from noisy_kd.model import complexity
from noisy_kd.model.network import notation_of
from noisy_kd.runs import TEACHER_LOGITS, Result
from noisy_kd.runs.identity import config_hash, identity, settings_hash
from noisy_kd.training import build, checks, dashboard
from noisy_kd.training.callbacks.logs import close
from noisy_kd.training.logits import predict_logits, stacked_logits
from noisy_kd.training.numerics import Numerics, choose_threads, device_name
from noisy_kd.training.provenance import provenance, versions
from noisy_kd.training.students import Run, TeacherOutputs, TrainedStudent, train_students
from noisy_kd.training.teacher import TeacherTraining, load_checkpoint

log = logging.getLogger(__name__)

NEAR_CHANCE = 0.75  # share of a guess's error, from which a teacher is suspicious
PRECISIONS = {"32": "float32", "bf16": "bfloat16 (mixed)"}


@dataclass(frozen=True)
class Prepared:
    """Runs that are trained side by side, and what they share; nothing is trained yet."""

    runs: list[Run]
    data: ImageDataModule
    numerics: Numerics
    teachers: list[nn.Module]


def run(
    configs: list[Config], directories: list[Path], refresh: Callable[[], None] | None = None
) -> list[Result]:
    """Train one student per configuration and write each one's ``result.json``.

    Args:
        configs: they differ only in method, seed, dropout and optimiser.
        directories: one for each.
        refresh: is called after every epoch in place of a progress bar.

    Returns:
        The results, also of students that diverged.

    Raises:
        InputError: for settings or files that cannot work, before anything is trained.
    """
    began = time.time()
    prepared = prepare(configs)
    data, numerics = prepared.data, prepared.numerics
    log.info("%s", summary(configs[0], data, numerics))
    taught = teacher_outputs(prepared, directories[0] / "teacher")
    sizes = [describe_run(run, prepared) for run in prepared.runs]
    students = train_students(prepared.runs, directories, data, taught, numerics, refresh)

    results = []
    for run, size, directory, student in zip(
        prepared.runs, sizes, directories, students, strict=True
    ):
        z_NC = None if taught is None else run.method.clean_target(taught.test_logits)
        errors = None if z_NC is None else count_errors(z_NC, data.test_images.labels)
        logits = None if student.diverged else predict_logits(student.net, data.test_set())
        result = names(run.config, run.method.is_logit_regression) | size
        result |= outcome(student, data, logits, errors)
        result |= {
            "teacher_val_error": None if taught is None else validation_error(run, data, taught),
            "precision": numerics.precision,
            "device": device_name(numerics.device),
            "stack_size": len(configs),
            "process": os.getpid(),
            "began": began,
            "ended": time.time(),
            "versions": versions(),
            **provenance(),
        }
        save_run(directory, run.config, student, data.preprocessing, z_NC, result)
        try:
            dashboard.add_run(run, student, logits, data, taught, result)
            close(student.loggers)
        except Exception as error:  # whatever draws or writes: it harms no result
            log.warning("The dashboard of this run is not complete: %s", error)
        results.append(result)
    return results


def prepare(configs: list[Config]) -> Prepared:
    """Check, read and build everything before the first stage.

    Raises:
        InputError: for settings or files that cannot work.
    """
    build.quiet_libraries()
    first = configs[0]
    for config in configs:
        checks.check_settings(config)
    numerics = build.numerics(first)
    data = _images(first)
    teachers = build.teachers(first, data)
    prepared = []
    for config in configs:
        run = Run(config, build.method(config), build.student(config, data))
        checks.check_fit(config, data, run.method, run.student, teachers)
        prepared.append(run)
    checks.check_unshared([run.student for run in prepared])
    if first.teacher.checkpoint is not None and prepared[0].method.has_teacher:
        load_checkpoint(teachers[0], first.teacher)
    data.to(numerics.device)
    return Prepared(prepared, data, numerics, teachers)


def set_up_process(prepared: Prepared) -> None:
    """Set what is global in a process, which other runs have perhaps set for themselves."""
    first, shape = prepared.runs[0].config, prepared.data.input_shape
    build.numerics(first)
    nets = [*prepared.teachers, *(run.student for run in prepared.runs)]
    cost = max(complexity.multiplications(net, shape) for net in nets)
    choose_threads(prepared.numerics.device, cost, first.deterministic)


_READ: dict[str, ImageDataModule] = {}


def _images(config: Config) -> ImageDataModule:
    """Return the images of a run, which this process reads once."""
    key = repr((config.data, config.augment, config.store))
    if key not in _READ:
        _READ[key] = build.data_module(config)
    if not len(_READ[key].test_images):
        raise InputError(f"data.root={config.data.root} has no test images: add some.")
    return _READ[key]


def teacher_outputs(prepared: Prepared, logs: Path) -> TeacherOutputs | None:
    """Return the teachers, trained if need be, and their logits; None for a method without one.

    Raises:
        InputError: if a checkpoint does not fit.
        TrainingError: if a teacher's loss is no longer finite.
    """
    set_up_process(prepared)
    first, data, numerics = prepared.runs[0], prepared.data, prepared.numerics
    if not first.method.has_teacher:
        return None
    noise = first.method.teacher_labels
    specs = zip(first.config.teachers, prepared.teachers, strict=True)
    teachers = [
        TeacherTraining(first.config, net, str(spec), data, numerics, noise).trained(logs)
        for spec, net in specs
    ]
    train, test = stacked_logits(teachers, data, Path(first.config.store), first.method)
    if not (train.isfinite().all() and test.isfinite().all()):
        why = "the teacher's logits are not finite: check its weights and teacher.input"
        raise InputError(f"{first.config.teacher_name}: {why}.")
    taught = TeacherOutputs(teachers, train, test)
    error, chance = validation_error(first, data, taught), 1 - 1 / len(data.classes)
    settings = first.config.teacher
    was_trained = settings.checkpoint is not None or settings.max_epochs == 0
    if error is not None and was_trained:
        log.info("Teacher %s: val error %.2f%%.", first.config.teacher_name, 100 * error)
    if error is not None and error > NEAR_CHANCE * chance:
        log.warning(
            "The teacher is wrong on %.1f%% of the validation images, near chance: %s",
            100 * error,
            "does it expect other pixels (teacher.input.mean=..., teacher.input.std=...)?"
            if was_trained
            else "train it longer (teacher.max_epochs).",
        )
    return taught


def validation_error(run: Run, data: ImageDataModule, taught: TeacherOutputs) -> float | None:
    """Return the teacher's error on the validation set; None without one."""
    validation = data.validation_set()
    if not len(validation):
        return None
    z_NTC = taught.train_logits[validation.logit_index().to(taught.train_logits.device)]
    labels = data.images.labels[validation.rows]
    return count_errors(run.method.clean_target(z_NTC).cpu(), labels) / len(validation)


def summary(config: Config, data: ImageDataModule, numerics: Numerics) -> str:
    """Return what is about to be trained, in two lines."""
    noise = ", ".join(f"{k} {config.method[k]:g}" for k in ("alpha", "sigma") if k in config.method)
    method = f"{config.method_name} ({noise})" if noise else config.method_name
    unlabelled = not build.method(config).needs_labels
    count = len(data.training_set(data.subset, unlabelled=unlabelled))
    own = len(data.unlabelled_rows) * unlabelled
    note = f" ({own:,} of them unlabelled)" if own else ""
    precision = PRECISIONS[numerics.precision]
    if data.views.draws:
        note += f" in {data.views.count or 'endless'} views each"
    return (
        f"{config.data.name}: {count:,} training samples{note}, {len(data.val_rows):,} validation "
        f"and {len(data.test_images):,} test images\n"
        f"{method}: {config.teacher_name} -> {config.student_name}, seed {config.seed}, "
        f"{config.trainer.max_epochs} epochs on {numerics.device} in {precision}"
    )


def count_errors(logits_NC: Tensor, labels_N: Tensor) -> int:
    """Return how many samples are classified wrongly by the largest logit, or by none."""
    is_finite = logits_NC.isfinite().all(dim=1)
    if not is_finite.all():
        log.warning("Logits that are not finite, which count as errors: %d.", (~is_finite).sum())
    return int(((logits_NC.argmax(dim=1) != labels_N.cpu()) | ~is_finite).sum())


@rank_zero_only
def save_run(
    directory: Path,
    config: Config,
    student: TrainedStudent,
    preprocessing: nn.Module,
    teacher_logits_NC: Tensor | None,
    result: Result,
) -> None:
    """Write the student and, last, the result; then remove the checkpoint.

    The teacher's logits of the test images stay with the run: evaluated later, or elsewhere, it is
    compared with the teacher that it had.
    """
    files.write_tensors(directory / "student.pt", student.net.cpu().state_dict())
    if teacher_logits_NC is not None:
        files.write_tensors(directory / TEACHER_LOGITS, teacher_logits_NC.clone())
    state = {name: tensor.cpu() for name, tensor in preprocessing.state_dict().items()}
    content = {"kind": kind_of(preprocessing), "state": state}
    files.write_tensors(directory / "preprocessing.pt", content)
    # The run is evaluated and exported from any folder.
    root = config.data.root and os.path.abspath(config.data.root)
    placed = replace(config, data=replace(config.data, root=root))
    text = OmegaConf.to_yaml(OmegaConf.structured(placed))
    files.write_yaml(directory / "config.yaml", text)
    own = [name for name in runs.OWN_FILES if (directory / name).exists()]
    result["digests"] = {name: runs.file_digest(str(directory / name)) for name in own}
    runs.write_result(directory, result)
    (directory / "last.ckpt").unlink(missing_ok=True)


def names(config: Config, is_logit_regression: bool) -> Result:
    """Return the fields of ``result.json`` that say what was run."""
    return {
        "dataset": config.data.name,
        "student": config.student_name,
        "teacher": config.teacher_name,
        "method": "logit_regression" if is_logit_regression else config.method_name,
        "alpha": config.method.get("alpha"),
        "sigma": config.method.get("sigma"),
        "seed": config.seed,
        "dropout": config.student.dropout,
        "subset": config.data.subset,
        "config_hash": config_hash(config),
        "settings_hash": settings_hash(config),
        "settings": identity(config),
    }


def write_failed(config: Config, directory: Path, error: str) -> None:
    """Write a ``result.json`` that says what failed; the run is tried again next time."""
    clean = build.method(config).is_logit_regression
    runs.write_result(directory, names(config, clean) | {"status": "failed", "error": error})


def describe_run(run: Run, prepared: Prepared) -> Result:
    """Return the fields of ``result.json`` about the networks and their cost."""
    shape = prepared.data.input_shape
    cost = complexity.multiplications(run.student, shape)
    teacher_cost = sum(complexity.multiplications(net, shape) for net in prepared.teachers)
    specs = zip(prepared.teachers, run.config.teachers, strict=True)
    return {
        "student_layers": _layers(run.student, run.config.student_name),
        "teacher_layers": " + ".join(_layers(net, str(spec)) for net, spec in specs),
        "input_shape": list(shape),
        "classes": list(prepared.data.classes),
        "images": [prepared.data.digest, prepared.data.test_digest],
        "bits": prepared.data.bits,
        "multiplications": cost,
        "teacher_multiplications": teacher_cost,
        "compression": teacher_cost / max(cost, 1),
        "parameters": complexity.parameters(run.student),
        "teacher_parameters": sum(complexity.parameters(net) for net in prepared.teachers),
    }


def _layers(net: nn.Module, name: str) -> str:
    """Return a network's notation, or its name where it has none."""
    try:
        return notation_of(net)
    except ValueError:
        return name


def outcome(
    student: TrainedStudent,
    data: ImageDataModule,
    logits_NC: Tensor | None,
    teacher_errors: int | None,
) -> Result:
    """Return the fields of ``result.json`` about errors and speed.

    ``logits_NC`` are the student's of the test images, in float32; None if it diverged.
    """
    size = len(data.test_images)
    errors = None if logits_NC is None else count_errors(logits_NC, data.test_images.labels)
    return {
        "status": "diverged" if student.diverged else "done",
        "test_error": None if errors is None else errors / size,
        "test_errors": errors,
        "test_size": size,
        "val_error": student.best.val_error,
        "teacher_test_error": None if teacher_errors is None else teacher_errors / size,
        "teacher_test_errors": teacher_errors,
        "best_epoch": student.best.epoch,
        "epochs": student.epochs,
        "steps": student.steps,
        "seconds": round(student.seconds, 3),
        "samples_per_second": round(student.samples / student.seconds, 1),
    }
