"""What lies on disk: a run's directory, its identity, the store of teachers and logits."""

from noisy_kd.runs.directory import (
    TEACHER_LOGITS,
    WITHOUT_TEACHER,
    Result,
    baseline_of,
    file_digest,
    finished,
    forget,
    load_preprocessing,
    load_student,
    outcome,
    read_json,
    read_result,
    remove_if_untouched,
    results,
    write_result,
)

__all__ = [
    "TEACHER_LOGITS",
    "WITHOUT_TEACHER",
    "Result",
    "baseline_of",
    "file_digest",
    "finished",
    "forget",
    "load_preprocessing",
    "load_student",
    "outcome",
    "read_json",
    "read_result",
    "remove_if_untouched",
    "results",
    "write_result",
]
