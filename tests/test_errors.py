"""Errors keep their codes on every way that they take to the person."""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from torch.utils.data import DataLoader, Dataset

from visionkit.data.loader import batches
from visionkit.data.readers.splits import unknown_split
from visionkit.data.validate import Problem
from visionkit.error_codes import CODES
from visionkit.errors import CheckpointError, CodedLine, ConfigError, DataError, RunError, UserError, told

LOST = Problem("a.jpg", "", "no such file", "restore it", "image-missing")
EMPTY = Problem("b.jpg", "", "the file is empty", "save it again", "image-unreadable")
RARE = Problem("a.json", "", "no example of ant", "add some", "class-absent", warning=True)


def test_the_message_is_what_was_said_and_the_mend_is_that_of_the_code() -> None:
    error = CheckpointError("a: gone", code="checkpoint-missing")
    assert (str(error), error.code, error.codes) == ("a: gone", "checkpoint-missing", ("checkpoint-missing",))
    assert error.mend == CODES["checkpoint-missing"].mend
    assert UserError("a", code="their-own").mend == ""
    assert unknown_split("vall", ["val"], "here").code == "split-unknown"


def test_an_error_for_several_faults_has_the_codes_of_all() -> None:
    one, two = CodedLine("a: unknown", "key-unknown"), CodedLine("b: 0", "value-unfit")
    error = ConfigError.of([one, two, one])
    assert str(error) == "a: unknown\nb: 0"
    assert (error.faults, error.codes, error.code) == ((one, two), ("key-unknown", "value-unfit"), "key-unknown")
    (alone,) = ConfigError("c: 1", code="value-unfit").faults
    assert (alone, alone.code) == ("c: 1", "value-unfit")


def test_an_error_of_data_has_the_codes_of_its_errors() -> None:
    error = DataError("3 problems", [RARE, LOST, EMPTY, LOST])
    assert error.codes == ("image-missing", "image-unreadable")
    assert DataError("gone").codes == ("set-unusable",)


@pytest.mark.parametrize(
    "error",
    [
        DataError("a", [LOST, EMPTY]),
        ConfigError.of([CodedLine("a", "key-unknown"), CodedLine("b", "value-unfit")]),
        RunError("a", code="loader-died"),
    ],
)
def test_pickling_keeps_all(error: UserError | RunError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))
    assert [getattr(line, "code", None) for line in getattr(again, "faults", ())] == [
        line.code for line in getattr(error, "faults", ())
    ]


def failing(code: str) -> None:
    raise DataError("a.jpg: empty", code=code)


def test_an_error_of_another_process_arrives_with_its_code() -> None:
    with ProcessPoolExecutor(1, get_context("fork")) as others, pytest.raises(DataError) as caught:
        others.submit(failing, "image-unreadable").result()
    assert (str(caught.value), caught.value.code) == ("a.jpg: empty", "image-unreadable")


class Failing(Dataset[int]):
    """An item that cannot be read."""

    def __init__(self, error: UserError) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        try:
            raise OSError("deep down")
        except OSError as fault:
            raise type(self.error)(str(self.error), code=self.error.code) from fault


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "error",
    [
        DataError("visionkit.errors: a.jpg: empty", code="image-unreadable"),
        ConfigError("two\nlines", code="augmentation-unfit"),
    ],
)
def test_an_error_of_a_loaders_worker_arrives_as_it_was_said(error: UserError, workers: int) -> None:
    with pytest.raises(type(error)) as caught:
        next(batches(DataLoader(Failing(error), num_workers=workers)))
    assert (str(caught.value), caught.value.code) == (str(error), error.code)


@pytest.mark.parametrize(
    ("text", "message", "code"),
    [
        ("a: gone\n[file-missing]\n", "a: gone", "file-missing"),
        ("a: gone\nb: gone\n[file-missing]", "a: gone\nb: gone", "file-missing"),
        ("a: gone\n", "a: gone", None),
        ("a: gone\n[no-such-code]", "a: gone\n[no-such-code]", None),
    ],
)
def test_printed_errors_are_read(text: str, message: str, code: str | None) -> None:
    assert told(text) == (message, code)
