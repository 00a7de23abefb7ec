"""Settings of the small commands, and how a command ends."""

from dataclasses import dataclass

import pytest

from cluster.errors import RunFailed, UserError
from configs.command_line import exit_status_of, parse_settings
from configs.setting import setting


@dataclass(frozen=True)
class _Settings:
    out: str = "here"
    steps: int = 3
    rate: float = 0.5
    seed: int = 1
    fast: bool = False
    share: float = setting(0.5, "of something", at_least=0, at_most=1)
    way: str = setting("up", "where to", choices=("up", "down"))


def test_words_change_the_named_fields_and_keep_their_types():
    settings = parse_settings(["steps=7", "rate=2", "fast=true", "seed=0", "out=a=b"], _Settings())
    assert settings == _Settings("a=b", 7, 2.0, 0, True)
    assert isinstance(settings.rate, float)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["steps"], "'steps': not understood"),
        (["step=1"], "step: unknown key, did you mean steps?"),
        (["steps=1", "steps=2"], "steps: given twice"),
        (["steps=1.5"], "steps: got '1.5', allowed a whole number"),
        (["steps=0"], "steps: got 0, allowed a finite number above 0"),
        (["rate=nan"], "rate: got nan"),
        (["rate=inf"], "rate: got inf"),
        (["fast=yes"], "fast: got 'yes', allowed true or false"),
        (["share=1.5"], "share: got '1.5', allowed a finite number, at least 0 and at most 1"),
        (["way=left"], "way: got 'left', allowed one of up, down"),
    ],
)
def test_a_bad_word_is_one_line_that_names_the_field(words, said):
    with pytest.raises(UserError, match=r"^.*$") as caught:
        parse_settings(words, _Settings())
    assert said in str(caught.value)


def _raise(error):
    raise error


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("a: got b,\n allowed c"), 2, "error: a: got b, allowed c\n"),
        (RunFailed("the disk is full"), 1, "error: the disk is full\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ],
)
def test_a_failure_is_one_line_and_a_status(error, status, said, capsys):
    assert exit_status_of(lambda: _raise(error), "stopped") == status
    assert capsys.readouterr().err == said


def test_success_is_what_the_work_returns_and_a_defect_keeps_its_traceback():
    assert exit_status_of(lambda: None) == 0 and exit_status_of(lambda: 1) == 1
    with pytest.raises(ZeroDivisionError):
        exit_status_of(lambda: 1 // 0)
