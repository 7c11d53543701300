"""Every published figure beside ours, and every number of the lectures beside what the code computes."""

from convatlas.audit.check import Check, audit
from convatlas.audit.slips import Slip, audit_lectures

__all__ = ["Check", "Slip", "audit", "audit_lectures"]
