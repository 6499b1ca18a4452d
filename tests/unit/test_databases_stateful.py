"""The databases against a plain model: any operations in any order, history, difference, rollback, reopening."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.fixtures import certs
from tests.fixtures.databases import Databases, localid_set, trust_set
from tlspool_broker import records
from tlspool_broker.entries import CONTENT, Name
from tlspool_broker.history import By
from tlspool_broker.trustdata import Pin, Revocations
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import parse_selector_untrusted, parse_untrusted

KEEP = 12
IDENTITIES = [parse_untrusted(text) for text in ("a.example", "john@b.example")]
SELECTORS = [parse_selector_untrusted(text) for text in (".", "@.org")]
ROLES = st.sampled_from([records.CLIENT, records.SERVER, records.CLIENT | records.SERVER])
EXPRESSIONS = st.sampled_from(["1", "T", "TI&", "TR&"])
PINNED = st.sampled_from([bytes([number]) * 32 for number in (1, 2)])
REMOTES = st.sampled_from(["x.example", "y.example"])

Content = dict[tuple[Name, bytes], tuple[bytes, ...]]


class Machine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="tlspool-test-"))
        self.databases = Databases(self.home, history_keep=KEEP, now_s=lambda: 1000)
        self.states: dict[int, Content] = {1: {}}

    def teardown(self) -> None:
        if hasattr(self, "databases"):
            self.databases.close()
            shutil.rmtree(self.home)

    def content(self) -> Content:
        return self.databases._environment.read(
            lambda view: {(name, key): tuple(values) for name in CONTENT for key, values in view.items(name)}
        )

    def change(self, work) -> None:
        before = self.databases.generation
        try:
            self.databases.change(work, By(7, "test", "me", "because"))
        except PoolError as error:
            assert error.code is Code.LOCALID_UNKNOWN
        self.see(before)

    def see(self, before: int) -> None:
        """A generation was made exactly if something has changed."""
        now = self.content()
        changed = now != self.states[before]
        assert self.databases.generation == before + changed
        self.states[self.databases.generation] = now

    @rule(identity=st.sampled_from(IDENTITIES), roles=ROLES, text=EXPRESSIONS, like_upstream=st.booleans())
    def set_expression(self, identity, roles, text, like_upstream) -> None:
        self.change(
            lambda edit: localid_set(edit, identity, records.VALEXP | roles, [(text, [])], like_upstream=like_upstream)
        )

    @rule(identity=st.sampled_from(IDENTITIES), roles=ROLES, number=st.integers(1, 2))
    def set_credential(self, identity, roles, number) -> None:
        pairs = [(f"pkcs11:object={number}", [certs.leaf().der])]
        self.change(lambda edit: localid_set(edit, identity, records.X509 | roles, pairs))

    @rule(identity=st.sampled_from(IDENTITIES), flags=st.none() | ROLES.map(lambda roles: records.X509 | roles))
    def del_identity(self, identity, flags) -> None:
        self.change(lambda edit: edit.localid_del(identity, flags))

    @rule(selector=st.sampled_from(SELECTORS), some=st.permutations(IDENTITIES), text=st.none() | EXPRESSIONS)
    def set_disclosure(self, selector, some, text) -> None:
        self.change(lambda edit: edit.disclose_set(selector, some, text))

    @rule(selector=st.sampled_from(SELECTORS), one=st.sampled_from(IDENTITIES), first=st.booleans(), move=st.booleans())
    def add_disclosure(self, selector, one, first, move) -> None:
        self.change(lambda edit: edit.disclose_add(selector, one, first=first, move=move))

    @rule(selector=st.sampled_from(SELECTORS))
    def del_disclosure(self, selector) -> None:
        self.change(lambda edit: edit.disclose_del(selector))

    @rule(roles=ROLES, text=EXPRESSIONS)
    def trust(self, roles, text) -> None:
        self.change(lambda edit: trust_set(edit, records.X509 | roles, text, [certs.root().der]))

    @rule(remote=REMOTES, sha256=PINNED, alone=st.booleans())
    def pin(self, remote, sha256, alone) -> None:
        self.change(lambda edit: edit.pin(Pin(sha256, remote=remote), alone=alone))

    @rule(remote=REMOTES, sha256=st.none() | PINNED)
    def unpin(self, remote, sha256) -> None:
        self.change(lambda edit: edit.unpin(remote, sha256))

    @rule(serials=st.frozensets(st.sampled_from([b"\1", b"\2"])))
    def revoke(self, serials) -> None:
        self.change(lambda edit: edit.revoke(certs.root().key_identifier, Revocations(5, 0, serials)))

    @rule(name=st.sampled_from(["", "modern", "fips-like"]))
    def assign(self, name) -> None:
        self.change(lambda edit: edit.policy_set("host", name))

    @rule()
    def two_in_one(self) -> None:
        def work(edit) -> None:
            edit.policy_set("service:smtp", "modern")
            edit.disclose_set(SELECTORS[0], IDENTITIES)  # which may be refused: then neither has happened

        self.change(work)

    @rule(data=st.data())
    def roll_back(self, data) -> None:
        current, oldest = self.databases.generation, self.databases.oldest
        wanted = data.draw(st.integers(max(0, oldest - 2), current))
        try:
            self.databases.rollback(wanted, By(7, "rollback"))
        except PoolError as error:
            assert error.code is Code.GENERATION_UNKNOWN
            assert wanted < oldest
            return
        assert self.content() == self.states[wanted]
        self.see(current)

    @rule()
    def reopen(self) -> None:
        generation = self.databases.generation
        self.databases.close()
        self.databases = Databases(self.home, history_keep=KEEP, now_s=lambda: 1000)
        assert self.databases.generation == generation

    @rule(data=st.data())
    def differ(self, data) -> None:
        known = st.integers(self.databases.oldest, self.databases.generation)
        old, new = data.draw(known), data.draw(known)
        before, after = self.states[old], self.states[new]
        expected = {
            place: (before.get(place, ()), after.get(place, ()))
            for place in before.keys() | after.keys()
            if before.get(place) != after.get(place)
        }
        assert self.databases.diff(old, new) == expected

    @rule(data=st.data())
    def look_back(self, data) -> None:
        generation = data.draw(st.integers(self.databases.oldest, self.databases.generation))
        past = self.databases.at(generation)
        then = self.states[generation]
        assert past.crypto_policy("", "") == b"".join(then.get((Name.POLICY, b"host"), ())).decode()
        pins = {(pin.sha256, pin.remote) for remote in ("x.example", "y.example") for pin in past.pins(remote)}
        assert len(pins) == sum(
            bool(records.flags_untrusted(value) & records.TRUST_PINNED)
            for (name, _), values in then.items()
            if name is Name.TRUST
            for value in values
        )
        assert bool(past.anchors()) == any(
            records.decode_trust_untrusted(value).is_anchor
            for (name, _), values in then.items()
            if name is Name.TRUST
            for value in values
        )

    @invariant()
    def the_history_is_whole(self) -> None:
        if not hasattr(self, "databases"):
            return
        current, oldest = self.databases.generation, self.databases.oldest
        assert current - oldest == min(current - 1, KEEP)
        numbers = [one.generation for one in self.databases.history(oldest + 1, current)]
        assert numbers == list(range(oldest + 1, current + 1))


TestDatabases = Machine.TestCase
TestDatabases.settings = settings(
    max_examples=12, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
