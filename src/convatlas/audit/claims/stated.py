"""Claims that no code can check, and why: errors of trainings, history, words."""

from __future__ import annotations

import re

from convatlas.audit.claims.rules import Stated
from convatlas.audit.lectures import Claim

TRAINING = Stated("needs the training")
HISTORY = Stated("a historical fact")
WORDS = Stated("a statement in words")
SETTING = Stated("a setting of the training, a choice that nothing else fixes")
EXPERIMENT = Stated("an experiment's layout: the number is chosen, not measured")
CLOCK = Stated("seconds and memory of machines of the time")
SLIDE = Stated("counts what a slide shows")

# The first pattern that a claim's "entry: what [unit]" contains gives its reason.
REASONS: tuple[tuple[str, Stated], ...] = (
    (r"(?i)\[year\]|year\b.*\[|mention|\[pages?\]|\[link\]|\[paper\]|ILSVRC-17|competitions|previous deepest", HISTORY),
    (r"(?i)training time|GPU memory|GTX|speed|faster|\[s per image\]|LSTM|k80|duration", CLOCK),
    (r"(?i)percent|error|accuracy|top-1|top-5|top1|%|misclassification|C10|C100|SVHN", TRAINING),
    (r"(?i)\[(statements?|names?|list|rule|change|layout|definition|text|example|example map|configs|figure)\b", WORDS),
    (r"(?i)\[(formula|row labels|product|products|shape|table|to test)", WORDS),
    (
        r"(?i)^(aug-|recipe-|losses|label-smoothing|early-stopping|weight-decay|sgd-momentum|dropout"
        r"|cifar100-case-study|zfnet|input-norm)",
        SETTING,
    ),
    (r"(?i)^weight-init-experiments|^init-|\[hyperparameters\]", EXPERIMENT),
    (r"(?i)images\]|samples\]|dataset|data set", Stated("a fact about a data set")),
    (r"(?i)^(rcnn|selective-search|fast-rcnn|faster-rcnn)", Stated("a setting of the detector")),
    (r"(?i)^(squeezenet)", Stated("the size of a compressed file: needs the training and the compression")),
    (r"^vgg16-memory-ledger", Stated("a rule of thumb")),
    (r"^(resnext|senet|embedding-views)", WORDS),
    (r"^(complexity-comparison)", HISTORY),
    (r"^top-patches", SLIDE),
    (r"(?i)\[(count|counts|figure numbers|calls|panels|steps)", SLIDE),
)  # fmt: skip


def reason(claim: Claim) -> Stated | None:
    """Why this claim cannot be computed, by what it speaks of; None if nothing says so."""
    text = f"{claim.entry}: {claim.what} [{claim.unit}]"
    return next((why for pattern, why in REASONS if re.search(pattern, text)), None)
