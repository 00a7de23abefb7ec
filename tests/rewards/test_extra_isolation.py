"""A reward in a process of its own, under a real Ray, and the original packages where their environments are.

`MUSICRL_ENVIRONMENTS=DIR` names a folder of environments made by `python -m rewards.environment MODEL DIR/MODEL`
(and DIR/laion_package, any environment with the laion-clap package); what is not there is skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from extra_parts import SENTENCE, environment_of, original, sounds

from cluster.errors import UserError
from rewards.extra.isolation import IsolatedReward
from rewards.port import ClipBatch

pytestmark = pytest.mark.slow
STEADY = "extra_parts:Steady"


@pytest.fixture(scope="module")
def ray_here():
    import ray

    from cluster.session import ray_session

    path = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), path])
    with ray_session():
        yield ray
    os.environ["PYTHONPATH"] = path


def test_it_answers_as_the_model_does_and_outlives_its_errors(ray_here):
    reward = IsolatedReward("steady", STEADY, {"checkpoint": "x", "offset": 1.0}, sys.executable)
    clips = sounds(0.1)
    np.testing.assert_allclose(reward.score(clips), np.abs(clips.pcm).mean((1, 2)) + 1.0)
    assert (reward.version, reward.needs, reward.shift, reward.scale) == ("steady-1", frozenset({"pcm"}), 0.5, 2.0)
    process = reward._actor
    with pytest.raises(ValueError, match="two hertz"):
        reward.score(ClipBatch(("a",), 2, pcm=np.ones((1, 1, 4), np.float32)))
    assert reward._actor is process  # the same process goes on
    assert reward.memory_bytes() > 1e6
    reward.close()


def test_a_call_that_hangs_ends_the_process_and_the_next_call_starts_another(ray_here):
    reward = IsolatedReward("steady", STEADY, {"checkpoint": "x"}, sys.executable, deadline_s=2.0)
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="no answer within 2 s"):
        reward.score(ClipBatch(("a",), 1, pcm=np.ones((1, 1, 4), np.float32)))
    assert time.monotonic() - started < 15
    assert reward.score(sounds(0.1)).shape == (3,)
    reward.close()


def test_a_process_that_dies_is_started_anew(ray_here):
    reward = IsolatedReward("steady", STEADY, {"checkpoint": "x"}, sys.executable)
    ray_here.kill(reward._actor)
    with pytest.raises(ray_here.exceptions.RayActorError):
        reward.score(sounds(0.1))
    assert reward.score(sounds(0.1)).shape == (3,)
    reward.close()


def test_a_model_that_cannot_be_built_is_one_line(ray_here):
    with pytest.raises(UserError, match=r"^RuntimeError: no such model$"):
        IsolatedReward("steady", STEADY, {"checkpoint": "broken"}, sys.executable)


def test_audiobox_answers_as_its_own_predictor(ray_here, tmp_path):
    environment = environment_of("audiobox")
    expected = original("audiobox", environment, tmp_path)
    reward = IsolatedReward(
        "audiobox", "rewards.extra.audiobox:Audiobox", {"checkpoint": str(tmp_path), "axis": "CE+PQ"}, environment, 280
    )
    for samples in (64_000, 208_000):  # one window, and one with a rest of 3 s
        clips = ClipBatch(("a", "b"), 16_000, pcm=expected[f"sound_{samples}"][:, None])
        mean = (expected[f"CE_{samples}"] + expected[f"PQ_{samples}"]) / 2
        np.testing.assert_allclose(reward.score(clips), mean, atol=1e-5)
    reward.close()


def test_muq_mulan_answers_as_its_own_package_with_another_transformers_than_the_core(ray_here, tmp_path):
    environment = environment_of("muq_mulan")
    pytest.importorskip("transformers")
    from extra_parts import write_tokenizer

    write_tokenizer(tmp_path / "tokenizer")
    expected = original("muq", environment, tmp_path)
    arguments = {"checkpoint": str(tmp_path)}
    reward = IsolatedReward("muq_mulan", "rewards.extra.muq_mulan:MuqMulan", arguments, environment, 120)
    for seconds in (4, 13):
        clips = ClipBatch(
            ("slow calm piano", "fast drums and a flute"), 24_000, pcm=expected[f"sound_{seconds}"][:, None]
        )
        np.testing.assert_allclose(reward.embed(clips), expected[f"audio_{seconds}"], atol=1e-6)
        cosines = (expected[f"audio_{seconds}"] * expected["text"]).sum(1)
        np.testing.assert_allclose(reward.score(clips), cosines, atol=1e-6)
    reward.close()
    code = "import transformers; print(transformers.__version__)"
    theirs, ours = (
        subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=120).stdout.strip()
        for python in (f"{environment}/bin/python", sys.executable)
    )
    assert theirs.startswith("4.") and not ours.startswith("4.")


@pytest.mark.parametrize("tower", ["HTSAT-tiny", "HTSAT-base"])
def test_laions_checkpoint_gives_what_laions_own_package_gives(tmp_path, tower):
    environment = environment_of("laion_package")
    pytest.importorskip("transformers")
    from extra_parts import write_tokenizer

    from rewards.extra.laion_clap import LaionClap

    write_tokenizer(tmp_path)
    expected = original("laion", environment, tmp_path, tower)
    clap = LaionClap(str(tmp_path), device="cpu")
    assert SENTENCE.startswith("slow calm piano")
    np.testing.assert_allclose(clap.embed_prompts(["slow calm piano", "fast drums"]), expected["text"], atol=1e-5)
    for seconds in (4, 10):
        clips = ClipBatch(("a", "b"), 48_000, pcm=expected[f"sound_{seconds}"][:, None])
        np.testing.assert_allclose(clap.embed(clips), expected[f"audio_{seconds}"], atol=1e-5)
