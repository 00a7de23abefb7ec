"""From config to reward models: the built-in ones, a user's own, and every way in which a config can be wrong."""

import numpy as np
import pytest
from reward_parts import make_quality, make_text_adherence

from cluster.errors import UserError
from configs.schema import RewardConfig
from rewards.mixture import mix
from rewards.port import ClipBatch, RewardModel
from rewards.registry import build_rewards, check_rewards, reward_specs

OWN = '''
import numpy as np

class Loud:
    """The least that a reward of one's own needs."""

    def __init__(self, offset=0.0):
        self.offset = offset

    def score(self, clips):
        return clips.log_mel.mean((1, 2)) + self.offset

class Mute:
    pass

class Fails:
    def __init__(self):
        raise RuntimeError("no such\\nsensor")
'''


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_reward_module.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "own_reward_module"


def _clips(b=3):
    return ClipBatch(
        ("slow banjo",) * b, 16_000, np.random.default_rng(0).normal(-7, 1, (b, 64, 100)).astype(np.float32)
    )


def test_built_in_rewards_come_in_the_configs_order_and_fulfil_the_port(tmp_path):
    make_quality(tmp_path / "q")
    make_text_adherence(tmp_path / "t")
    rewards = {
        "quality": RewardConfig(0.5, str(tmp_path / "q")),
        "text_adherence": RewardConfig(1.0, str(tmp_path / "t"), shift=0.25, scale=2.0),
    }
    models = build_rewards(rewards)
    assert [model.name for model in models] == ["quality", "text_adherence"]
    assert all(isinstance(model, RewardModel) for model in models)
    specs = reward_specs(models, rewards)
    assert (specs["text_adherence"].shift, specs["text_adherence"].scale, specs["quality"].weight) == (0.25, 2.0, 0.5)
    reward, _ = mix({model.name: model.score(_clips()) for model in models}, specs)
    assert reward.shape == (3,) and np.isfinite(reward).all()


def test_a_reward_of_ones_own_needs_a_score_and_nothing_else(own_module):
    config = RewardConfig(1.0, target=f"{own_module}:Loud", options={"offset": 100.0})
    (model,) = build_rewards({"loud": config})
    assert isinstance(model, RewardModel)
    assert (model.name, model.needs, model.shift, model.scale) == ("loud", frozenset({"log_mel"}), 0.0, 1.0)
    np.testing.assert_allclose(model.score(_clips()), _clips().log_mel.mean((1, 2)) + 100.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("qualty", RewardConfig(), "did you mean quality"),
        ("brightness", RewardConfig(), "rewards.brightness.target=module:Class"),
        ("quality", RewardConfig(), "rewards.quality.checkpoint"),
        ("quality", RewardConfig(checkpoint="/nowhere"), "existing directory"),
        ("quality", RewardConfig(weight=float("nan"), checkpoint="x"), "rewards.quality.weight: got nan"),
        ("quality", RewardConfig(weight=float("inf"), checkpoint="x"), "rewards.quality.weight: got inf"),
        ("quality", RewardConfig(scale=0.0, checkpoint="x"), "rewards.quality.scale: got 0.0"),
        ("quality", RewardConfig(shift=float("nan"), checkpoint="x"), "rewards.quality.shift: got nan"),
        ("quality", RewardConfig(deadline_s=0.0, checkpoint="x"), "rewards.quality.deadline_s"),
        ("quality", RewardConfig(weight=0.0, checkpoint="x"), "weight 0 for each"),
        ("own", RewardConfig(target="no_colon"), "allowed module:Class"),
        ("own", RewardConfig(target="no.such.module:Class"), "not importable"),
        ("own", RewardConfig(target="own_reward_module:Lou"), "did you mean Loud"),
        ("own", RewardConfig(target="own_reward_module:Mute"), "without score"),
        ("own", RewardConfig(target="own_reward_module:Fails"), "no such sensor"),
        ("own", RewardConfig(target="own_reward_module:Loud", options={"volume": 3}), "could not be made"),
    ],
)
def test_a_wrong_config_is_one_line_that_names_the_field(own_module, name, config, said):
    with pytest.raises(UserError, match=said) as error:
        build_rewards({name: config})
    assert "\n" not in str(error.value)


def test_no_rewards_at_all_is_refused():
    with pytest.raises(UserError, match="at least one"):
        check_rewards({})
