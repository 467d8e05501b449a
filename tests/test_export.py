"""Exported students give the same logits in every form, and classify image files."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from commands import command
from conftest import SHORT
from PIL import Image

import noisy_kd
from noisy_kd.cli.arguments import compose
from noisy_kd.deploy import export as exporting
from noisy_kd.deploy import formats
from noisy_kd.deploy.export import export
from noisy_kd.deploy.formats import ENDINGS
from noisy_kd.deploy.predict import load
from noisy_kd.errors import InputError
from noisy_kd.model.network import network
from noisy_kd.runs import load_preprocessing, load_student, read_result, write_result
from noisy_kd.training.checkpoints import read_checkpoint
from noisy_kd.training.finished import load_data, teacher_test_logits, untrained_teacher
from noisy_kd.training.stages import run


@pytest.fixture(scope="module")
def finished(tmp_path_factory, store):
    directory = tmp_path_factory.mktemp("run")
    overrides = [*SHORT, f"store={store}", "trainer.max_epochs=8", "optimizer.lr=0.01"]
    run([compose(overrides)], [directory])
    return directory


@pytest.mark.parametrize("with_preprocessing", [False, True])
@pytest.mark.parametrize("form", ENDINGS)
def test_every_form_is_the_same_student(form, with_preprocessing, finished, tmp_path):
    file = tmp_path / f"student{ENDINGS[form]}"
    facts = export(finished, form, with_preprocessing, output=file)
    result = read_result(finished)
    assert facts["exported"]["errors"] == facts["original_errors"] == result["test_errors"]
    assert facts["exported"]["largest_difference"] < 1e-4
    assert facts["exported"]["bytes"] == file.stat().st_size
    pixels = load_data(finished).test_images.pixels[:7]
    prepared = load_preprocessing(finished)(pixels)
    x = pixels if with_preprocessing else prepared
    with torch.no_grad():
        model, _ = formats.load(file, ["torch.export"])
        assert torch.allclose(model(x), load_student(finished)(prepared), atol=1e-4)
    card = (tmp_path / f"{file.name}.md").read_text()
    for fact in (
        file.name,
        f"{result['test_errors']} of 360",
        result["student_layers"],
        "CC BY 4.0",
    ):
        assert fact in card
    assert any("teacher, torch, batch 64" in name for name in facts["latency"])


@pytest.mark.parametrize("with_preprocessing", [False, True])
def test_an_exported_student_is_a_teacher(with_preprocessing, finished, tmp_path):
    file = tmp_path / "student.safetensors"
    export(finished, "safetensors", with_preprocessing, output=file)
    student = load_student(finished)
    weights = read_checkpoint(file, network(read_result(finished)["student_layers"], (1, 8, 8)))
    assert all(torch.equal(weights[name], w) for name, w in student.state_dict().items())


def test_a_custom_preprocessing_is_loaded_and_exported(short, tmp_path):
    own = ("data._target_=own_data.Standardised", "data.name=standardised")
    (result,) = run([short(*own)], [tmp_path])
    allow = ["own_data"]
    data = load_data(tmp_path, allow)
    prepared = load_preprocessing(tmp_path, allow)(data.images.pixels[data.train_rows])
    assert abs(prepared.mean()) < 1e-4 and abs(prepared.std() - 1) < 1e-4
    for form in ("onnx", "safetensors"):
        facts = export(tmp_path, form, with_preprocessing=True, allow=allow)
        assert facts["exported"]["errors"] == result["test_errors"]
    with pytest.raises(InputError, match=r"name own_data\.Standardise, .*--allow own_data"):
        export(tmp_path, "safetensors", with_preprocessing=True)


def test_a_preprocessing_that_cannot_be_made_again_is_refused_at_once(short, tmp_path):
    own = ("data._target_=own_data.Forgetful", "data.name=forgetful")
    with pytest.raises(InputError, match="Sequential cannot be made from its buffers"):
        run([short(*own)], [tmp_path])


def test_an_output_that_cannot_be_written_is_refused_at_once(finished, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="choose another --output"):
        export(finished, output=tmp_path / "file" / "student.onnx")


@pytest.mark.parametrize("kind", ["dynamic", pytest.param("static", marks=pytest.mark.slow)])
def test_int8_comes_with_its_error(kind, finished, tmp_path):
    facts = export(finished, "onnx", True, kind, tmp_path / "student.onnx")
    small = facts["int8"]
    assert small["bytes"] < facts["exported"]["bytes"]
    assert abs(small["errors"] - facts["original_errors"]) < 36
    assert 0 < small["largest_difference"] < 20
    export(finished, "safetensors", True, output=tmp_path / "student.safetensors")
    measured = json.loads((finished / "latency.json").read_text())
    assert "student, ONNX Runtime, int8, batch 1" in measured  # also after another form's export
    assert "student-int8.onnx" in (tmp_path / "student.onnx.md").read_text()


def test_int8_is_calibrated_on_images_of_all_classes(finished, tmp_path, monkeypatch):
    """Images in folders lie in the order of their classes."""
    from noisy_kd.deploy import export as exporting

    data, seen = exporting.load_data(finished, ()), []
    data.train_rows = data.train_rows[data.images.labels[data.train_rows].argsort()]
    monkeypatch.setattr(exporting, "load_data", lambda *_: data)
    monkeypatch.setattr(exporting, "quantise", lambda *given: seen.append(given[-1]) or given[1])
    with pytest.raises(InputError):  # nothing was written
        export(finished, "onnx", True, "static", tmp_path / "student.onnx")
    images = data.images.pixels
    rows = [int((images == image).flatten(1).all(1).nonzero()[0]) for image in seen[0]]
    assert len(data.images.labels[rows].unique()) == 10


def test_the_check_sees_a_difference(finished, tmp_path, monkeypatch):
    def shifted(file, allow):
        model, about = formats.load(file, allow)
        return (lambda x: model(x) + 0.5), about

    monkeypatch.setattr(exporting, "load", shifted)
    facts = export(finished, "safetensors", output=tmp_path / "student.safetensors")
    assert facts["exported"]["largest_difference"] == pytest.approx(0.5, abs=1e-4)


def test_a_student_is_exported_though_its_teacher_cannot_be_made(finished, tmp_path, monkeypatch):
    def moved(*_):
        raise InputError("own.make cannot be made: there is no weights.pth")

    monkeypatch.setattr(exporting, "untrained_teacher", moved)
    facts = export(finished, "safetensors", output=tmp_path / "student.safetensors")
    assert facts["exported"]["errors"] == facts["original_errors"]
    assert (tmp_path / "student.safetensors.md").exists()
    assert not any("teacher" in name for name in facts["latency"])


def test_a_student_in_one_line(finished):
    student = noisy_kd.load_student(finished)
    assert isinstance(student, torch.nn.Module)
    assert not student.training


def test_a_finished_run_knows_its_teacher(finished):
    data, result = load_data(finished), read_result(finished)
    teacher = untrained_teacher(finished, data)
    assert sum(p.numel() for p in teacher.parameters()) == result["teacher_parameters"]
    guess = teacher_test_logits(finished).argmax(dim=1)
    assert int((guess != data.test_images.labels).sum()) == result["teacher_test_errors"]


@pytest.fixture
def images(finished, tmp_path):
    data = load_data(finished)
    files = []
    for i in range(5):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(data.test_images.pixels[i, 0].numpy()).save(files[-1])
    return files, data.test_images.pixels[:5]


def test_files_are_classified_by_a_run_and_by_an_exported_file(finished, images, tmp_path):
    files, pixels = images
    exported = [tmp_path / "student.onnx", tmp_path / "student.pt2"]
    for form, file in zip(("onnx", "torch_export"), exported, strict=True):
        export(finished, form, True, output=file)
    guess = load_student(finished)(load_preprocessing(finished)(pixels)).argmax(dim=1).tolist()
    for model in (finished, *exported):
        done = command("predict", model, *files, "--allow", "torch.export")
        assert done.code == 0, done.stderr
        said = [int(line.split(": ")[1].split()[0]) for line in done.stdout.splitlines()]
        assert said == guess
        assert done.stderr == ""


def test_a_folder_is_all_its_images(finished, images, tmp_path):
    files, _ = images
    (tmp_path / "sub").mkdir()
    files[0].rename(tmp_path / "sub" / "0.PNG")
    (tmp_path / "notes.txt").touch()
    done = command("predict", finished, tmp_path)
    assert done.code == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(files)
    (tmp_path / "empty").mkdir()
    done = command("predict", finished, tmp_path / "empty")
    assert (done.code, "empty holds no images" in done.stderr) == (2, True)


def test_a_file_is_not_replaced_by_one_that_takes_other_images(finished, tmp_path):
    file = tmp_path / "student.onnx"
    export(finished, "onnx", True, output=file)
    with pytest.raises(InputError, match=r"student\.onnx exists and takes uint8 images"):
        export(finished, "onnx", output=file)
    export(finished, "onnx", True, output=file)


def test_good_files_are_answered_and_broken_ones_named(finished, images, tmp_path):
    files, _ = images
    broken = tmp_path / "broken.png"
    broken.write_bytes(files[0].read_bytes()[:60])
    slide = tmp_path / "slide.png"
    Image.new("1", (20000, 10000)).save(slide)
    done = command("predict", finished, files[0], broken, slide, files[1])
    assert done.code == 2
    assert [line.partition(": ")[0] for line in done.stdout.splitlines()] == [*map(str, files[:2])]
    assert f"{broken} cannot be read as an image" in done.stderr
    assert f"{slide} cannot be read as an image" in done.stderr
    assert "2 of 4 files" in done.stderr
    alone = command("predict", finished, broken)
    assert alone.code == 2
    assert "1 of 1 files" in alone.stderr
    missing = command("predict", finished, files[0], tmp_path / "a.png", tmp_path / "b.png")
    assert missing.code == 2
    assert f"there is no {tmp_path}/a.png, no {tmp_path}/b.png" in missing.stderr


def test_a_broken_file_has_a_row_and_an_entry_with_its_error(finished, images, tmp_path):
    files, _ = images
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    arguments = ("predict", finished, broken, files[0], "--format")
    entries = json.loads(command(*arguments, "json").stdout)
    rows = list(csv.DictReader(command(*arguments, "csv").stdout.splitlines()))
    assert [entry["file"] for entry in entries] == [row["file"] for row in rows]
    for lines in (entries, rows):
        assert "cannot be read as an image" in lines[0]["error"]
        assert lines[1]["error"] == ""
    assert entries[0]["classes"] == entries[0]["probabilities"] == []
    assert rows[0]["class"] == rows[0]["probability"] == ""


def test_the_most_probable_classes_as_json_and_csv(finished, images):
    files, pixels = images
    p = load_student(finished)(load_preprocessing(finished)(pixels)).softmax(dim=1).topk(3)
    done = command("predict", finished, *files, "--top", "3", "--format", "json")
    answers = json.loads(done.stdout)
    assert [[int(name) for name in answer["classes"]] for answer in answers] == p.indices.tolist()
    assert answers[0]["probabilities"] == pytest.approx(p.values[0].tolist(), rel=1e-5)
    lines = command("predict", finished, *files, "--format", "csv").stdout.splitlines()
    assert lines[0] == "file,class,probability,error"
    assert lines[1].split(",")[:2] == [str(files[0]), str(p.indices[0, 0].item())]


def test_files_stored_in_another_way_are_the_same_image(finished, images, tmp_path):
    """16 bits, turned by EXIF, 8 bits of colour; what is altered is said."""
    files, pixels = images
    plain = command("predict", finished, *files).stdout
    exif = Image.Exif()
    exif[0x0112] = 6
    for image, file in zip(pixels[:, 0].numpy(), files, strict=True):
        Image.fromarray(image.astype(np.uint16) * 257).save(file)
    deep = command("predict", finished, *files)
    assert deep.stdout == plain
    assert "16 bits scaled to 8" in deep.stderr
    for image, file in zip(pixels[:, 0].numpy(), files, strict=True):
        Image.fromarray(image).rotate(90, expand=True).convert("RGB").save(file, exif=exif)
    turned = command("predict", finished, *files)
    assert turned.stdout == plain
    assert "EXIF" in turned.stderr
    Image.new("LA", (28, 20), (0, 0)).save(files[0])
    clear = command("predict", finished, files[0])
    assert "transparency composited on white, scaled and cropped from 28x20 to 8x8" in clear.stderr


def test_what_cannot_be_used_is_refused_in_one_line(finished, tmp_path):
    export(finished, "onnx", False, output=tmp_path / "bare.onnx")
    torch.export.save(
        torch.export.export(torch.nn.ReLU(), (torch.zeros(1),)), tmp_path / "some.pt2"
    )
    with pytest.raises(InputError, match="--with-preprocessing"):
        load(tmp_path / "bare.onnx")
    with pytest.raises(InputError, match="does not name its classes"):
        load(tmp_path / "some.pt2", ["torch.export"])
    with pytest.raises(InputError, match="there is no"):
        load(tmp_path / "none.onnx")


@pytest.mark.parametrize("options", [("--format", "safetensors", "--int8", "static"), ()])
def test_the_export_command_refuses_in_one_line(options, finished, tmp_path):
    done = command("export", finished if options else tmp_path, *options)
    assert (done.code, len(done.stderr.splitlines())) == (2, 1)


def test_the_export_command_says_what_it_has_written(finished, tmp_path):
    file = tmp_path / "student.safetensors"
    done = command("export", finished, "--format", "safetensors", "--output", file)
    assert done.code == 0
    errors = read_result(finished)["test_errors"]
    assert f"{errors} test errors (original {errors})" in done.stdout
    assert f"model card: {file}.md" in done.stdout


@pytest.mark.parametrize("ending", [".onnx", ".pt2", ".safetensors"])
def test_a_damaged_file_is_one_line(ending, tmp_path):
    file = tmp_path / f"student{ending}"
    file.write_bytes(b"damaged")
    with pytest.raises(InputError, match=f"student{ending} cannot be read"):
        load(file, ["torch.export"])


def test_a_file_of_another_form_than_its_name_says_is_refused(finished, tmp_path):
    with pytest.raises(InputError, match=r"a file of torch_export ends in \.pt2"):
        export(finished, "torch_export", output=tmp_path / "student.onnx")


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_a_run_that_did_not_end_well_is_refused(status, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    write_result(tmp_path / "run", {**read_result(finished), "status": status})
    with pytest.raises(InputError, match=f"its training {status}"):
        export(tmp_path / "run")


def test_the_message_of_a_failed_export_has_no_colours(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("\x1b[96m[torch.onnx] no such operator\x1b[0m\nmore")

    monkeypatch.setattr("torch.onnx.export", fails)
    with pytest.raises(InputError, match=r"as onnx: \[torch\.onnx\] no such operator$"):
        formats.write("onnx", torch.nn.ReLU(), torch.zeros(2, 3), tmp_path / "x.onnx", {})
