"""The gradient-masking checks: an honest network passes, broken defences are caught."""

import pytest
from torch import nn

from anchor_utils.masking import CHECKS, gradient_masking_checks
from anchor_utils.outcomes import clean_outcomes, pgd_outcomes

NAMES = list(CHECKS)  # in the order of the table


class Rounds(nn.Module):
    """A broken defence: rounding the input destroys the gradient."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images.mul(8).round() / 8)


class Saturates(Rounds):
    """A broken defence: huge logits saturate the softmax, and the gradient of cross-entropy is zero."""

    def forward(self, images):
        return 1e4 * self.model(images)


def checked(model, data, **arguments):
    data = data.test[:60]
    arguments = {"epsilon": 0.1, "steps": 8, "square_queries": 200, **arguments}
    return gradient_masking_checks(model, data.inputs(), data.labels, **arguments).set_index("check")


def test_honest_network_passes(robust_run, standard_run, small_digits):
    table = checked(robust_run.model(), small_digits, surrogate=standard_run.model(), steps=20, square_queries=50)
    assert table.index.tolist() == NAMES
    assert table["passed"].tolist() == [True] * len(NAMES), table.to_string()
    assert table["evidence"].str.contains("%").all()


@pytest.mark.parametrize(
    ("defence", "caught_by"),
    [
        (Rounds, {2, 3, 4, 5, 6}),  # the margin has no gradient either
        (Saturates, {2, 3, 4, 5, 6, 7}),
    ],
)
@pytest.mark.filterwarnings("ignore::anchor_utils.attacks.VanishedGradientWarning")
def test_broken_defences_look_robust_and_are_caught(standard_run, small_digits, defence, caught_by):
    honest, data = standard_run.model(), small_digits.test[:60]
    broken = defence(honest).eval()
    x, y = data.inputs(), data.labels
    attack = {"epsilon": 0.1, "step_size": 0.0125, "steps": 8}
    clean = clean_outcomes(broken, x, y).float().mean()
    assert clean > 0.85
    assert pgd_outcomes(broken, x, y, **attack).float().mean() >= clean - 0.05  # looks robust
    assert pgd_outcomes(honest, x, y, **attack).float().mean() < clean - 0.3  # and is not
    table = checked(broken, small_digits, surrogate=honest)
    assert {check for check in NAMES if not table["passed"][check]} == {NAMES[i] for i in caught_by}


def test_without_a_surrogate_no_transfer_is_checked(tiny_net, few):
    table = gradient_masking_checks(tiny_net, few[:8].inputs(), few.labels[:8], epsilon=0.1, steps=2, square_queries=5)
    row = table.set_index("check").loc[NAMES[4]]
    assert row["passed"] is None
    assert "no surrogate" in row["evidence"]


def test_checks_need_an_epsilon(tiny_net, few):
    with pytest.raises(ValueError, match=r"epsilon=0: allowed is a radius above 0"):
        gradient_masking_checks(tiny_net, few.inputs(), few.labels, epsilon=0)
