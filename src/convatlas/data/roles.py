"""Which split each sample is in.

`train` is learnt from, `val` chooses (early stopping, best weights, tuning), `test` is looked at once. What the source
gives is respected. Where it does not give a val split, a seeded stratified share of train is val; where it gives no
roles at all, a seeded stratified share of everything is test. Near-duplicates and groups stay together wherever we do
the drawing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convatlas.data.groups import group_names, torn_groups
from convatlas.data.similar import components, equal, near_duplicates
from convatlas.data.sources import SPLITS
from convatlas.data.sources.source import counted, printable
from convatlas.data.splits import draw
from convatlas.data.survey import Survey

TEST_SHARE = {"digits": 0.2}  # of sources without roles; the others give a tenth
_NAMED = 5  # groups that a note names


class Roles:
    """Which split each sample is in, as given, then drawn; `notes` gets a sentence for what was drawn."""

    def __init__(
        self,
        survey: Survey,
        labels: NDArray[np.int64],
        seed: int,
        group_by: str | None,
        notes: list[str],
    ) -> None:
        self.survey, self.labels, self.seed, self.notes = survey, labels, seed, notes
        self.role = np.array([item.split for item in survey.items], dtype="U5")
        self.groups = group_names(survey.source, survey.items, group_by)

    def assign(self, val_share: float, test_share: float | None) -> None:
        """Draw test where there are no roles or it is asked for, then val from train where it is missing."""
        given = [split for split in SPLITS if (self.role == split).any()]
        kind = self.survey.source.kind
        if not given:
            self.role[:] = "train"
        if "test" not in given and (test_share or (test_share is None and not given)):
            share = TEST_SHARE.get(kind, 0.1) if test_share is None else test_share
            self._draw("test", share, keep=2 if val_share and "val" not in given else 1)
        elif "test" in given and test_share:
            self.notes.append("test is as the source gives it; the share that was asked for is not used")
        if "val" not in given and val_share and (self.role == "train").any():
            self._draw("val", val_share, keep=1)
        self._across(given)

    def _draw(self, role: str, share: float, keep: int) -> None:
        rows = np.flatnonzero(self.role == "train")
        whole = "all images" if len(rows) == len(self.role) else "train"
        hashes = [self.survey.hashes[row] for row in rows]
        named = equal([self.groups[row] for row in rows])
        exact = equal(hashes)
        near = near_duplicates(self.survey.thumbs[rows], self.survey.sizes[rows])
        units = components(len(rows), named, exact, near)
        pick = draw(self.labels[rows], units, hashes, share=share, keep=keep, seed=self.seed, role=role)
        if (
            not pick.any() and len(near) and len(rows) > 1
        ):  # one family of pictures: only equal files are kept together
            units = components(len(rows), named, exact)
            pick = draw(self.labels[rows], units, hashes, share=share, keep=keep, seed=self.seed, role=role)
            self.notes.append(
                f"nearly all images look alike, so near-duplicates may lie in both train and {role}"
            )
        self.role[rows[pick]] = role
        self.notes.append(
            f"{role} is a seeded stratified {share * 100:g} % of {whole} ({counted(int(pick.sum()), 'image')})"
        )
        several = int((np.bincount(units) > 1).sum()) if len(units) else 0
        if several:
            what = "groups and near-duplicates" if any(self.groups) else "near-duplicates"
            note = f"{counted(several, 'set')} of {what} {'was' if several == 1 else 'were'} kept together"
            if note not in self.notes:
                self.notes.append(note)
        missing = set(self.labels[rows].tolist()) - set(self.labels[rows[pick]].tolist())
        if missing and share < 1:
            self.notes.append(
                f"{counted(len(missing), 'class has', 'classes have')} too few images to be in {role}"
            )

    def _across(self, given: list[str]) -> None:
        """Say how many images and groups that the source gives to one split are in another as well."""
        torn = torn_groups(self.survey.items, self.groups)
        for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
            if a in given and b in given:
                left = {h for h, role in zip(self.survey.hashes, self.role, strict=True) if role == a}
                both = sum(
                    h in left for h, role in zip(self.survey.hashes, self.role, strict=True) if role == b
                )
                if both:
                    what = counted(both, f"image of {b} is", f"images of {b} are")
                    self.notes.append(f"{what} in {a} as well: its figures are too good")
                astride = [printable(group) for group, where in torn.items() if a in where and b in where]
                if astride:
                    more = f" and {len(astride) - _NAMED} more" if len(astride) > _NAMED else ""
                    self.notes.append(
                        f"{counted(len(astride), 'group stands', 'groups stand')} in both {a} and {b} as given: "
                        f"{', '.join(astride[:_NAMED])}{more}"
                    )
