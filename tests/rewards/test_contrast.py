"""The contrastive loss against a slow oracle, and which pairs count as false negatives."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rewards.contrast import UNSAID, Prototypes, contrastive_loss
from rewards.prompt_attributes import compatible, named_attributes
from rewards.train import attribute_labels, fits_matrix, spoiled
from rewards.words import WordTable, words_of
from world.attributes import draw_attributes
from world.captions import caption, prompt


def _oracle(audio, text, scale, fits):
    """The two cross-entropies written as loops over the pairs that take part."""
    size, total = len(audio), 0.0
    for rows in (True, False):
        for i in range(size):
            partners = [j for j in range(size) if j == i or not (fits[i][j] if rows else fits[j][i])]
            sims = [scale * float(audio[i] @ text[j] if rows else audio[j] @ text[i]) for j in partners]
            own = scale * float(audio[i] @ text[i])
            total += -(own - math.log(sum(math.exp(s) for s in sims))) / size
    return total / 2


def test_loss_equals_the_oracle_with_masked_pairs():
    torch.manual_seed(0)
    audio, text = F.normalize(torch.randn(6, 4), dim=1), F.normalize(torch.randn(6, 4), dim=1)
    fits = torch.rand(6, 6) < 0.3
    loss = contrastive_loss(audio, text, torch.tensor(5.0), fits)
    assert loss.item() == pytest.approx(_oracle(audio, text, 5.0, fits.tolist()), abs=1e-5)


def test_a_masked_pair_has_no_gradient():
    audio = F.normalize(torch.eye(3) + 0.1, dim=1).requires_grad_()
    text = F.normalize(torch.eye(3) + 0.2, dim=1)
    fits = torch.tensor([[True, True, True], [True, True, True], [True, True, True]])
    contrastive_loss(audio, text, torch.tensor(5.0), fits).backward()
    assert audio.grad.abs().max() == 0.0


def test_prototypes_are_a_cross_entropy_per_attribute_that_leaves_out_what_is_unsaid():
    torch.manual_seed(1)
    prototypes, embedded = Prototypes(4, {"tempo": 3, "drums": 2}), F.normalize(torch.randn(3, 4), dim=1)
    labels = {"tempo": torch.tensor([2, UNSAID, 0]), "drums": torch.tensor([UNSAID, 1, UNSAID])}
    total = 0.0
    for name, rows in (("tempo", (0, 2)), ("drums", (1,))):
        classifier = prototypes.classifiers[name]
        for row in rows:
            logits = [
                (10 * embedded[row] @ weight + bias).item()
                for weight, bias in zip(classifier.weight, classifier.bias, strict=True)
            ]
            chance = math.exp(logits[labels[name][row]]) / sum(map(math.exp, logits))
            total -= math.log(chance) / len(rows) / 2
    assert prototypes.loss(embedded, labels).item() == pytest.approx(total, abs=1e-5)
    nothing = {name: torch.full((3,), UNSAID) for name in labels}
    assert prototypes.loss(embedded, nothing).item() == 0.0


def test_attribute_labels_mark_what_is_missing():
    labels = attribute_labels([{"tempo": "fast"}, {"tempo": "slow", "drums": "none"}])
    assert labels["tempo"].tolist() == [2, 0] and labels["drums"].tolist() == [UNSAID, 0]


def test_every_attribute_named_in_a_generated_caption_is_true():
    rng = np.random.default_rng(3)
    named = 0
    for _ in range(500):
        attributes = draw_attributes(rng)
        found = named_attributes(caption(attributes, rng)) | named_attributes(prompt(attributes, rng))
        assert compatible(found, attributes)
        named += len(found)
    assert named > 2500


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at high speed", {"tempo": "fast"}),
        ("a nimble fiddle, no drums", {"lead": "violin", "tempo": "fast", "drums": "none"}),
        (
            "a slow low banjo over held strings",
            {"lead": "banjo", "tempo": "slow", "chords": "strings", "register": "low"},
        ),
        ("neither fast nor slow", {"tempo": "medium"}),
        ("something else entirely", {}),
        ("", {}),
    ],
)
def test_named_attributes(text, expected):
    assert named_attributes(text) == expected


def test_fits_matrix_is_clip_by_caption():
    first = {
        "lead": "banjo",
        "tempo": "slow",
        "drums": "none",
        "chords": "none",
        "register": "low",
        "articulation": "legato",
    }
    second = first | {"tempo": "fast"}
    fits = fits_matrix(["a banjo", "a fast banjo"], [first, second])
    assert fits.tolist() == [[True, False], [True, True]]


def test_words_are_stable_and_unknown_ones_are_hashed():
    table = WordTable.of(["slow banjo tune"], buckets=8)
    assert words_of("Mid-tempo, isn't it?") == ["mid", "tempo", "isn't", "it"]
    assert table.ids("tune slow") == [3, 2]
    assert all(4 <= index < table.size for index in table.ids("zither kazoo"))
    assert table.ids("kazoo") == table.ids("KAZOO!")
    assert table.encode(["slow", ""]).tolist() == [[2], [0]]


def test_spoiling_drops_and_changes_words_but_never_makes_any():
    table = WordTable.of(["a b c d"], buckets=4)
    ids = torch.tensor([[1, 2, 3, 4, 0, 0]]).repeat(500, 1)
    out = spoiled(ids, table, np.random.default_rng(0))
    assert (out[:, 4:] == 0).all()
    assert 0.05 < (out[:, :4] == 0).float().mean() < 0.15
    assert 0.0 < (out[:, :4] > 4).float().mean() < 0.08
