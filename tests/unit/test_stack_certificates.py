"""The certificates of a local stack: temporary ones at first, renewed in time, and what happens if not."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from bdlab.certificates import CertificateFiles
from bdlab.errors import StackError
from bdlab.stack import DataFolder, Event, TlsFolder
from bdlab.stack.certificate_renewal import CertificateRenewer, Renewal
from bdlab.stack.tls import SERVERS, temporary_certificates


class Stack:
    """What a renewer works with: `run` writes certificates for `ttl_s` seconds, or fails before or after."""

    def __init__(self, folder: Path) -> None:
        self.files = CertificateFiles(folder)
        self.ttl_s = 0.0
        self.fails = ""
        self.runs = 0
        self.given_up = 0
        self.events: list[Event] = []
        self.renewer = CertificateRenewer(self.run, self.events.append)
        self.renewal = Renewal(name="renewal", files=(self.files,), command=lambda: ["command"], give_up=self.give_up)

    def run(self, name: str, arguments: Sequence[str], stop: threading.Event | None) -> None:
        del stop
        assert (name, list(arguments)) == ("renewal", ["command"])
        self.runs += 1
        if self.fails == "before":
            raise StackError("Vault is away")
        self.files.write(temporary_certificates(["one"], ttl_s=60)["one"], (), ttl_s=self.ttl_s)
        if self.fails == "after":
            raise StackError("the server does not read it")

    def give_up(self) -> None:
        self.given_up += 1


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    made = Stack(tmp_path / "files")
    made.renewer.issue(made.renewal, threading.Event())
    return made


def test_what_is_due_is_renewed_and_what_is_not_stands(stack: Stack) -> None:
    stack.ttl_s = 3600
    stack.renewer.renew_due(threading.Event())
    assert [event.kind for event in stack.events] == ["notice"]
    assert "renewed, good until" in stack.events[0].detail
    stack.renewer.renew_due(threading.Event())
    assert stack.runs == 2


def test_a_renewal_that_fails_is_told_once(stack: Stack) -> None:
    stack.fails = "before"
    for _ in range(2):
        stack.renewer.renew_due(threading.Event())
    assert [event.kind for event in stack.events] == ["failed"]
    assert "not renewed" in stack.events[0].detail
    assert "Vault is away" in stack.events[0].detail
    assert stack.runs == 2, "it is tried again after a pause only"
    assert not stack.given_up


def test_a_server_that_does_not_read_the_new_one_is_given_up(stack: Stack) -> None:
    stack.fails, stack.ttl_s = "after", 3600
    stack.renewer.renew_due(threading.Event())
    assert stack.given_up == 1
    assert "not read by the running server" in stack.events[0].detail


def test_temporary_certificates_are_made_once_and_again_where_they_ran_out(tmp_path: Path) -> None:
    tls = TlsFolder(tmp_path)
    assert tls.prepare()
    first = tls.ca_file.read_text()
    assert not tls.prepare()
    assert not any(tls.files(server).good_for((), authority="another") for server in SERVERS)
    for server in SERVERS:
        assert tls.files(server).server_file.stat().st_mode & 0o077 == 0
    tls.files("postgres").write(temporary_certificates(["p"], ttl_s=60)["p"], (), ttl_s=0)
    assert tls.prepare()
    # Who knows the authority of before goes on knowing it, until there is one that lasts.
    assert tls.ca_file.read_text().startswith(first)
    tls.trust("-----BEGIN CERTIFICATE-----\nlasting\n-----END CERTIFICATE-----")
    assert "lasting" in tls.ca_file.read_text()
    assert first not in tls.ca_file.read_text()


@pytest.mark.parametrize("written", range(len(SERVERS) + 1))
def test_a_start_that_was_killed_between_certificates_and_trust_leaves_a_folder_that_works(
    tmp_path: Path, written: int
) -> None:
    tls = TlsFolder(tmp_path / "tls")
    tls.prepare()
    issued = temporary_certificates(SERVERS, ttl_s=3600)  # Vault's
    for server in SERVERS[:written]:
        tls.files(server).write(issued[server], ["localhost"], ttl_s=3600)
    assert not tls.prepare()
    trusted = tls.ca_file.read_text()
    for server in SERVERS:
        assert tls.files(server).ca_file.read_text().strip() in trusted


def test_a_certificate_that_is_half_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = CertificateFiles(tmp_path)
    first, second = (temporary_certificates(["one"], ttl_s=3600)["one"] for _ in range(2))
    files.write(first, ["one"], ttl_s=3600)
    assert files.good_for(["one"], authority=first.ca_pem)
    replace = Path.replace

    def die_at_the_second(path: Path, target: Path) -> Path:
        if target.name == "ca.pem":
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", die_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        files.write(second, ["one"], ttl_s=3600)
    assert not files.good_for(["one"], authority=first.ca_pem)
    assert files.ends_at == 0


def test_a_folder_keeps_to_how_it_began(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    assert (folder.has_tls(None), folder.has_tls(wanted=True)) == (False, True)
    (tmp_path / "openbao").mkdir()
    with pytest.raises(StackError, match="without TLS"):
        folder.has_tls(wanted=True)
    TlsFolder(folder.tls).prepare()
    assert folder.has_tls(None)
    with pytest.raises(StackError, match="with TLS"):
        folder.has_tls(wanted=False)
