"""The operator's own lists: in files, and so believed to be there, but not before their issuer's signature is."""

from __future__ import annotations

from tlspool_common.messages import Finding
from tlspool_online.chains import Link
from tlspool_online.lists import RevocationList, Told, judge


class Files:
    """All lists from files."""

    def __init__(self) -> None:
        self._all: dict[str, tuple[RevocationList, ...]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._all.values()))

    @property
    def serials(self) -> int:
        """Revoked certificates in all of them."""
        return sum(len(one.revoked) for lists in self._all.values() for one in lists)

    def read(self, path: str, lists: tuple[RevocationList, ...]) -> None:
        """Take what is in a file now."""
        self._all[path] = lists

    def look(self, link: Link, now_s: float) -> Told | None:
        """Return what they say of a certificate: revoked if any says so.  None: nothing is from its issuer.

        A list that is out of date tells nothing (BAD), and a list of the issuer's from elsewhere may do.
        """
        best: Told | None = None
        for path, lists in self._all.items():
            for one in lists:
                if one.issuer != link.issuer.subject:
                    continue
                why = one.refusal(link.issuer, link.issuer_id)
                if why:
                    told: Told = (Finding.BAD, why, 0)
                else:
                    told = judge(one, link.serial, link.is_authority, link.points, now_s)
                told = (told[0], f"{path}: {told[1]}", told[2])
                if told[0] is Finding.REVOKED:
                    return told
                if best is None or told[0] is Finding.GOOD or (best[0] is Finding.NONE and told[0] is Finding.BAD):
                    best = told
        return best
